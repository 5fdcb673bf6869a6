"""How a process is asked to end."""

import _thread
import signal
import threading


def stop_on_signal() -> threading.Event:
    """An event that is set once, at SIGTERM or SIGINT.

    It is set by a thread of its own: a handler runs between two steps of the main thread, which
    may be inside the event's own lock just then.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop
