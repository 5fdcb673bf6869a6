"""Day partitions of `detections`, made before the day begins."""

from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text

DAYS_BEHIND, DAYS_AHEAD = 1, 2  # older and newer rows lie in the default partition
_ONE_AT_A_TIME = 0x51647469  # the advisory lock that makers of partitions hold


def make_days(connection: Connection, today: date) -> list[str]:
    """Those of yesterday to the day after tomorrow, in UTC; returns the names of new ones.

    Safe by many at once, and again. Rows of such a day that are in the default partition already
    move. Where one is new, the default partition is locked for the rest of the transaction.
    """
    connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})
    days = [today + timedelta(days=more) for more in range(-DAYS_BEHIND, DAYS_AHEAD + 1)]
    return [name_of(day) for day in days if _make(connection, day)]


def name_of(day: date) -> str:
    return f"detections_{day:%Y%m%d}"


def _make(connection: Connection, day: date) -> bool:
    """Made aside and attached: `CREATE ... PARTITION OF` would lock the whole table.

    Attaching searches the default partition for rows of the day, and finds none: they moved, and
    its lock keeps others from coming.
    """
    name = name_of(day)
    if connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}) is not None:
        return False
    begin, end = (datetime(d.year, d.month, d.day, tzinfo=UTC) for d in (day, day + timedelta(1)))
    bounds = {"begin": begin, "end": end}
    connection.execute(text(f"CREATE TABLE {name} (LIKE detections INCLUDING ALL)"))
    connection.execute(text("LOCK TABLE detections_default IN ACCESS EXCLUSIVE MODE"))
    connection.execute(
        text(
            "WITH moved AS (DELETE FROM detections_default"
            " WHERE captured_at >= :begin AND captured_at < :end RETURNING *)"
            f" INSERT INTO {name} SELECT * FROM moved"
        ),
        bounds,
    )
    connection.execute(
        text(
            f"ALTER TABLE detections ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{begin.isoformat()}') TO ('{end.isoformat()}')"
        )
    )
    return True
