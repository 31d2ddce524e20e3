"""What is to be done at a time: a heap."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Any


class Timer:
    __slots__ = ("_timers", "callback", "value", "when_s")

    def __init__(self, timers: Timers, when_s: float, callback: Callable[[Any], None], value: Any) -> None:
        self._timers = timers
        self.when_s = when_s
        self.callback: Callable[[Any], None] | None = callback
        self.value = value

    def __lt__(self, other: Timer) -> bool:
        return self.when_s < other.when_s

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = self.value = None
            self._timers.drop_cancelled()


class Timers:
    """For one thread at a time."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._cancelled = 0

    def call_later(self, delay_s: float, callback: Callable[[Any], None], value: Any) -> Timer:
        timer = Timer(self, time.monotonic() + delay_s, callback, value)
        heapq.heappush(self._heap, timer)
        return timer

    def drop_cancelled(self) -> None:
        """One more was cancelled. Most are, long before their time: each answered call's deadline."""
        self._cancelled += 1
        if self._cancelled > _FEW and self._cancelled > len(self._heap) >> 1:
            self._heap = [timer for timer in self._heap if timer.callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_s(self) -> float | None:
        """When the first is due, as time.monotonic(); perhaps one that was cancelled."""
        return self._heap[0].when_s if self._heap else None

    def run_due(self, now_s: float) -> None:
        heap = self._heap
        while heap and heap[0].when_s <= now_s:
            timer = heapq.heappop(heap)
            callback, value = timer.callback, timer.value
            if callback is None:
                self._cancelled -= 1
                continue
            timer.callback = timer.value = None
            callback(value)
            heap = self._heap  # A new one, perhaps.


_FEW = 256
