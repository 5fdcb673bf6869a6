"""Every message on Kafka, and nothing else.

Frozen types, camelCase on the wire, times in UTC with the clock named. Fields are only ever added,
each with a default: a reader of an older shape ignores what it does not know.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NewType
from uuid import UUID, uuid5

import msgspec
from msgspec import Meta, Struct, field

StreamId = NewType("StreamId", str)
"""A ULID: 26 characters of Crockford's base 32."""

IDS = UUID("5f0f5a52-6a64-5b0c-9d54-9d6c3f2f1c10")  # the namespace of every UUIDv5 of ours
EPOCH_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)

FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)
LAST_TIME = datetime(2200, 1, 1, tzinfo=UTC)

NonNegative = Annotated[int, Meta(ge=0)]
Numbered = Annotated[int, Meta(ge=0, le=2**53)]  # fits a JSON reader's double and a bigint
Counted = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # fits Postgres' integer
Pixels = Annotated[int, Meta(ge=0, le=65_535)]  # what a JPEG can have
Time = Annotated[datetime, Meta(tz=True)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Message(Struct, frozen=True, kw_only=True, rename="camel"):
    """What all messages share: their shape rules, no field."""

    times: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a time that no clock of ours or a camera's could mean."""
        for name in self.times:
            at = getattr(self, name)
            if at is not None and not FIRST_TIME <= at < LAST_TIME:
                raise ValueError(f"{name} is not between 1970 and 2200")


class Status(StrEnum):
    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    ERROR = "ERROR"


class Reason(StrEnum):
    """Why a stream is not, or not simply, running."""

    AUTH_FAILED = "AUTH_FAILED"
    NOT_FOUND = "NOT_FOUND"
    UNREACHABLE = "UNREACHABLE"
    TIMEOUT = "TIMEOUT"
    STALLED = "STALLED"
    TLS = "TLS"
    CODEC_UNSUPPORTED = "CODEC_UNSUPPORTED"
    NO_VIDEO = "NO_VIDEO"
    SOURCE_FORBIDDEN = "SOURCE_FORBIDDEN"
    ENDED = "ENDED"
    DECODE_ERRORS = "DECODE_ERRORS"
    DECODER_CRASHED = "DECODER_CRASHED"
    BROKER_DOWN = "BROKER_DOWN"
    CAPACITY = "CAPACITY"


class Outcome(StrEnum):
    """What became of a published frame that was to be looked at."""

    OK = "ok"  # the model answered, also when it saw nothing
    SHED = "shed"  # a newer frame of the stream took its place
    EXPIRED = "expired"  # older than the stream's maxFrameAgeMs
    FAILED = "failed"  # the AI service did not answer, or not well
    REJECTED = "rejected"  # no usable JPEG
    FENCED = "fenced"  # from an owner that had lost the stream


class Source(Message, frozen=True, kw_only=True):
    """A media address of a camera."""

    url: str  # without userinfo
    roles: tuple[str, ...] = ("detect", "snapshot", "live")


class Down(Message, frozen=True, kw_only=True):
    """What the newest revision of a stream's `stream.down` event says."""

    times: ClassVar[tuple[str, ...]] = ("started_at", "ended_at")

    started_at: Time
    ended_at: Time | None = None
    reason: str
    revision: Counted = 0


class StreamSpec(Message, frozen=True, kw_only=True):
    """The desired state of a stream."""

    stream_id: str
    slot: Counted
    generation: Numbered
    running: bool
    name: str
    url: str  # without userinfo
    sources: tuple[Source, ...] = ()
    sealed_credentials: str | None = None  # base64 of a sealed box
    fps: float = 5
    frame_width: int | None = 640  # null: as the camera sends
    detection_enabled: bool = True
    model: str | None = None
    min_confidence: Fraction | None = None  # null: the model's own default
    labels: tuple[str, ...] = ()  # empty: all
    max_frame_age_ms: NonNegative = 2000
    idle_gate: bool = False
    trust_source_clock: bool = False
    verify_tls: bool = True  # of an rtsps:// source
    tags: tuple[str, ...] = ()
    moving: bool = False  # it stops here to run in another slot, and its event goes on there
    begun: Down | None = None  # the event of a stream that comes from another slot


class SourceFacts(Message, frozen=True, kw_only=True):
    """What the camera sends, as measured from it."""

    codec: str
    width: Pixels
    height: Pixels
    fps: float | None = None  # as the camera declares it


class StreamStatus(Message, frozen=True, kw_only=True):
    """The observed state of a stream, said by its owner.

    `down` is there from before an event is told until its end has been told: whoever owns the
    stream next tells it again, and goes on with it.
    """

    times: ClassVar[tuple[str, ...]] = ("since", "next_retry_at")

    stream_id: str
    status: Status
    reason: Reason | None = None
    message: str | None = None
    hint: str | None = None
    since: Time
    attempt: Counted = 0
    next_retry_at: Time | None = None
    owner: str | None = None
    endpoint: str | None = None  # the owner's internal address, http://host:port
    epoch: Numbered = 0
    observed_generation: Numbered = 0
    source: SourceFacts | None = None
    down: Down | None = None

    @property
    def is_down(self) -> bool:
        """Whether it tells of an event that is not over."""
        return self.down is not None and self.down.ended_at is None


class Dropped(Message, frozen=True, kw_only=True):
    """Access units that were captured and not published, by cause."""

    fps_limit: NonNegative = 0
    overload: NonNegative = 0
    corrupt: NonNegative = 0
    too_large: NonNegative = 0
    idle: NonNegative = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, name) for name in self.__struct_fields__)


class Ledger(Message, frozen=True, kw_only=True):
    """`captured = published + dropped.total + pending`, always."""

    captured: NonNegative = 0  # access units received, counted when their fate is decided
    published: NonNegative = 0
    undetected: NonNegative = 0  # published with detect=0
    dropped: Dropped = Dropped()
    pending: int = 0  # of a window: the change, which may be negative

    @property
    def balances(self) -> bool:
        return self.captured == self.published + self.dropped.total + self.pending


class Rates(Message, frozen=True, kw_only=True):
    """Frames a second, measured over the window."""

    source: float | None = None
    published: float = 0


class Heartbeat(Message, frozen=True, kw_only=True):
    """How a running stream fared in the last window (10 s)."""

    times: ClassVar[tuple[str, ...]] = ("at", "last_frame_at")

    stream_id: str
    epoch: Numbered
    at: Time
    window_s: float
    last_seq: int | None = None
    last_frame_at: Time | None = None
    fps: Rates = Rates()
    ledger: Ledger = Ledger()
    totals: Ledger = Ledger()  # since the epoch began
    encode_ms_p50: float | None = None
    bytes_per_s: float = 0
    process_rss_bytes: int | None = None
    health: str = "ok"  # ok, degraded
    reasons: tuple[str, ...] = ()


class Clock(Message, frozen=True, kw_only=True):
    """Whose time `capturedAt` is."""

    source: str = "arrival"  # arrival: our UTC at arrival; source: the camera's own
    offset_ms: float | None = None  # camera's clock minus ours
    error_ms: float | None = None  # half the uncertainty of capturedAt, where known


class Frame(Message, frozen=True, kw_only=True):
    """One JPEG at one instant. On Kafka the value is the JPEG, the facts are headers."""

    times: ClassVar[tuple[str, ...]] = ("captured_at",)

    stream_id: str
    epoch: Numbered
    seq: Numbered  # gapless within the epoch, from 0
    captured_at: Time
    width: Pixels
    height: Pixels
    age_ms: NonNegative = 0  # from capture to produce()
    clock: Clock = Clock()
    captured: NonNegative = 0  # of the epoch, this frame's access unit included
    dropped: NonNegative = 0  # of the epoch; captured = dropped + seq + 1
    detect: bool = True
    model: str | None = None
    max_age_ms: NonNegative = 2000
    min_confidence: Fraction | None = None
    labels: tuple[str, ...] = ()
    jpeg: bytes = b""

    @property
    def id(self) -> str:
        return frame_id(self.stream_id, self.epoch, self.seq)


class Snapshot(Message, frozen=True, kw_only=True):
    """A frame worth keeping. On Kafka the value is the JPEG, the facts are headers."""

    times: ClassVar[tuple[str, ...]] = ("captured_at",)

    stream_id: str
    frame_id: str
    captured_at: Time
    path: str  # the imagePath of the record that names it
    jpeg: bytes = b""


class Box(Message, frozen=True, kw_only=True):
    """COCO: origin top left; pixels of the frame as published, or fractions of it."""

    x: float
    y: float
    width: float
    height: float


class Detection(Message, frozen=True, kw_only=True):
    """One object in a frame."""

    id: UUID
    label: str
    class_id: Counted | None = None
    confidence: Fraction
    bounding_box: Box
    normalized_box: Box
    track_id: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)  # what else the AI sent, unread


class FrameFacts(Message, frozen=True, kw_only=True):
    """What a record repeats of its frame."""

    times: ClassVar[tuple[str, ...]] = ("captured_at", "published_at")

    id: str
    epoch: Numbered
    seq: Numbered
    width: Pixels
    height: Pixels
    captured_at: Time
    published_at: Time | None = None  # the broker's append time
    clock: Clock = Clock()


class Model(Message, frozen=True, kw_only=True):
    """Which weights answered."""

    name: str
    version: str
    digest: str  # sha256:...


class Timing(Message, frozen=True, kw_only=True):
    """Durations by the monotonic clock of the process that measured them, in ms."""

    queue_ms: float | None = None
    infer_ms: float | None = None
    since_capture_ms: float | None = None


class DetectionRecord(Message, frozen=True, kw_only=True):
    """All of a frame's detections, and its outcome."""

    times: ClassVar[tuple[str, ...]] = ("detected_at",)

    record_id: str
    stream_id: str
    frame: FrameFacts
    outcome: Outcome
    reason: str | None = None  # why not ok
    model: Model | None = None
    result_set: str | None = None  # the name of a replay or shadow model; null: the live one
    timing: Timing = Timing()
    detected_at: Time
    image_path: str | None = None
    detections: tuple[Detection, ...] = ()


STREAM_DOWN = "stream.down"
NO_HEARTBEAT = "NO_HEARTBEAT"  # its reason where the owner died, and no owner is left to name one


class Phase(StrEnum):
    NEW = "new"
    UPDATE = "update"
    END = "end"


class Best(Message, frozen=True, kw_only=True):
    """The frame that shows an event best."""

    frame_id: str
    image_path: str | None = None
    confidence: Fraction | None = None


class Event(Message, frozen=True, kw_only=True):
    """Something about a stream that a person would want to know: new, updates, end."""

    times: ClassVar[tuple[str, ...]] = ("started_at", "ended_at")

    event_id: UUID
    revision: NonNegative
    kind: str  # stream.down, later zone.*, line.*, track.*
    phase: Phase
    stream_id: str
    severity: str = "info"
    started_at: Time
    ended_at: Time | None = None
    label: str | None = None
    track_ids: tuple[str, ...] = ()
    zone: str | None = None
    reason: str | None = None
    best: Best | None = None
    changed: tuple[str, ...] = ()


class Instance(Message, frozen=True, kw_only=True):
    """A service process that is up."""

    times: ClassVar[tuple[str, ...]] = ("started_at", "at")

    instance: str
    service: str
    version: str
    endpoint: str | None = None  # its internal address, http://host:port
    capacity: NonNegative | None = None  # of an ingestor: how many cameras it runs at once
    load: NonNegative | None = None
    slots: tuple[Counted, ...] = ()  # of an ingestor: those that it owns now
    started_at: Time
    at: Time


class DeadLetter(Message, frozen=True, kw_only=True):
    """A message that could not be handled, where it was, and why."""

    topic: str
    partition: int
    offset: int
    timestamp: Time | None = None
    key: str | None = None
    reason: str  # a stable code: EMPTY, NOT_JSON, WRONG_SHAPE, MISSING_HEADER, ...
    error: str
    sha256: str
    size: NonNegative
    service: str
    payload: str | None = None  # base64; null from 64 KiB up


def now() -> datetime:
    """UTC, never on a whole second: so that the wire form always has its six digits."""
    return with_fraction(datetime.now(UTC))


def with_fraction(at: datetime) -> datetime:
    """The same instant, a microsecond later if it has no fraction (msgspec would omit it)."""
    return at if at.microsecond else at.replace(microsecond=1)


def from_unix_us(microseconds: int) -> datetime:
    return with_fraction(EPOCH_BEGIN + timedelta(microseconds=microseconds))


MOST_AHEAD_MS = 24 * 3_600_000  # as far as an owner's clock may be wrong


def is_plausible(epoch: int, at_ms: float) -> bool:
    """Whether an owner can have minted it by then. Epochs are milliseconds of its clock: one
    further ahead is forged or a mistake, and believed by anybody it would stand above every true
    owner's until that time has come. So all who read epochs ask here."""
    return epoch <= at_ms + MOST_AHEAD_MS


def unix_us(at: datetime) -> int:
    return (at - EPOCH_BEGIN) // timedelta(microseconds=1)


def wire_time(at: datetime) -> str:
    """RFC 3339, UTC, six digits and Z: as times stand in headers and REST."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def frame_id(stream_id: str, epoch: int, seq: int) -> str:
    return f"{stream_id}/{epoch}/{seq}"


def record_id(frame: str, result_set: str | None = None) -> str:
    return frame if result_set is None else f"{frame}/{result_set}"


def detection_id(record: str, index: int) -> UUID:
    """The same detection of a redelivered frame has the same id."""
    return uuid5(IDS, f"{record}/{index}")


def down_event_id(stream_id: str, since: datetime) -> UUID:
    return uuid5(IDS, f"stream.down/{stream_id}/{unix_us(since)}")


def down_event(stream_id: str, down: Down) -> Event:
    """Who tells it again says the same."""
    phase = Phase.UPDATE if down.revision else Phase.NEW
    changed: tuple[str, ...] = ("reason",) if down.revision else ()
    if down.ended_at is not None:
        phase, changed = Phase.END, ("endedAt",)
    return Event(
        event_id=down_event_id(stream_id, down.started_at),
        revision=down.revision,
        kind=STREAM_DOWN,
        phase=phase,
        stream_id=stream_id,
        severity="warning",
        started_at=down.started_at,
        ended_at=down.ended_at,
        reason=down.reason,
        changed=changed,
    )


def snapshot_filename(captured_at: datetime, epoch: int, seq: int) -> str:
    return f"{captured_at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}_{epoch}_{seq}.jpg"


def snapshot_key(stream_id: str, filename: str) -> str:
    """Where the picture lies in the object store: a folder a day, for retention."""
    return f"{stream_id}/{filename[:8]}/{filename}"


def image_path(stream_id: str, filename: str) -> str:
    """Where the gateway answers with the picture."""
    return f"/detections/screenshot/{stream_id}/{filename}"


def json_of(message: Struct) -> bytes:
    return msgspec.json.encode(message)
