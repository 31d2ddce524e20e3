"""Messages as gRPC has them in DATA: a prefix, the bytes, in whatever pieces, and perhaps compressed.

In the words of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, whose rules are named here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from coprocess.errors import Status, raise_from
from coprocess.transport.http2.grpc_wire import Refused
from coprocess.transport.message_limit import too_large

PREFIX_BYTES: Final = 5
#: Of what is unpacked, in and out.
PIECE_BYTES: Final = 64 * 1024


class MessageReader:
    """ "Length-Prefixed-Message"s of one stream, from DATA in whatever pieces.

    Those of a message are put together once: it may be large.
    """

    __slots__ = ("_is_compressed", "_max_bytes", "_missing", "_pieces", "_start", "held_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        #: The bytes of a prefix that is not whole.
        self._start = b""
        #: Of the message that has begun: bytes that are to come; 0: none has.
        self._missing = 0
        self._is_compressed = False
        self._pieces: list[bytes | bytearray] = []
        #: Of what is not whole.
        self.held_bytes = 0

    def keep(self, data: bytes) -> bool:
        """Whether `data` is no more than a part of the message that has begun. Then it is kept."""
        size = len(data)
        if size >= self._missing:
            return False
        pieces = self._pieces
        if size >= _SMALL_PIECE_BYTES or not pieces:
            pieces.append(data)
        elif type(pieces[-1]) is bytearray:
            pieces[-1] += data  # Each by itself would take more than it holds.
        else:
            pieces.append(bytearray(data))
        self._missing -= size
        self.held_bytes += size
        return True

    def feed(self, data: bytes) -> Iterator[tuple[bool, bytes]]:
        """Whether each message is compressed, and its bytes. Raises Refused."""
        while not self.keep(data):
            missing = self._missing
            if missing:
                message, data = b"".join((*self._pieces, data[:missing])), data[missing:]
                self._pieces.clear()
                self._missing = self.held_bytes = 0
                yield self._is_compressed, message
                continue
            data = self._start + data
            if len(data) < PREFIX_BYTES:
                self._start, self.held_bytes = data, len(data)
                return
            self._is_compressed, self._missing = _parse_prefix(data, self._max_bytes)
            self._start, self.held_bytes = b"", PREFIX_BYTES
            data = data[PREFIX_BYTES:]
            if not self._missing:
                self.held_bytes = 0
                yield self._is_compressed, b""


def _parse_prefix(data: bytes, max_bytes: int) -> tuple[bool, int]:
    """Whether the message that begins there is compressed, and its length. Raises Refused."""
    flag = data[0]
    length = int.from_bytes(data[1:PREFIX_BYTES], "big")
    if flag > 1:
        raise Refused(Status.INTERNAL, "malformed message: an unknown compressed-flag")
    if length > max_bytes:
        raise Refused(Status.RESOURCE_EXHAUSTED, too_large("message", length, max_bytes))
    return bool(flag), length


class OneMessage:
    """The one message of a call, in pieces."""

    __slots__ = ("_is_compressed", "_message", "_reader")

    def __init__(self, max_bytes: int) -> None:
        self._reader = MessageReader(max_bytes)
        self._is_compressed = False
        self._message: bytes | None = None

    @property
    def held_bytes(self) -> int:
        return self._reader.held_bytes + len(self._message or b"")

    def take(self, data: bytes) -> None:
        for is_compressed, message in self._reader.feed(data):
            if self._message is not None:
                raise Refused(Status.UNIMPLEMENTED, "this method takes one message, and got more")
            self._is_compressed, self._message = is_compressed, message

    def end(self) -> tuple[bool, bytes]:
        if self._message is None or self._reader.held_bytes:
            if self.held_bytes:
                raise Refused(Status.INTERNAL, "the message is not whole")
            raise Refused(Status.UNIMPLEMENTED, "this method takes one message, and got none")
        return self._is_compressed, self._message


def check_encoding(encoding: str) -> None:
    if encoding != "identity" and encoding not in _WINDOW_BITS:
        raise Refused(Status.UNIMPLEMENTED, "grpc-encoding: expected identity, gzip or deflate")


def unpack(encoding: str, data: bytes, max_bytes: int) -> Iterator[bytes]:
    """A compressed message, piece by piece: each takes and makes `PIECE_BYTES` at most, so it takes no long.

    Raises Refused, before more than `max_bytes` are made.
    """
    window_bits = _WINDOW_BITS.get(encoding)
    if window_bits is None:
        raise Refused(Status.INTERNAL, "a compressed message, and no grpc-encoding that says how")
    inflate = zlib.decompressobj(window_bits)
    taken = made = 0
    rest = b""
    while not inflate.eof:
        if not rest:
            rest = data[taken : taken + PIECE_BYTES]
            taken += len(rest)
        try:
            piece = inflate.decompress(rest, PIECE_BYTES)
        except zlib.error:
            raise_from(Refused(Status.INTERNAL, f"the message is not {encoding}"), None)
        if not piece and not rest:
            break  # It ends too soon.
        made += len(piece)
        if made > max_bytes:
            raise Refused(Status.RESOURCE_EXHAUSTED, f"the message unpacks to more than {max_bytes} bytes")
        rest = inflate.unconsumed_tail
        yield piece
    if not inflate.eof or inflate.unused_data or taken < len(data):
        raise Refused(Status.INTERNAL, f"the message is not {encoding}")


_SMALL_PIECE_BYTES = 1024
# For zlib: gzip's format and zlib's, each with the largest window.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
