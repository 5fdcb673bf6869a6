"""How a process is asked to end."""

import signal
import threading


def stop_on_signal() -> threading.Event:
    """An event that is set once, at SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
