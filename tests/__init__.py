"""Tests of everything: they mirror the code, and use a real Kafka and a real Postgres."""
