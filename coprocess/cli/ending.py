"""How commands end that have run code of others."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

_EXIT_TIMEOUT_S: Final = 5.0


def bound_exit(status: int) -> None:
    """End the process soon, also where a handler's thread, or a log that nobody reads, would keep it."""
    timer = threading.Timer(_EXIT_TIMEOUT_S, os._exit, (status,))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # No thread can be started now.
        timer.start()
