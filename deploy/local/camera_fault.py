"""What can be wrong with a camera, on demand: `NAME blackhole|reset|halfopen|garbage|...`."""

from collections.abc import Callable

from msgspec import Struct

HALF_OPEN_AFTER_S = 2.0


class Fault(Struct, frozen=True):
    """One fault; each field is the fault's effect, so that the server asks for no kind.

    `is_silent`: connections are accepted and never answered, playing ones freeze until it ends.
    `is_reset`: every connection ends in a TCP reset.
    `dies_after_s`: playing readers get nothing from then on, for ever, and no end either.
    `is_garbled`: RTP headers stay, payloads are noise.
    `location`: every request is answered by a redirect there.
    `clock_shift_s`: how far sender reports are off the wall clock.
    """

    is_silent: bool = False
    is_reset: bool = False
    dies_after_s: float | None = None
    is_garbled: bool = False
    location: str = ""
    clock_shift_s: float = 0.0


NO_FAULT = Fault()
PLAIN = {
    "none": NO_FAULT,
    "blackhole": Fault(is_silent=True),
    "reset": Fault(is_reset=True),
    "halfopen": Fault(dies_after_s=HALF_OPEN_AFTER_S),
    "garbage": Fault(is_garbled=True),
}


def parse_fault(text: str) -> Fault:
    """Raises ValueError, which says what was expected."""
    kind, equals, value = text.partition("=")
    if not equals and kind in PLAIN:
        return PLAIN[kind]
    if equals and kind in WITH_VALUE:
        return WITH_VALUE[kind](value)
    raise ValueError(f"fault: expected {'|'.join(PLAIN)}|redirect=URL|clock=SECONDS")


def _redirect(location: str) -> Fault:
    if not location.startswith(("rtsp://", "rtsps://")) or not location.isprintable():
        raise ValueError("fault: expected redirect=rtsp://...")
    return Fault(location=location)


def _clock(seconds: str) -> Fault:
    try:
        return Fault(clock_shift_s=float(int(seconds)))
    except ValueError as error:
        raise ValueError("fault: expected clock=SECONDS, for example clock=+3600") from error


WITH_VALUE: dict[str, Callable[[str], Fault]] = {"redirect": _redirect, "clock": _clock}
