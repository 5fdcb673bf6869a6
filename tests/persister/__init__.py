"""Tests of the persister: its steps against a real Postgres, the process against a real Kafka."""
