"""The gateway: REST, realtime, the page."""
