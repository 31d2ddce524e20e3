"""What gRPC says in header fields and trailers: requests, metadata and status.

In the words of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, whose rules are named here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from functools import lru_cache

from hpack import Encoder

from coprocess.errors import Status
from coprocess.transport.http2.fields import Field
from coprocess.transport.http2.sending import Block

Metadata = list[tuple[str, str | bytes]]
SentMetadata = tuple[tuple[str, str | bytes], ...]


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
_TO_ENCODE = re.compile(rb"[^ -$&-~]|\A | \Z").sub
_HEADERS: list[Field] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
RESPONSE_HEADERS = make_block(_HEADERS)
OK_TRAILERS = trailers(0, "", b"", (), only=False)
