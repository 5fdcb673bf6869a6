"""streams.v1 agrees with the table, whatever happens."""
