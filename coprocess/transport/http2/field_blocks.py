"""A field block that comes in HEADERS and CONTINUATION (RFC 9113 §4.3, §6.10)."""

from __future__ import annotations

from coprocess.transport.http2.fields import max_block_bytes
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode


class FieldBlock:
    """What came of it so far. How much there may be is bounded: it is kept until the end comes."""

    __slots__ = ("_data", "_frames", "_max_bytes", "flags")

    def __init__(self, max_list_bytes: int) -> None:
        self._max_bytes = max_block_bytes(max_list_bytes)
        self._data = bytearray()
        self._frames = 0
        #: Of the HEADERS.
        self.flags = 0

    def begin(self, flags: int, payload: bytes) -> None:
        self.flags = flags
        self._data += payload
        self._frames = 1

    def go_on(self, payload: bytes) -> None:
        self._data += payload
        self._frames += 1
        if len(self._data) > self._max_bytes or self._frames > _MAX_FRAMES:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "the field section is too large")

    def end(self) -> bytes:
        """The whole block; it is kept no longer."""
        block = bytes(self._data)
        self._data.clear()
        return block


_MAX_FRAMES = 32
