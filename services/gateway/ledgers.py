"""The books of a stream: what became of every picture, over ranges of `seq` and never of time.

A checkpoint is what the owner had said of its whole epoch at one instant: so many captured,
published, dropped and pending. The broker acknowledges an epoch's frames in the order of their
numbers, so by then exactly the seqs below `published` were published, and from one checkpoint to
another the books close:

* `captured`, `published`, `undetected`, `dropped`: exact, as the owner counted them. What was
  pending at a checkpoint is counted where its fate was decided, behind it; so `pending` is only of
  the newest checkpoint of an epoch.
* `outcomes`: exact as of now, one code a seq, whenever it was answered.
* `unread` and `unanswered` share the frames to be looked at that have no outcome. Records come in
  the order of seq: what is below the highest answered seq of its epoch is never read any more, nor
  what is older than Kafka keeps frames; the rest may yet be answered. Where that border lies
  between two checkpoints, all between them count as unanswered, since a frame that was not to be
  looked at has no outcome either, and only their number up to a checkpoint is known. While the
  persister is behind, old frames whose outcome it has not stored yet seem unread.

What an owner that was killed published after its last heartbeat is in no range; nor are, after a
loss, frames that it counted as lost and that arrived all the same. The topics tell of both.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from sqlalchemy import ColumnElement, Connection, Select, UnaryExpression, func, or_, select

from schemas.messages import Dropped, Outcome, unix_us
from schemas.tables import OUTCOME_CODES, OUTCOMES_PER_BLOCK, ledgers, outcomes
from schemas.topics import FRAMES
from services.gateway.times import Time

MOST_FRAMES = 10_000_000  # of one answer: the newest of what was asked for
MOST_RANGES = 100
BLOCKS_AT_ONCE = 1000
FRAMES_KEPT = timedelta(milliseconds=int(FRAMES.config["retention.ms"]))
CAUSES = [to_camel(cause) for cause in Dropped.__struct_fields__]


@dataclass(frozen=True)
class Span:
    """What was asked for: seqs of an epoch (None: of the newest), or a time; both ends belong to
    it, and None is as far as it goes."""

    epoch: int | None = None
    first: int | None = None
    last: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_of_time(self) -> bool:
        return self.since is not None or self.until is not None


class RangeAnswer(BaseModel):
    """From checkpoint to checkpoint, those around what was asked for."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    epoch: int
    from_seq: int
    to_seq: int | None = Field(description="null: nothing was published in it")
    since: Time | None = Field(alias="from", description="null: the beginning of the epoch")
    until: Time = Field(alias="to")


class LedgerAnswer(BaseModel):
    """`captured` = `published` + `dropped` + `pending`, and `published` = `undetected` + `outcomes`
    + `unread` + `unanswered`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    stream_id: str
    ranges: list[RangeAnswer] = Field(description="that these books are of, newest first")
    captured: int = Field(description="access units that the camera sent")
    published: int
    undetected: int = Field(description="of the published, those that were not to be looked at")
    dropped: dict[str, int] = Field(description="by cause")
    pending: int = Field(description="captured, and neither published nor dropped yet")
    outcomes: dict[Outcome, int]
    unread: int = Field(description="without an outcome, which will not come any more")
    unanswered: int = Field(description="without an outcome, which may yet come")
    balances: bool


@dataclass(frozen=True)
class Checkpoint:
    """Totals since the epoch began, which is one itself."""

    at: datetime | None = None
    captured: int = 0
    published: int = 0
    undetected: int = 0
    pending: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


BEGIN = Checkpoint()


@dataclass(frozen=True)
class Books:
    """Of one range."""

    range: RangeAnswer
    captured: int
    published: int
    undetected: int
    pending: int
    dropped: Counter[str]
    outcomes: Counter[Outcome]
    unread: int
    unanswered: int

    @property
    def balances(self) -> bool:
        fates = self.published + self.dropped.total() + self.pending
        answers = self.outcomes.total() + self.unread + self.unanswered
        parts = (self.unread, self.unanswered, self.pending, *self.dropped.values())
        return (
            self.captured == fates
            and self.published == self.undetected + answers
            and min(parts) >= 0
        )


def ledger(connection: Connection, stream_id: str, span: Span, at: datetime) -> LedgerAnswer:
    """`at` is now."""
    books: list[Books] = []
    left = MOST_FRAMES
    for epoch in _epochs(connection, stream_id, span):
        found = Epoch(connection, stream_id, epoch).books(span, left, at)
        if found is not None:
            books.append(found)
            left -= found.published
        if left <= 0:
            break
    return _answer(stream_id, books)


def _answer(stream_id: str, books: Sequence[Books]) -> LedgerAnswer:
    dropped = sum((one.dropped for one in books), Counter(dict.fromkeys(CAUSES, 0)))
    answered = sum((one.outcomes for one in books), Counter[Outcome]())
    return LedgerAnswer(
        stream_id=stream_id,
        ranges=[one.range for one in books],
        captured=sum(one.captured for one in books),
        published=sum(one.published for one in books),
        undetected=sum(one.undetected for one in books),
        dropped={cause: dropped[cause] for cause in sorted({*CAUSES, *dropped})},
        pending=sum(one.pending for one in books),
        outcomes={outcome: answered[outcome] for outcome in Outcome},
        unread=sum(one.unread for one in books),
        unanswered=sum(one.unanswered for one in books),
        balances=all(one.balances for one in books),
    )


def _epochs(connection: Connection, stream_id: str, span: Span) -> list[int]:
    """Newest first."""
    if span.epoch is not None:
        return [span.epoch]
    column = ledgers.c
    query = select(column.epoch).where(column.stream_id == stream_id).group_by(column.epoch)
    if span.since is not None:
        query = query.having(func.max(column.at) >= span.since)
    if span.until is not None:  # an epoch is named after the millisecond in which it began
        query = query.where(column.epoch <= unix_us(span.until) // 1000)
    most = MOST_RANGES if span.is_of_time else 1
    return list(connection.scalars(query.order_by(column.epoch.desc()).limit(most)))


class Epoch:
    """The checkpoints and outcomes of one epoch of a stream."""

    def __init__(self, connection: Connection, stream_id: str, epoch: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._epoch = epoch

    def books(self, span: Span, most_frames: int, at: datetime) -> Books | None:
        """None where nothing of it was asked for. What is read later may be newer."""
        begin = self._begin(span)
        end = self._end(span)
        newest = self._last()
        end = end or newest
        if newest is None or end is None or begin == end:
            return None
        if end.published - begin.published > most_frames:
            begin = self._last(ledgers.c.published <= end.published - most_frames) or begin
        return self._between(begin, end, newest, at)

    def _begin(self, span: Span) -> Checkpoint:
        if span.since is not None:
            return self._last(ledgers.c.at <= span.since) or BEGIN
        if span.first is not None:
            return self._last(ledgers.c.published <= span.first) or BEGIN
        return BEGIN

    def _end(self, span: Span) -> Checkpoint | None:
        if span.until is not None:
            return self._one(ledgers.c.at.asc(), ledgers.c.at >= span.until)
        if span.last is not None:
            return self._one(ledgers.c.at.asc(), ledgers.c.published > span.last)
        return None

    def _between(
        self, begin: Checkpoint, end: Checkpoint, newest: Checkpoint, at: datetime
    ) -> Books:
        pending = end.pending if end == newest else 0
        settled = self._settled(begin, end, at)
        old, unread = self._answered(begin, settled)
        new, unanswered = self._answered(settled, end)
        return Books(
            range=_range(self._epoch, begin, end),
            captured=end.captured - end.pending + pending - (begin.captured - begin.pending),
            published=end.published - begin.published,
            undetected=end.undetected - begin.undetected,
            pending=pending,
            dropped=_minus(end.dropped, begin.dropped),
            outcomes=old + new,
            unread=unread,
            unanswered=unanswered,
        )

    def _settled(self, begin: Checkpoint, end: Checkpoint, at: datetime) -> Checkpoint:
        """The last checkpoint up to which no outcome will come any more."""
        column = ledgers.c
        over = or_(column.published <= self._highest() + 1, column.at <= at - FRAMES_KEPT)
        settled = self._last(over, column.at <= end.at)
        return settled if settled and settled.published > begin.published else begin

    def _answered(self, begin: Checkpoint, end: Checkpoint) -> tuple[Counter[Outcome], int]:
        """Of the frames between; and how many are missing that were to be looked at."""
        found = self._outcomes(begin.published, end.published)
        looked_at = (end.published - end.undetected) - (begin.published - begin.undetected)
        return found, looked_at - found.total()

    def _outcomes(self, first: int, behind: int) -> Counter[Outcome]:
        size = OUTCOMES_PER_BLOCK
        query = self._blocks().where(
            outcomes.c.block >= first // size, outcomes.c.block * size < behind
        )
        found: Counter[Outcome] = Counter()
        for block, codes in self._connection.execute(
            query.execution_options(yield_per=BLOCKS_AT_ONCE)
        ):
            begin = block * size
            some = codes[max(0, first - begin) : behind - begin]
            for outcome, code in OUTCOME_CODES.items():
                found[Outcome(outcome)] += some.count(code)
        return found

    def _highest(self) -> int:
        """The highest seq that has an outcome; -1: none has."""
        newest = self._blocks().order_by(outcomes.c.block.desc()).limit(1)
        row = self._connection.execute(newest).first()
        return -1 if row is None else row[0] * OUTCOMES_PER_BLOCK + len(row[1].rstrip(b"\0")) - 1

    def _blocks(self) -> Select[int, bytes]:
        column = outcomes.c
        query = select(column.block, column.codes).where(column.stream_id == self._stream_id)
        return query.where(column.epoch == self._epoch)

    def _last(self, *conditions: ColumnElement[bool]) -> Checkpoint | None:
        return self._one(ledgers.c.at.desc(), *conditions)

    def _one(
        self, order: UnaryExpression[datetime], *conditions: ColumnElement[bool]
    ) -> Checkpoint | None:
        """The first of those that are so."""
        column = ledgers.c
        query = select(*(column[each.name] for each in fields(Checkpoint))).where(
            column.stream_id == self._stream_id, column.epoch == self._epoch, *conditions
        )
        row = self._connection.execute(query.order_by(order).limit(1)).mappings().first()
        return Checkpoint(**row) if row else None


def _range(epoch: int, begin: Checkpoint, end: Checkpoint) -> RangeAnswer:
    return RangeAnswer(
        epoch=epoch,
        from_seq=begin.published,
        to_seq=end.published - 1 if end.published > begin.published else None,
        since=begin.at,
        until=end.at,
    )


def _minus(now: Mapping[str, int], before: Mapping[str, int]) -> Counter[str]:
    return Counter({cause: count - before.get(cause, 0) for cause, count in now.items()})
