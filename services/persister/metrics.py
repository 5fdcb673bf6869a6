"""What the persister counts; no label names a stream."""

from prometheus_client import Counter, Gauge, Histogram

messages = Counter("sightlog_persister_messages", "Messages whose offsets were committed", ["lane"])
batch_seconds = Histogram(
    "sightlog_persister_batch_seconds",
    "From a batch's last message to its committed offsets",
    ["lane"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
rows = Counter("sightlog_persister_rows", "Detection rows written")
outcomes = Counter("sightlog_persister_outcomes", "Outcomes written", ["outcome"])
repeats = Counter("sightlog_persister_repeats", "Records that did not count: a repeat of a frame's")
skipped = Counter(
    "sightlog_persister_skipped_records", "Messages not stored on purpose", ["reason"]
)
snapshots = Counter("sightlog_persister_snapshots", "Snapshots written to the object store")
dead_letters = Counter("sightlog_persister_dead_letters", "Messages set aside", ["reason"])
paused = Gauge("sightlog_persister_paused", "1 while a lane waits for what it stores to", ["lane"])
