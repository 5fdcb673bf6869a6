"""Who owns a stream: proof of membership, and the epoch that fences everyone before."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

ASK_AGAIN_S = 0.5  # after a refusal
ANSWER_WITHIN_S = 15.0  # else it is asked again
PROOF_LASTS_S = 2.0  # below any session: whoever sleeps longer may have been replaced meanwhile


def next_epoch(highest_known: int, asked_at_ms: int) -> int:
    """Above every epoch known, and above what a forgotten one can have been.

    The time is when the proof was asked for: whoever owns the stream after us asks later than the
    coordinator's yes to us, so that its epoch is higher, however long we sleep before we speak.
    """
    return max(highest_known + 1, asked_at_ms)


@dataclass(frozen=True)
class Question:
    """Whether these partitions are ours."""

    number: int
    partitions: frozenset[int]
    asked_at_s: float  # monotonic
    asked_at_ms: int  # Unix


class Membership:
    """Whether the group's coordinator still counts us in.

    An offset commit is the question: it is refused to a member that slept through its session. Only
    the answer to the newest question counts, for the partitions asked for, while it is fresh, and
    only once the consumer's callbacks that were due have been served: one of them may be that a
    partition is lost.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` must count the time for which a process is stopped."""
        self._clock = clock
        self._question = Question(0, frozenset(), 0.0, 0)
        self._is_awaited = self._is_accepted = False
        self._not_before_s = 0.0

    def may_ask(self) -> bool:
        """Not while an answer is awaited, and not right after a refusal."""
        now_s = self._clock()
        if self._is_awaited:
            return now_s - self._question.asked_at_s > ANSWER_WITHIN_S
        return not self._is_accepted and now_s >= self._not_before_s

    def ask(self, partitions: frozenset[int]) -> int:
        """The question's number; the commit that carries it is on its way."""
        number = self._question.number + 1
        self._question = Question(number, partitions, self._clock(), time.time_ns() // 1_000_000)
        self._is_awaited, self._is_accepted = True, False
        return number

    def answer(self, number: int, accepted: bool) -> None:
        """What the coordinator said; called from within the consumer's poll."""
        if self._is_awaited and number == self._question.number:
            self._is_awaited, self._is_accepted = False, accepted
            self._not_before_s = self._clock() + (0.0 if accepted else ASK_AGAIN_S)

    def take_proof(self) -> Question | None:
        """What was answered with yes, once; to be called after a poll that followed the answer's.

        Between question and answer we, or the way to us, may have stood still for longer than the
        session. The age of the question bounds that of the answer, too.
        """
        if not self._is_accepted:
            return None
        self._is_accepted = False
        age_s = self._clock() - self._question.asked_at_s
        if age_s > PROOF_LASTS_S:
            log.warning("proof.expired", age_s=round(age_s, 1))
            return None
        return self._question
