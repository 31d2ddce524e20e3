"""When a worker process that has ended is replaced: at once, or later where it keeps ending."""

from __future__ import annotations

#: A worker that could serve for so long is no part of a crash loop.
LASTING_S = 10.0
#: Ends in a row after which a worker counts as one that cannot run.
MANY = 5

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 10.0
#: After one that answered calls: those who call are better off with it, though it may end again.
_LONGEST_DELAY_AFTER_CALLS_S = 2.0


class Restarts:
    """The ends of one worker, one after the other."""

    def __init__(self) -> None:
        #: Ends in a row, each soon after the start.
        self.in_a_row = 0
        self._delay_s = 0.0

    def delay_after_s(self, served_s: float, *, answered: bool) -> float:
        """How long to wait before the next start.

        The last worker could serve for `served_s`; `answered`: some call was answered by it.
        """
        self.in_a_row = 1 if served_s >= LASTING_S else self.in_a_row + 1
        self._delay_s = _FIRST_DELAY_S if self.in_a_row == 1 else min(2 * self._delay_s, _LONGEST_DELAY_S)
        return min(self._delay_s, _LONGEST_DELAY_AFTER_CALLS_S) if answered else self._delay_s

    @property
    def is_loop(self) -> bool:
        return self.in_a_row >= MANY
