"""An ingestor whose cameras' processes are not as they come."""
