"""docs/statuses.md: what is said of streams, in the words of the code that says it."""

from collections.abc import Iterable, Sequence

from schemas.messages import NO_HEARTBEAT, STREAM_DOWN, Reason, Status
from services.ingestor.down import BLIP_S, STEADY_S
from services.ingestor.settings import Settings
from services.ingestor.statuses import (
    AUTH_CAP_S,
    PUBLISH_ATTEMPTS_EVERY_S,
    REASONS,
    TEXTS,
    TRANSITIONS,
)

MEANINGS: dict[Status, str] = {
    Status.STOPPED: "Nothing runs: it was stopped, its clip is over, or it is being handed over.",
    Status.STARTING: "It is being connected to; no frame yet.",
    Status.RUNNING: "Frames come.",
    Status.STOPPING: "It was stopped or deleted, and its camera is being let go.",
    Status.ERROR: "It should run and does not. The reason says why; it is tried again for ever.",
}
BASE_S, CAP_S = (Settings.model_fields[name].default for name in ("retry_base_s", "retry_cap_s"))
USUALLY = "as usual"
RETRIES: dict[Reason, str] = {
    Reason.AUTH_FAILED: f"after {AUTH_CAP_S / 120:g} to {AUTH_CAP_S / 60:g} min each time, "
    "lest the camera lock the account",
    Reason.DECODER_CRASHED: f"at once the first time, then {USUALLY}",
    Reason.CAPACITY: "as soon as there is room",
    Reason.ENDED: "not: it is over until it is started again",
    Reason.BROKER_DOWN: "not needed: the camera goes on",
}


def markdown() -> str:
    """The whole file."""
    parts = (_statuses(), _transitions(), _reasons(), _down())
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _statuses() -> str:
    said = [(f"`{status}`", meaning, _listed(REASONS[status])) for status, meaning in _meanings()]
    return f"""
# What is said of a stream

Its owner, an ingestor, says a stream's status on `stream-status.v1`: each change at once, further
attempts every {PUBLISH_ATTEMPTS_EVERY_S:g} s at most. REST and WebSocket show it as it is there.
(This file is made from the code by `make docs`.)

{_table(("status", "meaning", "its reasons"), said)}

`since` is when it began to be so, for this reason. `attempt` counts the failures in a row and
`nextRetryAt` says when it is tried again. `observedGeneration` is the change of the stream that its
owner acts on; `epoch` rises whenever another owner, or the same one anew, speaks for the stream."""


def _meanings() -> list[tuple[Status, str]]:
    return [(status, MEANINGS[status]) for status in Status]


def _listed(reasons: Iterable[Reason]) -> str:
    if len(listed := sorted(reasons)) > 3:
        return "one of those below, always"
    return ", ".join(f"none or `{reason}`" for reason in listed) or "none"


def _transitions() -> str:
    rows = [(f"`{before}`", f"`{after}`", why) for (before, after), why in TRANSITIONS.items()]
    return f"""
## Transitions

{_table(("from", "to", "when"), rows)}

No others happen. A status that found no room while Kafka was away is not said later where a newer
one took its place, so a reader may miss a step."""


def _reasons() -> str:
    rows = [
        (f"`{reason}`", f"{message}.", hint, RETRIES.get(reason, USUALLY))
        for reason, (message, hint) in TEXTS.items()
    ]
    return f"""
## Reasons

{_table(("reason", "message", "hint", "tried again"), rows)}

Usually the next attempt comes after a random part of {BASE_S:g} s, of twice as long each further
time, of {CAP_S:g} s at most (`INGESTOR_RETRY_BASE_S`, `INGESTOR_RETRY_CAP_S`), and that for ever.
The message may end with a detail in brackets."""


def _down() -> str:
    return f"""
## The event `{STREAM_DOWN}`

A stream that should run and does not for {BLIP_S:g} s is down. `events.v1` has one event for it,
and the WebSocket an `event` message: `phase` is `new` at first (`revision` 0), `update` where the
reason changes, and `end` once frames have come again for {STEADY_S:g} s, or the stream is stopped
or deleted. `eventId` stays the same all along, also when another ingestor takes the stream over,
and `startedAt` is the first failure. A camera that comes and goes is down once. With `BROKER_DOWN`
a camera is not down.

Where an owner dies and nobody takes its stream over for half a minute, or nobody begins one that
should run, a gateway tells the event, with the reason `{NO_HEARTBEAT}`; it ends once an owner is
heard again. A stream has one such event at a time. An owner that is up and has nothing to say of a
stream until its next attempt is not silent.

A message may come twice, as everything here: `eventId` and `revision` tell."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
