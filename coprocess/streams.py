"""What stands in for standard output or error while handlers print."""

from __future__ import annotations

import io
from typing import Any, TextIO


class StandIn(io.TextIOBase):
    """A stream that is the original in everything but `write`, which is for who derives from it."""

    def __init__(self, original: TextIO) -> None:
        self._original = original

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        # Whoever ends last closes the original, and then what was written is flushed already.
        if not self._original.closed:
            self._original.flush()

    def isatty(self) -> bool:
        return self._original.isatty()

    def fileno(self) -> int:
        return self._original.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # TextIOBase declares an attribute
        return self._original.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
