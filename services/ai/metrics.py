"""What this service counts."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

PICTURES = Counter(
    "sightlog_ai_pictures_total", "Pictures sent here, by what became of them", ["outcome"]
)
DETECTIONS = Counter("sightlog_ai_detections_total", "Boxes answered")
QUEUED = Gauge("sightlog_ai_queued_pictures", "Pictures that wait or are worked on")
QUEUE_TIME = Histogram(
    "sightlog_ai_queue_seconds", "From a place in the queue to a worker", buckets=SECONDS
)
DETECT_TIME = Histogram(
    "sightlog_ai_detect_seconds", "Decode, model and boxes of one picture", buckets=SECONDS
)
