"""Waiting for the end of what is in flight, when a service stops."""

from __future__ import annotations

import time
from collections.abc import Callable

_INTERVAL_S = 0.005


def wait_until_idle(in_flight: Callable[[], int], timeout_s: float) -> bool:
    """Wait until no call is in flight. False where some still are after `timeout_s`."""
    until_s = time.monotonic() + timeout_s
    while in_flight() and time.monotonic() < until_s:
        time.sleep(_INTERVAL_S)
    return not in_flight()
