"""detections, statuses, heartbeats, snapshots: consume -> decode -> judge -> sink, observe, keep"""
