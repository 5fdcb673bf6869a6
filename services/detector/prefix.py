"""Which offset of a partition may be committed: never past a frame that is not accounted for."""

from collections import deque
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Ticket:
    """One message of the partition, from its arrival until it is accounted for."""

    offset: int
    accounted: bool = False


class Prefix:
    """The contiguous part of a partition that is accounted for.

    Faust's own bookkeeping is not used: it commits past holes, and it acknowledges the events that
    it skips in a rebalance. Lives as long as the partition is held, once.
    """

    def __init__(self) -> None:
        self.committable: int | None = None
        """The offset to commit, i.e. of the next message to read; None: nothing yet."""
        self._open: deque[Ticket] = deque()
        self._last = -1

    def __len__(self) -> int:
        """Messages begun that the committable offset does not cover."""
        return len(self._open)

    def begin(self, offset: int) -> Ticket:
        """Offsets rise, with gaps where the log has them.

        One that does not rise was sought back to: all that follows it will come again, so what was
        begun before no longer counts.
        """
        if offset <= self._last:
            self._open.clear()
            self.committable = None
        self._last = offset
        ticket = Ticket(offset)
        self._open.append(ticket)
        return ticket

    def account(self, ticket: Ticket) -> None:
        """In any order; harmless for a ticket that no longer counts."""
        ticket.accounted = True
        while self._open and self._open[0].accounted:
            self.committable = self._open.popleft().offset + 1
