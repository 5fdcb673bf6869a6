"""One package per process. A service knows schemas, services.process and itself, never another service."""
