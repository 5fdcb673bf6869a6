"""One package per process. A service knows schemas, process and itself, never another service."""
