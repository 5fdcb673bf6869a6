"""What the ingestor counts. No metric carries a stream: per-stream figures come from REST."""

from prometheus_client import Counter, Gauge

from schemas.messages import Dropped, Ledger

CAPTURED = Counter("sightlog_ingestor_pictures_captured_total", "Access units received")
PUBLISHED = Counter("sightlog_ingestor_frames_published_total", "Frames the brokers acknowledged")
PUBLISHED_BYTES = Counter("sightlog_ingestor_frames_published_bytes_total", "Their JPEGs' bytes")
DROPPED = Counter(
    "sightlog_ingestor_pictures_dropped_total", "Captured and not published", ["cause"]
)
CAMERAS = Gauge("sightlog_ingestor_cameras_running", "Camera processes")
STREAMS = Gauge("sightlog_ingestor_streams_owned", "Streams of the assigned partitions")
WAITING = Gauge("sightlog_ingestor_streams_waiting", "Streams that find no room here")
CLAIMS = Counter("sightlog_ingestor_epochs_claimed_total", "Epochs minted")
LOSSES = Counter("sightlog_ingestor_epochs_lost_total", "Epochs ended by a frame not delivered")
FAILURES = Counter("sightlog_ingestor_cameras_failed_total", "Connections lost", ["reason"])
PROBES = Counter("sightlog_ingestor_probes_total", "Sources looked at without a stream", ["result"])
ORPHANS = Counter(
    "sightlog_ingestor_orphans_killed_total", "Processes of dead ingestors, found at the start"
)
REFUSED = Counter(
    "sightlog_ingestor_facts_refused_total", "Not taken for want of room: said later", ["topic"]
)
LOST = Counter("sightlog_ingestor_facts_lost_total", "Never to be said", ["topic"])


def count(window: Ledger, window_bytes: float) -> None:
    """Add a heartbeat's window."""
    CAPTURED.inc(window.captured)
    PUBLISHED.inc(window.published)
    PUBLISHED_BYTES.inc(max(0.0, window_bytes))
    for cause in Dropped.__struct_fields__:
        DROPPED.labels(cause).inc(getattr(window.dropped, cause))
