"""What is kept in Postgres. Changed only together with a file in schemas/migrations."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    make_url,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL

metadata = MetaData()

OUTCOMES_PER_BLOCK = 1024
OUTCOME_CODES = {"ok": 1, "shed": 2, "expired": 3, "failed": 4, "rejected": 5, "fenced": 6}
"""One byte a seq in `outcomes.codes`; 0 is: none yet."""

Time = DateTime(timezone=True)

streams = Table(
    "streams",
    metadata,
    Column("id", Text, primary_key=True),  # ULID: sorts by creation
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),  # without userinfo
    Column("sources", JSONB, nullable=False, server_default=text("'[]'")),
    Column("sealed_credentials", Text),
    Column("fps", Double, nullable=False),
    Column("frame_width", Integer),
    Column("detection_enabled", Boolean, nullable=False),
    Column("model", Text),
    Column("min_confidence", Double),
    Column("labels", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("max_frame_age_ms", Integer, nullable=False),
    Column("idle_gate", Boolean, nullable=False, server_default=text("false")),
    Column("trust_source_clock", Boolean, nullable=False, server_default=text("false")),
    Column("verify_tls", Boolean, nullable=False, server_default=text("true")),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("running", Boolean, nullable=False, server_default=text("false")),
    Column("slot", Integer, nullable=False),
    Column("old_slot", Integer),  # until its tombstone is seen
    Column("generation", BigInteger, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("deleted_at", Time),  # until its tombstone is seen and it is observed stopped
    Column("purge", Boolean, nullable=False, server_default=text("false")),
    Index("streams_by_slot", "slot"),
)

detections = Table(
    "detections",
    metadata,
    Column("captured_at", Time, primary_key=True),
    Column("id", Uuid, primary_key=True),
    Column("stream_id", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("position", SmallInteger, nullable=False),  # in the record
    Column("label", Text, nullable=False),
    Column("class_id", Integer),
    Column("confidence", Double, nullable=False),
    Column("x", Double, nullable=False),  # pixels of the frame, origin top left
    Column("y", Double, nullable=False),
    Column("width", Double, nullable=False),
    Column("height", Double, nullable=False),
    Column("frame_width", Integer, nullable=False),
    Column("frame_height", Integer, nullable=False),
    Column("track_id", Text),
    Column("image_path", Text),
    Column("model_name", Text),
    Column("model_version", Text),
    Column("model_digest", Text),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),  # clock, attributes
    Index("detections_by_stream", "stream_id", "captured_at", "id"),
    Index("detections_by_label", "label", "captured_at", "id"),
    postgresql_partition_by="RANGE (captured_at)",
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("block", BigInteger, primary_key=True),  # seq // OUTCOMES_PER_BLOCK
    Column("codes", LargeBinary, nullable=False),  # OUTCOMES_PER_BLOCK bytes
)

statuses = Table(
    "statuses",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("message", Text),
    Column("hint", Text),
    Column("since", Time, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("next_retry_at", Time),
    Column("owner", Text),
    Column("endpoint", Text),
    Column("epoch", BigInteger, nullable=False),
    Column("observed_generation", BigInteger, nullable=False),
    Column("source", JSONB),
    Column("topic_partition", Integer, nullable=False),
    Column("topic_offset", BigInteger, nullable=False),
)

status_history = Table(
    "status_history",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("topic_partition", Integer, primary_key=True),
    Column("topic_offset", BigInteger, primary_key=True),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("message", Text),
    Column("hint", Text),
    Column("since", Time, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", Text),
    Column("epoch", BigInteger, nullable=False),
    Column("observed_generation", BigInteger, nullable=False),
    Index("status_history_by_since", "stream_id", "since"),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("at", Time, nullable=False),
    Column("value", JSONB, nullable=False),  # the Heartbeat as on the wire
)

ledgers = Table(
    "ledgers",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("minute", Time, primary_key=True),  # of each, what its last heartbeat said
    Column("at", Time, nullable=False),
    Column("captured", BigInteger, nullable=False),  # these since the epoch began
    Column("published", BigInteger, nullable=False),
    Column("undetected", BigInteger, nullable=False),
    Column("pending", BigInteger, nullable=False),
    Column("dropped", JSONB, nullable=False),  # by cause, those that are not 0
    Index("ledgers_by_minute", "minute", postgresql_using="brin"),
)

silences = Table(  # that stream.down events were told of and have not ended
    "silences",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("since", Time, nullable=False),
    Column("epoch", BigInteger, nullable=False),  # of the owner that fell silent
)


def engine_url(database_url: str) -> URL:
    """libpq's form (`postgresql://`), as settings have it, in SQLAlchemy's with psycopg 3."""
    return make_url(database_url).set(drivername="postgresql+psycopg")
