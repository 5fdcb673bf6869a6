"""When to leave an AI service alone that does not answer, and when to try it again."""


class Breaker:
    """Opens at several failures in a row; then one call at a time finds out if it is back.

    Times are of the monotonic clock. The longest pause keeps recovery to the next few seconds.
    """

    def __init__(
        self, failures: int = 5, first_pause_s: float = 0.5, longest_pause_s: float = 2
    ) -> None:
        self._limit = failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._failures = 0
        self._pause_s = first_pause_s
        self._until: float | None = None  # open until; None: closed
        self._trying = False

    @property
    def is_open(self) -> bool:
        return self._until is not None

    def allows(self, now: float) -> bool:
        """True while open means: this call is the try, and its result must be told."""
        if self._until is None:
            return True
        if now < self._until or self._trying:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._pause_s = self._first_pause_s
        self._until = None
        self._trying = False

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._failures < self._limit:
            return
        if self._until is not None and self._trying:
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
        self._trying = False
        self._until = now + self._pause_s

    def abandoned(self) -> None:
        """The call ended without a result: whoever comes next is the try."""
        self._trying = False
