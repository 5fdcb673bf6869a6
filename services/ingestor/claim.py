"""Who owns a stream: proof of membership, and the epoch that fences everyone before."""

import time

ASK_AGAIN_S = 0.5  # after a refusal
ANSWER_WITHIN_S = 15.0  # else it is asked again


def next_epoch(highest_known: int, now_ms: int) -> int:
    """Above every epoch known, and above what a forgotten one can have been."""
    return max(highest_known + 1, now_ms)


class Membership:
    """Whether the group's coordinator still counts us in.

    An offset commit is the question: it is refused to a member that slept through its session. An
    answer counts for the partitions asked for, and only once the consumer's callbacks that were
    due have been served: one of them may be that a partition is lost.
    """

    def __init__(self) -> None:
        self._asked_for: frozenset[int] = frozenset()
        self._asked_at_s: float | None = None
        self._not_before_s = 0.0
        self._is_accepted = False

    def may_ask(self) -> bool:
        """Not while an answer is awaited, and not right after a refusal."""
        now_s = time.monotonic()
        if self._asked_at_s is not None:
            return now_s - self._asked_at_s > ANSWER_WITHIN_S
        return not self._is_accepted and now_s >= self._not_before_s

    def ask(self, partitions: frozenset[int]) -> None:
        """The commit for these is on its way."""
        self._asked_for, self._asked_at_s = partitions, time.monotonic()
        self._is_accepted = False

    def answer(self, accepted: bool) -> None:
        """What the coordinator said; called from within the consumer's poll."""
        if self._asked_at_s is not None:
            self._asked_at_s, self._is_accepted = None, accepted
            self._not_before_s = time.monotonic() + (0.0 if accepted else ASK_AGAIN_S)

    def take_proof(self) -> frozenset[int]:
        """The partitions proven, once; to be called after a poll that followed the answer's."""
        if not self._is_accepted:
            return frozenset()
        self._is_accepted = False
        return self._asked_for
