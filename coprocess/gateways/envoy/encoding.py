"""Replies as bytes: few messages, made for each request, and made by hand as that takes a third of the time.

The numbers are those of `proto/envoy`; the tests read what this writes with the classes of `wire`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Final

from coprocess.bounded import kept_by_name

#: The fields of ProcessingResponse.
REQUEST_HEADERS: Final = 1
RESPONSE_HEADERS: Final = 2
REQUEST_BODY: Final = 3
RESPONSE_BODY: Final = 4
REQUEST_TRAILERS: Final = 5
RESPONSE_TRAILERS: Final = 6
IMMEDIATE: Final = 7
_DYNAMIC_METADATA: Final = 8
_MODE_OVERRIDE: Final = 9

#: CommonResponse.ResponseStatus.CONTINUE_AND_REPLACE.
REPLACE = b"\x08\x01"
CLEAR_ROUTE_CACHE = b"\x28\x01"
CLEAR_BODY = b"\x1a\x02\x10\x01"

_LONGEST_SMALL: Final = 0x7F
# HeaderValueOption: append_action OVERWRITE_IF_EXISTS_OR_ADD, and append {value: true}.
_SET: Final = b"\x18\x02"
_ADD: Final = b"\x12\x02\x08\x01"
AFTER_VALUE: Final = _SET

#: An entry: its header, in that its name and its value; and what is beside the header.
_ENTRY: Final = b"%c%c\x0a%c\x0a%c%b\x1a%c%b%b"
#: Of a Struct: an entry that is a Struct, with one entry that is a text.
_ONE_TEXT: Final = b"\x0a%c%b\x12%c\x2a%c\x0a%c%b\x12%c\x1a%c%b"
#: A HeaderValueOption with a name and a `value`.
_TEXT_ENTRY: Final = b"%c%c\x0a%c\x0a%c%b\x12%c%b"
#: An answer with a CommonResponse.
_REPLY: Final = b"%c%c\x0a%c%b"

# Of fields by number and by length: made once, as each reply has a dozen.
_SMALL_HEADS: Final = [
    [bytes((number << 3 | 2, size)) for size in range(_LONGEST_SMALL + 1)] for number in range(16)
]


def varint(value: int) -> bytes:
    if value <= _LONGEST_SMALL:
        return bytes((value,))
    octets = bytearray()
    while value > _LONGEST_SMALL:
        octets.append(value & _LONGEST_SMALL | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, of text or of a message."""
    size = len(content)
    if size <= _LONGEST_SMALL:
        return _SMALL_HEADS[number][size] + content
    return bytes((number << 3 | 2,)) + varint(size) + content


def number_field(number: int, value: int) -> bytes:
    return bytes((number << 3,)) + varint(value) if value else b""


def set_header(name: bytes, value: bytes, *, append: bool = False, number: int = 1) -> bytes:
    """An entry of `HeaderMutation.set_headers`: as every version of ext_proc understands it.

    It ignores `append_action`, and `value`: what adds says so by `append`, and the value is `raw_value`.
    """
    name_size, size = len(name), len(value)
    header_size = name_size + size + 4
    if header_size <= _LONGEST_SMALL - 6:
        # All lengths are one byte: by one format, as most headers are set so.
        end = _ADD if append else _SET
        head, entry_size = number << 3 | 2, header_size + 2 + len(end)
        return _ENTRY % (head, entry_size, header_size, name_size, name, size, value, end)
    header = field(1, field(1, name) + field(3, value))
    return field(number, header + (_ADD if append else _SET))


def set_text_header(name: bytes, value: bytes, number: int) -> bytes:
    """The same for ext_authz, which does not read `raw_value`."""
    name_size, size = len(name), len(value)
    header_size = name_size + size + 4
    if header_size <= _LONGEST_SMALL - 2:
        return _TEXT_ENTRY % (number << 3 | 2, header_size + 2, header_size, name_size, name, size, value)
    return field(number, field(1, field(1, name) + field(2, value)))


def remove_headers(names: Iterable[bytes]) -> bytes:
    return b"".join([field(2, name) for name in names])


def reply(kind: int, common: bytes, dynamic_metadata: bytes = b"", mode: bytes = b"") -> bytes:
    """A ProcessingResponse with a HeadersResponse, or a BodyResponse, that has this CommonResponse."""
    if not dynamic_metadata and not mode:
        size = len(common)
        if not size:
            return EMPTY[kind]
        if size <= _LONGEST_SMALL - 2:
            return _REPLY % (kind << 3 | 2, size + 2, size, common)
    answer = field(kind, field(1, common) if common else b"")
    if dynamic_metadata:
        answer += metadata(dynamic_metadata)
    if mode:
        answer += field(_MODE_OVERRIDE, mode)
    return answer


@functools.lru_cache(maxsize=4096)
def before_value(kind: int, name: bytes, size: int) -> bytes:
    """Of a reply that sets this header, and does no more: what stands before the value, of that size.

    Behind it stands AFTER_VALUE. For names up to LONGEST_NAME.
    """
    whole = reply(kind, field(2, set_header(name, bytes(size))))
    return whole[: -size - len(AFTER_VALUE)]


def metadata(struct: bytes) -> bytes:
    """Dynamic metadata: what may stand behind any reply."""
    return field(_DYNAMIC_METADATA, struct)


def reply_with_body(kind: int, common: bytes, body: bytes, rest: bytes, dynamic_metadata: bytes) -> bytes:
    """The same with a `body_mutation` between the two."""
    inner = _head(1, len(body))
    mutation = _head(3, len(inner) + len(body))
    after = metadata(dynamic_metadata) if dynamic_metadata else b""
    return _nested((common, mutation, inner, body, rest), (1, kind), after)


def _nested(parts: tuple[bytes, ...], numbers: tuple[int, ...], after: bytes = b"") -> bytes:
    """`parts` in fields of those numbers, from within. A large body is copied once, and not at each level."""
    size, heads = sum(map(len, parts)), []
    for number in numbers:
        head = _head(number, size)
        heads.append(head)
        size += len(head)
    return b"".join((*reversed(heads), *parts, after))


def _head(number: int, size: int) -> bytes:
    """What stands before a field of that size."""
    return bytes((number << 3 | 2,)) + varint(size)


#: Replies that change nothing.
EMPTY: Final = {kind: field(kind, b"") for kind in range(REQUEST_HEADERS, IMMEDIATE)}


def immediate(
    status: int,
    mutation: bytes,
    body: bytes,
    details: str,
    dynamic_metadata: bytes = b"",
) -> bytes:
    """A ProcessingResponse that answers the client."""
    content = field(1, number_field(1, status))
    if mutation:
        content += field(2, mutation)
    if body:
        content += field(3, body)
    if details:
        content += field(5, details.encode())
    answer = field(IMMEDIATE, content)
    return answer + metadata(dynamic_metadata) if dynamic_metadata else answer


@functools.lru_cache(maxsize=64)
def mode(
    *,
    request_body: int = 0,
    response_body: int = 0,
    response_headers: int = 0,
    request_trailers: int = 0,
    response_trailers: int = 0,
) -> bytes:
    """A ProcessingMode. What is left out is NONE for bodies, DEFAULT for headers."""
    return (
        number_field(2, response_headers)
        + number_field(3, request_body)
        + number_field(4, response_body)
        + number_field(5, request_trailers)
        + number_field(6, response_trailers)
    )


def struct(entries: Mapping[str, Any]) -> bytes:
    """A `google.protobuf.Struct` of texts, lists of texts, and mappings of the same."""
    return b"".join(
        [field(1, _entry_name(name) + field(2, _value(value))) for name, value in entries.items()]
    )


def struct_of_one(namespace: str, name: str, text: str) -> bytes:
    """The same of one mapping with one text."""
    head, inner, content = _entry_name(namespace), _entry_name(name), text.encode()
    size, inner_size = len(content), len(inner) + len(content) + 4
    if inner_size + len(head) <= _LONGEST_SMALL - 6:
        sizes = inner_size + 4, inner_size + 2, inner_size
        return _ONE_TEXT % (len(head) + inner_size + 6, head, *sizes, inner, size + 2, size, content)
    entry = inner + field(2, field(3, content))
    return field(1, head + field(2, field(5, field(1, entry))))


@kept_by_name
def _entry_name(name: str) -> bytes:
    return field(1, name.encode())


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return field(3, value.encode())
    if isinstance(value, Mapping):
        return field(5, struct(value))
    return field(6, b"".join([field(1, _value(each)) for each in value]))


def streamed(kind: int, body: bytes, end_of_stream: bool) -> bytes:
    """A reply in FULL_DUPLEX_STREAMED mode: a piece of the body."""
    piece = (_head(1, len(body)), body) if body else ()
    return _nested((*piece, number_field(2, int(end_of_stream))), (3, 3, 1, kind))
