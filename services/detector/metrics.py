"""What the detector counts. No stream is a label: figures per stream come from the topics."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

FRAMES = Counter(
    "sightlog_detector_frames",
    "Frames accounted for, by what became of them",
    ["outcome"],  # the outcomes of records; undetected: detect=0; poison: a dead letter
)
DETECTIONS = Counter("sightlog_detector_detections", "Objects in the records")
SNAPSHOTS = Counter("sightlog_detector_snapshots", "Frames kept as snapshots")
QUEUE = Histogram(
    "sightlog_detector_queue_seconds", "From a frame's arrival to its call", buckets=SECONDS
)
INFER = Histogram(
    "sightlog_detector_infer_seconds", "A call of the AI service, answered or not", buckets=SECONDS
)
AGE = Histogram(
    "sightlog_detector_age_seconds", "From capture to the record, of ok frames", buckets=SECONDS
)
WAITING = Gauge("sightlog_detector_waiting_frames", "Frames waiting for their turn")
IN_FLIGHT = Gauge("sightlog_detector_in_flight_frames", "Frames being looked at")
UNACCOUNTED = Gauge(
    "sightlog_detector_unaccounted_frames", "Frames read whose offset can't be committed yet"
)
PARTITIONS = Gauge("sightlog_detector_assigned_partitions", "Partitions of frames.v1 held")
BREAKER_OPEN = Gauge(
    "sightlog_detector_breaker_open_status", "1 while the AI service is left alone"
)
