"""REST -> Postgres -> reconciler -> streams.v1; the topics -> realtime -> every WebSocket.

Read `app`, then the three folders: `routes` (what clients may ask, one
module for each part of the contract), `realtime` (the topics, told to subscribers as they grow) and
`reconciler` (streams.v1 made to agree with the table). Here, beside them, stands what the routes
work with. Who may ask: `access`. What is asked: `bodies`, `addresses`, `strict`, `pages`. What is
answered: `answers`, `detections`, `history`, `problems`. Where it comes from: `database`,
`streams`, `snapshots`, `owners` (an ingestor's pictures), and `observed`, with `instances` (who is
up), which `realtime` writes. How topics are read, by whomever: `tail`, `offsets`.
"""
