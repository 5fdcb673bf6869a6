"""What owners said of their books, minute by minute."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "ledgers",
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True),
        sa.Column("minute", TIME, primary_key=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("captured", sa.BigInteger, nullable=False),
        sa.Column("published", sa.BigInteger, nullable=False),
        sa.Column("undetected", sa.BigInteger, nullable=False),
        sa.Column("pending", sa.BigInteger, nullable=False),
        sa.Column("dropped", JSONB, nullable=False),
    )
    op.create_index("ledgers_by_minute", "ledgers", ["minute"], postgresql_using="brin")


def downgrade() -> None:
    op.drop_table("ledgers")
