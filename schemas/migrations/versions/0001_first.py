"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _streams()
    _detections()
    _observed()


def _streams() -> None:
    op.create_table(
        "streams",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("sources", JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("sealed_credentials", sa.Text),
        sa.Column("fps", sa.Double, nullable=False),
        sa.Column("frame_width", sa.Integer),
        sa.Column("detection_enabled", sa.Boolean, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("min_confidence", sa.Double),
        sa.Column("labels", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("max_frame_age_ms", sa.Integer, nullable=False),
        sa.Column("idle_gate", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column(
            "trust_source_clock", sa.Boolean, nullable=False, server_default=sa.text("false")
        ),
        sa.Column("tags", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("running", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("old_slot", sa.Integer),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME),
        sa.Column("purge", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.create_index("streams_by_slot", "streams", ["slot"])


def _detections() -> None:
    op.create_table(
        "detections",
        sa.Column("captured_at", TIME, primary_key=True),
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("stream_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("position", sa.SmallInteger, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("class_id", sa.Integer),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("x", sa.Double, nullable=False),
        sa.Column("y", sa.Double, nullable=False),
        sa.Column("width", sa.Double, nullable=False),
        sa.Column("height", sa.Double, nullable=False),
        sa.Column("frame_width", sa.Integer, nullable=False),
        sa.Column("frame_height", sa.Integer, nullable=False),
        sa.Column("track_id", sa.Text),
        sa.Column("image_path", sa.Text),
        sa.Column("model_name", sa.Text),
        sa.Column("model_version", sa.Text),
        sa.Column("model_digest", sa.Text),
        sa.Column("metadata", JSONB, nullable=False, server_default=sa.text("'{}'")),
        postgresql_partition_by="RANGE (captured_at)",
    )
    op.execute("CREATE TABLE detections_default PARTITION OF detections DEFAULT")
    op.create_index("detections_by_stream", "detections", ["stream_id", "captured_at", "id"])
    op.create_index("detections_by_label", "detections", ["label", "captured_at", "id"])
    op.create_table(
        "outcomes",
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True),
        sa.Column("block", sa.BigInteger, primary_key=True),
        sa.Column("codes", sa.LargeBinary, nullable=False),
    )


def _observed() -> None:
    op.create_table(
        "statuses",
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("hint", sa.Text),
        sa.Column("since", TIME, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("next_retry_at", TIME),
        sa.Column("owner", sa.Text),
        sa.Column("endpoint", sa.Text),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("observed_generation", sa.BigInteger, nullable=False),
        sa.Column("source", JSONB),
        sa.Column("topic_partition", sa.Integer, nullable=False),
        sa.Column("topic_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "status_history",
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("topic_partition", sa.Integer, primary_key=True),
        sa.Column("topic_offset", sa.BigInteger, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("hint", sa.Text),
        sa.Column("since", TIME, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("observed_generation", sa.BigInteger, nullable=False),
    )
    op.create_index("status_history_by_since", "status_history", ["stream_id", "since"])
    op.create_table(
        "heartbeats",
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("value", JSONB, nullable=False),
    )
