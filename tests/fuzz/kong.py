"""What Kong's plugin protocol reads: values in whatever pieces, and no bytes that it breaks on."""

from __future__ import annotations

from collections import deque
from typing import Any

from coprocess.gateways.kong.wire import FrameError, Reader
from tests.fuzz.source import Source

_MAX_FRAME_BYTES = 4096


def play(raw: bytes) -> None:
    source = Source(raw)
    sizes = [1 + source.number() for _ in range(4)]
    stream = source.piece(len(raw))
    whole, whole_error = _read(stream, [len(stream) or 1])
    pieces, pieces_error = _read(stream, sizes)
    assert pieces_error == whole_error
    # Values that were read together with what is none go with it.
    assert whole_error or repr(pieces) == repr(whole)


def _read(stream: bytes, sizes: list[int]) -> tuple[list[Any], bool]:
    reader = Reader(_MAX_FRAME_BYTES)
    values: list[Any] = []
    position = index = 0
    while position < len(stream):
        size = sizes[index % len(sizes)]
        more: deque[Any] = deque()
        try:
            value = reader.next_of(stream[position : position + size], more)
        except FrameError:
            return values, True
        if value is not None:
            values.append(value)
        values += more
        position, index = position + size, index + 1
    return values, False
