"""How a process is asked to end, and when it ends itself."""

import _thread
import logging
import os
import signal
import threading

import structlog

log = structlog.get_logger()


def stop_on_signal() -> threading.Event:
    """An event that is set once, at SIGTERM or SIGINT.

    It is set by a thread of its own: a handler runs between two steps of the main thread, which
    may be inside the event's own lock just then.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop


def exit_when_a_thread_dies() -> None:
    """Of an exception that nothing caught. Whoever lost a thread does half its work, silently;
    a process that has ended is noticed, and started again."""
    threading.excepthook = _end_with_thread


def _end_with_thread(died: threading.ExceptHookArgs) -> None:
    name = died.thread.name if died.thread else ""
    log.critical("thread.died", thread=name, exc_info=died.exc_value)
    logging.shutdown()
    os._exit(1)
