"""Loaded by the fork server only: it leaves at once when its ingestor has ended.

The kernel ends its cameras when it is gone, and taking an interpreter with FFmpeg down by the book
costs 100 ms of a core, which is seconds where the cameras burn all of them.
"""

import atexit
import os

atexit.register(os._exit, 0)
