"""What all connections may hold together: what one may, times their number, is more than a process has."""

from __future__ import annotations

from typing import Final


class Share:
    """How much one connection may hold of that. Counted in rounds, in which each is asked once."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        #: An equal part for each that holds something, where all held too much in the round before.
        self.each_bytes = most_bytes
        # Of this round.
        self._bytes = self._holding = 0

    def count(self, held_bytes: int) -> None:
        """One connection, and what it holds."""
        self._bytes += held_bytes
        if held_bytes > _LITTLE_BYTES:
            self._holding += 1

    def end_round(self) -> bool:
        """All were counted. Whether each may hold something else now."""
        before, each_bytes = self.each_bytes, self._most_bytes
        if self._bytes > each_bytes:
            each_bytes = max(each_bytes // max(self._holding, 1), _LITTLE_BYTES)
        self.each_bytes = each_bytes
        self._bytes = self._holding = 0
        return each_bytes != before


#: Who holds no more is never refused for what others hold.
_LITTLE_BYTES: Final = 64 * 1024
