"""The realtime half: topics in, WebSockets out."""
