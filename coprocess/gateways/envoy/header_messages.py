"""A ProcessingRequest with headers, as Envoy writes it, taken apart without reading the headers.

Whether they are a HeaderMap is found out when a handler asks: no reply depends on what nobody has read. Where
somebody has, and they are none, the request is refused, whatever the handler made of that. A message may be
written in other ways that mean the same: this says that it is another one then, to be read as a whole.
"""

from __future__ import annotations

import functools
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from coprocess.gateways.envoy.side import FULL_DUPLEX, NONE
from coprocess.gateways.envoy.wire import ProcessingRequest

#: The tags of ProcessingRequest.request_headers and response_headers.
REQUEST: Final = 0x12
RESPONSE: Final = 0x1A


class Beside(NamedTuple):
    """What a message says beside its headers."""

    request_mode: int
    response_mode: int
    #: As an attribute tells it; empty: none does.
    route_name: str


def header_message(message: bytes, tag: int) -> tuple[bytes, bool, Beside] | None:
    """Its HeaderMap, serialized; whether no body follows; and what is beside them.

    None: it is another message, or says more: of metadata, say.
    """
    if message[:1] in _TAGS_BESIDE:
        # Go writes the phase last. In which order fields stand means nothing.
        for empty in _EMPTY_BESIDE:
            if message.startswith(empty):
                message = message[len(empty) :] + empty
                break
    try:
        kind, size, second, third, fourth, fifth = _START(message)
    except StructError:
        return None
    if kind != tag:
        return None
    if size < _GOES_ON:
        first, size_of_map, more, at = second, third, fourth, 4
    elif second < _GOES_ON:
        first, size_of_map, more, at = third, fourth, fifth, 5
        size += (second << 7) - _GOES_ON + 1
    else:
        return None
    end = 2 + size
    if size_of_map >= _GOES_ON:
        if more >= _GOES_ON:
            return None
        size_of_map += (more << 7) - _GOES_ON
        at += 1
    if first != _FIRST_FIELD:
        return None
    map_end = at + size_of_map
    if end > len(message) or (map_end != end and message[map_end:end] != _END_OF_STREAM):
        return None
    rest = message[end:]
    beside = _NOTHING if not rest else _beside_kept(rest) if len(rest) <= _LONGEST_KEPT else _beside(rest)
    return None if beside is None else (message[at:map_end], map_end != end, beside)


def _beside(rest: bytes) -> Beside | None:
    try:
        asked = ProcessingRequest.FromString(rest)
    except DecodeError:
        return None
    config = asked.protocol_config
    modes = config.request_body_mode, config.response_body_mode
    if (
        asked.WhichOneof("request") is not None
        or FULL_DUPLEX in modes
        or asked.metadata_context.filter_metadata
        or asked.observability_mode
    ):
        return None
    return Beside(*modes, route_name(asked))


_beside_kept: Final = functools.lru_cache(maxsize=256)(_beside)


def route_name(first: ProcessingRequest) -> str:
    attributes = first.attributes
    if _ATTRIBUTES not in attributes:
        return ""
    fields = attributes[_ATTRIBUTES].fields
    return fields[_ROUTE_NAME].string_value if _ROUTE_NAME in fields else ""


def method_in(header_map: bytes) -> str | None:
    """The method, where it is one of HTTP's own, and its name stands nowhere else.

    What stands before its name is in no name or value: Envoy lets no line break into them.
    """
    if header_map.count(_METHOD_NAME) != 1:
        return None
    at = header_map.find(_METHOD_KEY)
    value = at + _METHOD_KEY_BYTES
    if at < _ENTRY_BYTES or value >= len(header_map):
        return None
    return _METHODS.get(header_map[at - _ENTRY_BYTES : value + 1 + header_map[value]])


def has_path(header_map: bytes) -> bool:
    """Whether it has a `:path`, found as `method_in` finds the method."""
    return _PATH_KEY in header_map


def status_in(header_map: bytes) -> int | None:
    """The status, where it comes first, as it does."""
    return _STATUSES.get(header_map[:_STATUS_BYTES])


def _header(name: bytes, value: bytes) -> bytes:
    """A HeaderValue, as an entry of a HeaderMap."""
    entry = b"\x0a%c%b\x1a%c%b" % (len(name), name, len(value), value)
    return b"\x0a%c%b" % (len(entry), entry)


_METHODS: Final = {
    _header(b":method", method.encode()): method
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
}
#: Its name as the key of an entry, up to the length of the value, and what stands before that.
_METHOD_NAME: Final = b":method"
_METHOD_KEY: Final = b"\x0a\x07" + _METHOD_NAME + b"\x1a"
_PATH_KEY: Final = b"\x0a\x05:path"
_METHOD_KEY_BYTES: Final = len(_METHOD_KEY)
_ENTRY_BYTES: Final = 2
_STATUSES: Final = {_header(b":status", b"%d" % status): status for status in range(100, 600)}
_STATUS_BYTES: Final = len(_header(b":status", b"200"))
#: An empty metadata_context, an empty protocol_config, or both.
_EMPTY_BESIDE: Final = (b"\x42\x00\x5a\x00", b"\x42\x00", b"\x5a\x00")
_TAGS_BESIDE: Final = frozenset((b"\x42", b"\x5a"))
#: The tag and the length of the headers; the tag and the length of their map.
_START: Final = Struct("6B").unpack_from
#: Of a length: another byte follows.
_GOES_ON: Final = 0x80
#: The tag of field 1, where that is a message: HttpHeaders.headers.
_FIRST_FIELD: Final = 0x0A
#: HttpHeaders.end_of_stream.
_END_OF_STREAM: Final = b"\x18\x01"
#: Most say the same beside the headers of each request: where that is short, it is read once.
_LONGEST_KEPT: Final = 64
_NOTHING: Final[Beside | None] = Beside(NONE, NONE, "")
_ATTRIBUTES = "envoy.filters.http.ext_proc"
_ROUTE_NAME = "xds.route_name"
