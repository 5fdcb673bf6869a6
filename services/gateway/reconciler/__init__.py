"""The streams table -> reconcile -> specs -> streams.v1; bury: what was deleted and has ended;
move: what finds no room where it is; silence: what nothing is heard of -> events.v1."""
