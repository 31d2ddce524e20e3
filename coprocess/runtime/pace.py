"""Where the calls of a sync hook run: where calls are read, or apart."""

from __future__ import annotations


class Pace:
    """Whether a sync hook is so quick that its calls may run where calls are read.

    A slow one now and then makes no slow hook. A slow hook is tried again, less and less often.
    Not exact, as no lock is taken for it.
    """

    __slots__ = ("_pause", "apart", "doubt")

    def __init__(self) -> None:
        #: So many calls are to be run apart, before one is tried again.
        self.apart = 1
        self._pause = _FIRST_PAUSE
        #: Rises with slow calls, and falls with quick ones.
        self.doubt = 0

    def took(self, duration_s: float) -> None:
        """Of a call that ran where calls are read. To be called where it was slow, or there is doubt."""
        if duration_s <= QUICK_S:
            self.doubt -= 1
            if not self.doubt:
                self._pause = _FIRST_PAUSE
            return
        self.doubt += _CALLS_PER_SLOW_ONE
        if self.doubt > _CALLS_PER_SLOW_ONE:
            self.doubt = 1  # The next slow one is enough.
            self.apart = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


#: Waiting for less is no longer than a hand-over to another thread, and the way back.
QUICK_S = 0.00025
_CALLS_PER_SLOW_ONE = 100
_FIRST_PAUSE = 16
_LONGEST_PAUSE = 4096
