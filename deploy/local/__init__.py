"""A whole Sightlog on this machine: fetch -> Kafka, Postgres, cameras -> schemas -> services."""
