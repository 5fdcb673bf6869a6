"""How every process logs, reads its settings, connects to Kafka, reports its health and stops."""
