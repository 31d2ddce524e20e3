"""Looking again and again whether sockets are ready, for a moment, before a thread sleeps until they are.

A processor that slept comes back late: of calls that come one after the other, that is a fifth of what each
waits, and to sleep and to be woken takes as much of a processor as to look for 50 µs. So whoever has slept
shortly, several times in a row, looks for about that long before the next time.

Where several calls come at one time, their client has use for the processor: with 8 in flight on two cores,
a twentieth fewer were answered as this looked then, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable


class Spinning:
    """For one thread at a time: whoever polls."""

    __slots__ = ("_clock", "_give_way", "_is_ready", "_short_in_a_row", "_since_s", "_to_skip")

    def __init__(
        self,
        is_ready: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        give_way: Callable[[], None] = os.sched_yield,
    ) -> None:
        self._is_ready = is_ready
        self._clock = clock
        self._give_way = give_way
        #: Sleeps that were short; less, also below 0, after a look in vain.
        self._short_in_a_row = 0
        #: By how many a look in vain lessens them: four times as many as the one before. Each that finds
        #: something halves that.
        self._to_skip = _LEAST_TO_SKIP
        #: When it slept, by the clock; 0: it does not.
        self._since_s = 0.0

    def find(self, timeout_s: float, calls: int) -> bool:
        """Whether a socket is ready before it is worth to sleep. False: who called this sleeps now.

        `calls`: how many have come since the last sleep, or look.
        """
        clock = self._clock
        now_s = clock()
        if calls > 1:
            self._short_in_a_row = min(self._short_in_a_row, 0)
        if self._short_in_a_row >= _SHORT_IN_A_ROW:
            until_s = now_s + min(SPIN_S, timeout_s)
            while now_s < until_s:
                if self._is_ready():
                    self._to_skip = max(_LEAST_TO_SKIP, self._to_skip // 2)
                    return True
                looked_s = clock()
                self._give_way()
                now_s = clock()
                if now_s - looked_s > _TAKEN_S:
                    break  # Another thread ran: to look takes the processor from it.
            self._short_in_a_row = _SHORT_IN_A_ROW - self._to_skip
            self._to_skip = min(_MOST_TO_SKIP, self._to_skip * 4)
        self._since_s = now_s
        return False

    def woke(self) -> None:
        """After a sleep, and perhaps without one."""
        if not self._since_s:
            return
        if self._clock() - self._since_s < _SHORT_S:
            self._short_in_a_row += 1
        else:
            self._short_in_a_row = min(self._short_in_a_row, 0)
        self._since_s = 0.0


SPIN_S = 0.00007
#: A sleep in whose place it might have looked: as long, and as long as it takes to be woken.
_SHORT_S = 0.00012
_SHORT_IN_A_ROW = 16
#: To give way takes longer where another thread has run.
_TAKEN_S = 0.00003
_LEAST_TO_SKIP, _MOST_TO_SKIP = 2, 16_384
