"""Tests of the ingestor, from its pure steps to whole processes on a real Kafka."""
