"""The streams table -> reconcile -> specs -> streams.v1; bury: what was deleted and has ended."""
