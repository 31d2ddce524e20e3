"""What one connection asks of the server: who asks for more than its share comes after the others."""

from __future__ import annotations

from typing import Final

from coprocess.transport.http2.stream_ids import StreamIds


class Use:
    """Since the connection was looked at last, which is each second or so."""

    __slots__ = ("_began_s", "_highest_before", "_ids", "is_new", "read_s")

    def __init__(self, ids: StreamIds, now_s: float) -> None:
        self._ids = ids
        self._began_s = now_s
        self._highest_before = 0
        #: What it took to read it. To be added to.
        self.read_s = 0.0
        #: It was neither looked at, nor found to ask for little.
        self.is_new = True

    def begin_again(self) -> None:
        """It is looked at."""
        self._highest_before = self._ids.highest
        self.read_s = 0.0
        self.is_new = False

    @property
    def is_over_share(self) -> bool:
        return self._used_s > SHARE_S

    def is_little(self, now_s: float) -> bool:
        """Of one that is new, and has been there for long enough that this says something."""
        age_s = now_s - self._began_s
        return age_s > NEW_S and self._used_s < SHARE_S * age_s

    @property
    def _used_s(self) -> float:
        # Where calls are, is not known by who runs them: each is counted as one that is quick.
        return self.read_s + ((self._ids.highest - self._highest_before) >> 1) * _CALL_S


#: Of each second.
SHARE_S: Final = 0.03
#: A connection is new for so long at least.
NEW_S: Final = 0.1
#: To run a quick call, and to answer it.
_CALL_S: Final = 0.000025
