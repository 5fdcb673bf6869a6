"""How the C library shares out memory among threads.

Each camera process has a reader's thread of its own. glibc gives a new thread whichever of its
arenas is free, eight for each core: over thousands of reconnects each of them comes to hold the
most that a reader needs. Two are enough here: nothing is decoded in this process.
"""

import ctypes
from contextlib import suppress

M_ARENA_MAX = -8  # glibc's malloc.h
ARENAS = 2


def limit_arenas() -> None:
    """Before the first thread starts. Other C libraries have no such thing, and no need of it."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
