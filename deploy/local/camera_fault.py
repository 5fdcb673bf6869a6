"""What can be wrong with a camera, on demand: `NAME blackhole|reset|halfopen|garbage|...`."""

from collections.abc import Callable

from msgspec import Struct

HALF_OPEN_AFTER_S = 2.0
WRAP_AFTER_S = 3.0


class Fault(Struct, frozen=True):
    """One fault; each field is the fault's effect, so that the server asks for no kind.

    `is_silent`: connections are accepted and never answered, playing ones freeze until it ends.
    `is_reset`: every connection ends in a TCP reset.
    `dies_after_s`: playing readers get nothing from then on, for ever, and no end either.
    `is_garbled`: RTP headers stay, payloads are noise.
    `location`: every request is answered by a redirect there.
    `clock_shift_s`: how far sender reports are off the wall clock.
    `jump_s`: how far RTP timestamps are ahead of where they would be.
    `wraps_after_s`: until RTP timestamps pass 2**32 and begin again at 0.
    """

    is_silent: bool = False
    is_reset: bool = False
    dies_after_s: float | None = None
    is_garbled: bool = False
    location: str = ""
    clock_shift_s: float = 0.0
    jump_s: float = 0.0
    wraps_after_s: float | None = None


NO_FAULT = Fault()
PLAIN = {
    "none": NO_FAULT,
    "blackhole": Fault(is_silent=True),
    "reset": Fault(is_reset=True),
    "halfopen": Fault(dies_after_s=HALF_OPEN_AFTER_S),
    "garbage": Fault(is_garbled=True),
    "wrap": Fault(wraps_after_s=WRAP_AFTER_S),
}


def parse_fault(text: str) -> Fault:
    """Raises ValueError, which says what was expected."""
    kind, equals, value = text.partition("=")
    if not equals and kind in PLAIN:
        return PLAIN[kind]
    if equals and kind in WITH_VALUE:
        return WITH_VALUE[kind](value)
    values = "redirect=URL|clock=SECONDS|jump=SECONDS"
    raise ValueError(f"fault: expected {'|'.join(PLAIN)}|{values}")


def _redirect(location: str) -> Fault:
    if not location.startswith(("rtsp://", "rtsps://")) or not location.isprintable():
        raise ValueError("fault: expected redirect=rtsp://...")
    return Fault(location=location)


def _clock(seconds: str) -> Fault:
    return Fault(clock_shift_s=_seconds("clock", seconds))


def _jump(seconds: str) -> Fault:
    return Fault(jump_s=_seconds("jump", seconds))


def _seconds(kind: str, text: str) -> float:
    try:
        return float(int(text))
    except ValueError as error:
        raise ValueError(f"fault: expected {kind}=SECONDS, for example {kind}=+3600") from error


WITH_VALUE: dict[str, Callable[[str], Fault]] = {
    "redirect": _redirect,
    "clock": _clock,
    "jump": _jump,
}
