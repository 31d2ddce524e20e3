"""Signals that reach `coprocess serve` while it still imports what it is made of.

They are taken when this is imported. By default SIGHUP would end the process, and what runs as the first
process of a container would not hear of SIGTERM at all. Nothing is imported here that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

#: What each signal did before this module took it.
before: dict[int, Any] = {}


def is_serve() -> bool:
    """Whether this process is `coprocess serve`."""
    words = sys.argv
    return words[1:2] == ["serve"] and os.path.basename(words[0]) in ("-m", "coprocess", "__main__.py")


def _take() -> None:
    """Where this process is `coprocess serve`: ignore SIGHUP, and end upon SIGTERM and SIGINT."""
    if is_serve() and threading.current_thread() is threading.main_thread():
        # No SIG_IGN, which processes that this one starts would inherit.
        before[signal.SIGHUP] = signal.signal(
            signal.SIGHUP, lambda number, frame: None
        )  # What is loaded later is new anyway.
        for number in (signal.SIGTERM, signal.SIGINT):
            # There is nothing to clean up yet.
            before[number] = signal.signal(number, lambda number, frame: os._exit(0))


_take()
