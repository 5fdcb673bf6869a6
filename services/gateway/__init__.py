"""REST -> Postgres -> reconcile -> streams.v1; the topics -> follow -> hub -> every WebSocket."""
