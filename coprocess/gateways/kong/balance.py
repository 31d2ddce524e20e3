"""How busy the workers are, and which of them is to have fewer of Kong's connections.

Kong keeps its connections, so that they stay where they were given: all with one worker, where the others
came later, as after a crash. Each worker tells of the events that it has; the one that has more than another
gives that one connections, when the next event comes on them.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import structlog

log = structlog.get_logger("coprocess")

_TICK_S: Final = 0.05
#: Of the last tick, in the mean that counts.
_OF_LAST: Final = 0.25
#: After some were given: the means follow what has changed.
_PAUSE_S: Final = 1.0
#: Who has told nothing for so long hangs, or is gone.
_SILENT_S: Final = 0.5
#: A difference of less than two events, or a quarter, is chance.
_LEAST: Final = 2.0
_LEAST_PART: Final = 0.25
#: When it told, by time.monotonic(), which is the same in all processes, and how many events it has.
_PLACE: Final = struct.Struct("dd")


class Gift(NamedTuple):
    """So many connections, for that worker."""

    taker: int
    connections: int


class Loads:
    """The events of each worker, in a file that all of them have in common."""

    def __init__(self, path: Path, number: int, count: int) -> None:
        self._number = number
        self._count = count
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _PLACE.size * count)
            self._places = mmap.mmap(descriptor, _PLACE.size * count)
        finally:
            os.close(descriptor)

    def tell(self, now_s: float, events: float) -> None:
        _PLACE.pack_into(self._places, _PLACE.size * self._number, now_s, events)

    def gift(self, now_s: float) -> Gift | None:
        """What this worker is to give; None: nothing."""
        loads = [_PLACE.unpack_from(self._places, _PLACE.size * each) for each in range(self._count)]
        own = loads[self._number][1]
        others = [
            (events, number)
            for number, (told_s, events) in enumerate(loads)
            if number != self._number and now_s - told_s < _SILENT_S
        ]
        if not others:
            return None
        least, taker = min(others)
        difference = own - least
        if difference < max(_LEAST, _LEAST_PART * own):
            return None
        # Each worker that has too many gives to the one that has fewest: together no more than that lacks.
        lacks = sum(events for events, _ in others) + own
        lacks = lacks / (len(others) + 1) - least
        givers = sum(events >= least + max(_LEAST, _LEAST_PART * events) for events, _ in others) + 1
        return Gift(taker, max(1, int(min(difference / 2, lacks / givers))))


class Balance:
    """Looks again and again, in a thread of its own, at what is to be given."""

    def __init__(self, loads: Loads, events: Callable[[], int]) -> None:
        """`events`: how many this worker has now."""
        self._loads = loads
        self._events = events
        self._stopped = threading.Event()
        self._left: list[int] = []
        #: Whether `take` would give something: each event asks.
        self.gives = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="kong-balance", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self.gives = False

    def take(self) -> int | None:
        """The worker that is to have the connection of the event that came now; None: this one keeps it."""
        try:
            taker = self._left.pop()
        except IndexError:
            return None
        self.gives = bool(self._left)
        return taker

    def _run(self) -> None:
        mean, not_before_s = 0.0, 0.0
        while not self._stopped.wait(_TICK_S):
            now_s = time.monotonic()
            mean += (self._events() - mean) * _OF_LAST
            try:
                self._loads.tell(now_s, mean)
                if now_s < not_before_s:
                    continue
                # What nobody has taken is of a time that is over.
                self._left.clear()
                gift = self._loads.gift(now_s)
                if gift is not None:
                    not_before_s = now_s + _PAUSE_S
                    self._left += [gift.taker] * gift.connections
                self.gives = bool(self._left)
            except Exception:  # The events go on as they are.
                log.exception("the events of the workers could not be compared")
