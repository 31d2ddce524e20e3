"""A fuzzer's bytes as choices: what changes one byte changes one choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Reads from the front. At the end every number is 0, and every piece is empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        """Whether something is left."""
        return self._position < len(self._data)

    def number(self, size_bytes: int = 1) -> int:
        return int.from_bytes(self.piece(size_bytes), "big")

    def below(self, limit: int) -> int:
        return self.number(1 if limit <= 256 else 2) % limit

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def piece(self, size: int) -> bytes:
        found = self._data[self._position : self._position + size]
        self._position += size
        return found

    def text(self) -> bytes:
        """A short one, whose length is said before it; now and then a long one of few bytes."""
        size = self.number()
        if size < 0xF0:
            return self.piece(size % 64)
        return self.piece(2) * (1 << (size - 0xF0))
