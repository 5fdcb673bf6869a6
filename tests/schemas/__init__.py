"""The contract holds: shapes, bytes, keys, tables."""
