"""What gRPC says in HTTP/2's terms: requests, messages, metadata and status.

In the words of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, whose rules are named here.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from hpack import Encoder

from coprocess.errors import Status
from coprocess.transport.engine import too_large
from coprocess.transport.http2.fields import Field
from coprocess.transport.http2.sending import Block

Metadata = list[tuple[str, str | bytes]]
SentMetadata = tuple[tuple[str, str | bytes], ...]

PREFIX_BYTES: Final = 5
PIECE_BYTES: Final = 64 * 1024


class Refused(Exception):
    """The call ends with a status before a handler sees it."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class NotGrpc(Exception):
    """The request is no call, and is answered as HTTP is."""

    def __init__(self, http_status: int, text: str, *, is_head: bool = False) -> None:
        """`is_head`: the answer has no content (RFC 9110 §9.3.2)."""
        super().__init__(text)
        self.http_status = http_status
        self.text = text
        self.is_head = is_head


class Request:
    """What the header fields of a call say ("Request-Headers")."""

    __slots__ = ("_fields", "_metadata", "encoding", "method", "timeout_s")

    def __init__(self, fields: list[Field]) -> None:
        """Raises NotGrpc and Refused."""
        named = dict(fields)
        if named[b":method"] != b"POST":
            raise NotGrpc(405, "expected POST", is_head=named[b":method"] == b"HEAD")
        content_type = named.get(b"content-type", b"")
        if not _IS_GRPC(content_type.lower()):
            raise NotGrpc(415, "expected content-type application/grpc")
        timeout = named.get(b"grpc-timeout")
        #: From when the headers came; None: no deadline.
        self.timeout_s = None if timeout is None else parse_timeout(timeout)
        self.method = named[b":path"].decode("latin-1")
        #: Of messages that are compressed.
        self.encoding = named.get(b"grpc-encoding", b"identity").decode("latin-1")
        self._fields = fields
        self._metadata: Metadata | None = None

    @property
    def metadata(self) -> Metadata:
        """ "Custom-Metadata": without what is the protocol's own. Calls with the same fields share it."""
        if self._metadata is not None:
            return self._metadata
        found: Metadata = []
        for name, value in self._fields:
            if name[:1] == b":" or name in _OF_PROTOCOL:
                continue
            key = name.decode("latin-1")
            if key.endswith("-bin"):
                found.extend((key, part) for part in parse_binary(value))
            else:
                found.append((key, value.decode("latin-1")))
        self._metadata = found
        return found


def parse_timeout(value: bytes) -> float:
    """ "Timeout": at most 8 digits and a unit."""
    match = _IS_TIMEOUT(value)
    if match is None:
        raise Refused(Status.INTERNAL, "malformed grpc-timeout")
    return int(match[1]) * _UNITS_S[match[2]]


def parse_binary(value: bytes) -> Iterator[bytes]:
    """The values of a "-bin" field: base64 with or without padding, joined by commas."""
    for part in value.split(b","):
        text = part.strip()
        try:
            yield base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            continue  # Nothing that one could show a handler.


def decompress(encoding: str, data: bytes, max_bytes: int) -> bytes:
    """Raises Refused, before more than `max_bytes` are made."""
    return b"".join(unpack(encoding, data, max_bytes))


def unpack(encoding: str, data: bytes, max_bytes: int) -> Iterator[bytes]:
    """The same piece by piece: each takes and makes `PIECE_BYTES` at most, so that it takes no long."""
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
            raise Refused(Status.INTERNAL, f"the message is not {encoding}") from None
        if not piece and not rest:
            break  # It ends too soon.
        made += len(piece)
        if made > max_bytes:
            raise Refused(Status.RESOURCE_EXHAUSTED, f"the message unpacks to more than {max_bytes} bytes")
        rest = inflate.unconsumed_tail
        yield piece
    if not inflate.eof or inflate.unused_data or taken < len(data):
        raise Refused(Status.INTERNAL, f"the message is not {encoding}")


def check_encoding(encoding: str) -> None:
    if encoding != "identity" and encoding not in _WINDOW_BITS:
        raise Refused(Status.UNIMPLEMENTED, "grpc-encoding: expected identity, gzip or deflate")


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


# What is sent. No field goes into the peer's dynamic table: so a block is the same for every stream.


def make_block(fields: list[Field]) -> Block:
    # "Never indexed" is the one way in which this encoder leaves the table alone.
    return Block(_ENCODER.encode([(name, value, True) for name, value in fields]))


@lru_cache(maxsize=256)
def trailers(status: int, message: str, details: bytes, metadata: SentMetadata, *, only: bool) -> Block:
    """ "Trailers", and with `only` those that are the whole response ("Trailers-Only")."""
    fields = [(b"grpc-status", b"%d" % status)]
    if message:
        fields.append((b"grpc-message", percent_encode(message)))
    if details:
        fields.append((b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")))
    if status == Status.UNIMPLEMENTED:
        fields.append((b"grpc-accept-encoding", b"identity,deflate,gzip"))
    return make_block([*(_HEADERS if only else ()), *fields, *_encode_metadata(metadata)])


def response_headers(metadata: SentMetadata) -> Block:
    return make_block([*_HEADERS, *_encode_metadata(metadata)]) if metadata else RESPONSE_HEADERS


def _encode_metadata(metadata: SentMetadata) -> list[Field]:
    """Raises ValueError where it cannot be sent: text is printable ASCII, and only "-bin" holds bytes."""
    fields = []
    for name, value in metadata:
        is_binary = name.endswith("-bin")
        if not _IS_METADATA_NAME(name) or is_binary != isinstance(value, bytes):
            raise ValueError(f"metadata {name!r}: expected a lower-case name, and bytes for -bin only")
        encoded = base64.b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode("ascii")
        if not _IS_METADATA_VALUE(encoded):
            raise ValueError(f"metadata {name!r}: expected printable ASCII")
        # Space around it is not of the value, and would make the field malformed (RFC 9113 §8.2.1).
        fields.append((name.encode("ascii"), encoded.strip(b" ")))
    return fields


def percent_encode(text: str) -> bytes:
    """ "Percent-Encoded": printable ASCII as it is, but for the percent sign, and for space around it.

    A field value may not begin or end with a space (RFC 9113 §8.2.1).
    """
    return _TO_ENCODE(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))


@lru_cache(maxsize=8)
def http_response(http_status: int, reason: str) -> tuple[Block, bytes]:
    """The header fields, and the content, of an answer to what is no call."""
    text = f"{reason}\n".encode()
    fields = [
        (b":status", b"%d" % http_status),
        (b"content-type", b"text/plain"),
        (b"content-length", b"%d" % len(text)),
    ]
    if http_status == _METHOD_NOT_ALLOWED:
        fields.append((b"allow", b"POST"))
    return make_block(fields), text


_SMALL_PIECE_BYTES = 1024
_ENCODER = Encoder()
_METHOD_NOT_ALLOWED = 405
_IS_METADATA_NAME = re.compile(r"[0-9a-z_.\-]+").fullmatch
_IS_METADATA_VALUE = re.compile(rb"[ -~]*").fullmatch
# Other message formats than protobuf ("+json") would be taken for it.
_IS_GRPC = re.compile(rb"application/grpc(?:\+proto)?(?:[ \t]*;.*)?").fullmatch
_IS_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_OF_PROTOCOL = frozenset(
    (b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"content-length")
)
# For zlib: gzip's format and zlib's, each with the largest window.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_TO_ENCODE = re.compile(rb"[^ -$&-~]|\A | \Z").sub
_HEADERS: list[Field] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
RESPONSE_HEADERS = make_block(_HEADERS)
OK_TRAILERS = trailers(0, "", b"", (), only=False)
