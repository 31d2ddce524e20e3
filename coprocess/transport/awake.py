"""Time in which this process ran: a machine that stood still has given no client the time to go on."""

from __future__ import annotations

import time


class AwakeTime:
    """Counts from when it is made, for a wait that looks again and again."""

    __slots__ = ("_looked_s", "_passed_s")

    def __init__(self) -> None:
        self._looked_s = time.monotonic()
        self._passed_s = 0.0

    def passed_s(self) -> float:
        """To be asked at each look."""
        now_s = time.monotonic()
        self._passed_s += min(now_s - self._looked_s, _LONGEST_PAUSE_S)
        self._looked_s = now_s
        return self._passed_s


#: Between two looks. So long may a busy machine take for the few milliseconds that were to be slept.
_LONGEST_PAUSE_S = 0.1
