"""The observed state of a stream: its transitions, in the words of who installs cameras.

              +----------------- it should run again ----------------+
              v                                                      |
STOPPED -> STARTING -- first frame --> RUNNING -- stop, delete --> STOPPING -> STOPPED
              |  ^                      |   ^
            fails | new epoch,        lost  | first frame
              |   | new connection      v   |
              +---+-----------------> ERROR, waiting for the next attempt, or for room (CAPACITY)

All there are (why: TRANSITIONS):

STOPPED  --> STARTING, ERROR
STARTING --> RUNNING, ERROR, STOPPING, STOPPED
RUNNING  --> STARTING, ERROR, STOPPING, STOPPED
STOPPING --> STARTING, ERROR, STOPPED
ERROR    --> STARTING, RUNNING, STOPPING, STOPPED

RUNNING stays RUNNING while frames can't be stored, with the reason BROKER_DOWN. A clip that is over
is STOPPED with the reason ENDED. A hand-over is told as STOPPED without a reason, while the stream
should run: its next owner begins with STARTING, in a higher epoch. A status that finds no room is
not said later once there is a newer one, so a reader may miss a step.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from msgspec import structs

from schemas.messages import Reason, Status, StreamStatus, with_fraction

AUTH_CAP_S = 300.0  # cameras lock accounts after a few wrong passwords
USUAL_CAP_S = 60.0
PUBLISH_ATTEMPTS_EVERY_S = 10.0


@dataclass(frozen=True)
class State:
    """Since when a stream is how, and why."""

    status: Status
    since: datetime
    reason: Reason | None = None
    message: str | None = None
    hint: str | None = None
    attempt: int = 0
    next_retry_at: datetime | None = None


TRANSITIONS: dict[tuple[Status, Status], str] = {
    (Status.STOPPED, Status.STARTING): "it should run, and an owner has it",
    (Status.STOPPED, Status.ERROR): "it should run, and can't be tried, or failed at once",
    (Status.STARTING, Status.RUNNING): "the first frame of this epoch has its number",
    (Status.STARTING, Status.ERROR): "the attempt failed",
    (Status.STARTING, Status.STOPPING): "stopped or deleted; its camera is let go",
    (Status.STARTING, Status.STOPPED): "stopped or deleted before a camera was asked; handed over; "
    "a clip that was over before its first frame",
    (Status.RUNNING, Status.STARTING): "a change that needs a new connection, or a new epoch",
    (Status.RUNNING, Status.ERROR): "the camera is lost",
    (Status.RUNNING, Status.STOPPING): "stopped or deleted; its camera is let go",
    (Status.RUNNING, Status.STOPPED): "the clip is over; handed over; "
    "stopped in the moment in which its camera was lost",
    (Status.STOPPING, Status.STARTING): "it should run again",
    (Status.STOPPING, Status.ERROR): "it should run again, and failed at once",
    (Status.STOPPING, Status.STOPPED): "its camera is gone",
    (Status.ERROR, Status.STARTING): "a change that needs a new connection, or a new epoch",
    (Status.ERROR, Status.RUNNING): "a later attempt brought a frame",
    (Status.ERROR, Status.STOPPING): "stopped or deleted during an attempt",
    (Status.ERROR, Status.STOPPED): "stopped or deleted between attempts; handed over; "
    "a clip that was over before its first frame",
}
"""What is not here does not happen; a status may also stay, with another reason."""

_OF_RUNNING = frozenset({Reason.BROKER_DOWN})
_OF_STOPPED = frozenset({Reason.ENDED})
REASONS: dict[Status, frozenset[Reason]] = {
    Status.STOPPED: _OF_STOPPED,
    Status.STARTING: frozenset(),
    Status.RUNNING: _OF_RUNNING,
    Status.STOPPING: frozenset(),
    Status.ERROR: frozenset(Reason) - _OF_RUNNING - _OF_STOPPED,
}
"""Which a status may have. ERROR has always one, the others may have none."""

TEXTS: dict[Reason, tuple[str, str]] = {
    Reason.AUTH_FAILED: (
        "The camera refused the user name or password",
        "Check user name and password on the camera's own page, then save them here again. "
        "Some cameras have a separate account for RTSP or ONVIF, or lock it after wrong tries.",
    ),
    Reason.NOT_FOUND: (
        "There is nothing at this path",
        "Check the part of the address after the host: the camera's manual names its RTSP path. "
        "A file must lie in the media folder.",
    ),
    Reason.UNREACHABLE: (
        "The camera can't be reached",
        "Check that it has power and network, that host and port are right, and that RTSP is "
        "switched on in the camera.",
    ),
    Reason.TIMEOUT: (
        "The camera accepts the connection and does not answer",
        "Restart the camera. If it stays so, check firewalls, and how many viewers it allows.",
    ),
    Reason.STALLED: (
        "The camera stopped sending pictures",
        "Check its network for loss, and how many viewers it allows; restart it if it stays so.",
    ),
    Reason.TLS: (
        "The camera's certificate can't be trusted, or it speaks no TLS",
        "Give the camera a certificate for the name in its address, from an authority that the "
        "ingestors trust (SSL_CERT_FILE), or use its rtsp:// address in a network that you trust.",
    ),
    Reason.CODEC_UNSUPPORTED: (
        "The camera's video can't be decoded",
        "Set its video encoding to H.264, H.265 or MJPEG.",
    ),
    Reason.NO_VIDEO: (
        "There is no video at this address",
        "Check the path: this one carries only sound, or is no RTSP camera.",
    ),
    Reason.SOURCE_FORBIDDEN: (
        "This installation does not allow this address",
        "Use rtsp://HOST/PATH or file:NAME. In which networks cameras may be is set by its "
        "operator: SIGHTLOG_SOURCE_NETWORKS_ALLOWED.",
    ),
    Reason.ENDED: (
        "The clip is over",
        "Start the stream again to replay it, or add ?loop=1 to repeat it.",
    ),
    Reason.DECODE_ERRORS: (
        "The pictures that arrive are damaged",
        "Check the network for loss, and the camera's bit rate.",
    ),
    Reason.DECODER_CRASHED: (
        "The process that decoded this camera ended unexpectedly",
        "It is restarted by itself. If it was memory, set a smaller picture in the camera or raise "
        "INGESTOR_CAMERA_MEMORY_BYTES; else, if it goes on, note its model and report it.",
    ),
    Reason.BROKER_DOWN: (
        "Frames can't be stored: Kafka does not answer",
        "The camera is fine and capture goes on. Check the Kafka brokers.",
    ),
    Reason.CAPACITY: (
        "The machine this stream belongs to is full",
        "Start another ingestor, or raise INGESTOR_CAPACITY.",
    ),
}


def starting(now: datetime) -> State:
    return State(Status.STARTING, now)


def running(now: datetime) -> State:
    return State(Status.RUNNING, now)


def broker_down(now: datetime) -> State:
    """Capture goes on; what does not fit into the queue is lost and counted."""
    return _told(State(Status.RUNNING, now), Reason.BROKER_DOWN)


def full(now: datetime) -> State:
    """It begins by itself once another stream leaves: no attempt was made, none is due."""
    return _told(State(Status.ERROR, now), Reason.CAPACITY)


def stopping(now: datetime) -> State:
    return State(Status.STOPPING, now)


def stopped(now: datetime) -> State:
    return State(Status.STOPPED, now)


def handed_over(now: datetime) -> State:
    """Nobody runs it at this moment; whoever owns its slot next will."""
    return State(
        Status.STOPPED,
        now,
        message="Handed over: this ingestor stops",
        hint="Another ingestor takes the stream within seconds, if one is running.",
    )


def as_said(status: StreamStatus) -> State:
    """What an owner before us said of it."""
    return State(
        status.status,
        status.since,
        reason=status.reason,
        message=status.message,
        hint=status.hint,
        attempt=status.attempt,
        next_retry_at=status.next_retry_at,
    )


def ended(now: datetime) -> State:
    return _told(State(Status.STOPPED, now), Reason.ENDED)


@dataclass(frozen=True)
class Attempt:
    """The n-th that failed in a row, when, and how long until the next."""

    number: int
    at: datetime
    wait_s: float


def failed(before: State, reason: Reason, detail: str | None, attempt: Attempt) -> State:
    """`since` is when it began to fail for this reason, not the last attempt."""
    goes_on = (before.status, before.reason) == (Status.ERROR, reason)
    state = State(
        Status.ERROR,
        before.since if goes_on else attempt.at,
        attempt=attempt.number,
        next_retry_at=with_fraction(attempt.at + timedelta(seconds=attempt.wait_s)),
    )
    return _told(state, reason, detail)


def _told(state: State, reason: Reason, detail: str | None = None) -> State:
    message, hint = TEXTS[reason]
    return replace(
        state, reason=reason, message=f"{message} ({detail})" if detail else message, hint=hint
    )


def retry_wait_s(reason: Reason, attempt: int, base_s: float, cap_s: float, chance: float) -> float:
    """Exponential from `base_s`, full jitter (`chance` is uniform in 0..1), at most `cap_s`.

    A crashed decoder is started again at once, the first time. A wrong password is tried at half
    to full of five minutes; of `cap_s`, where that was set lower than usual.
    """
    if reason is Reason.AUTH_FAILED:
        cap_s = AUTH_CAP_S if cap_s >= USUAL_CAP_S else cap_s
        return cap_s * (0.5 + chance / 2)
    if reason is Reason.DECODER_CRASHED and attempt == 1:
        return 0.0
    return chance * min(cap_s, base_s * 2.0 ** min(attempt - 1, 32))


def is_news(said: StreamStatus | None, status: StreamStatus, since_said_s: float) -> bool:
    """Whether it must be published: each change at once, mere attempts every 10 s at most, and
    never just to forget an event that is over."""
    if said is None or _news(said) != _news(status):
        return True
    return _without_past(said) != _without_past(status) and since_said_s >= PUBLISH_ATTEMPTS_EVERY_S


def _news(status: StreamStatus) -> StreamStatus:
    return structs.replace(_without_past(status), attempt=0, next_retry_at=None)


def _without_past(status: StreamStatus) -> StreamStatus:
    is_past = status.down is not None and status.down.ended_at is not None
    return structs.replace(status, down=None) if is_past else status
