"""A skimmed CheckRequest says what the protobuf library reads of the same bytes, whatever those are."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from coprocess.errors import BadMessage
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.encoding import field
from coprocess.gateways.envoy.skimmed import attributes_of, items_of, merged

Said = tuple[object, ...]


def _full_class() -> Any:
    """Envoy's own message, but that the body is any bytes: so Envoy has it."""
    pool = descriptor_pool.DescriptorPool()
    for raw in wire.FILES:
        file = descriptor_pb2.FileDescriptorProto.FromString(raw)
        for message in file.message_type:
            for nested in message.nested_type:
                for each in nested.field:
                    if (nested.name, each.name) == ("HttpRequest", "body"):
                        each.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("envoy.service.auth.v3.CheckRequest"))


_full_of = _full_class().FromString


def read_in_full(raw: bytes) -> Said | None:
    """None: it is no message."""
    try:
        attributes = _full_of(raw).attributes
    except DecodeError:
        return None
    _assume_whole_maps(attributes)
    return _said(
        attributes,
        dict(attributes.request.http.headers),
        attributes.request.http.header_map,
        dict(attributes.context_extensions),
        attributes.metadata_context,
    )


def _assume_whole_maps(attributes: Any) -> None:
    """The library drops an entry of a map that has more than a key and a value; others do not."""
    for message, number in ((attributes, 10), (attributes.request.http, 3)):
        unknown: Any = UnknownFieldSet(message)
        assume(all(each.field_number != number for each in unknown))


def skim(raw: bytes) -> Said | None:
    try:
        attributes = attributes_of(raw)
        http = attributes.request.http
        return _said(
            attributes,
            items_of(http.headers),
            merged(wire.HeaderMap, http.header_map),
            items_of(attributes.context_extensions),
            merged(wire.Metadata, attributes.metadata_context),
        )
    except BadMessage:
        return None


def _said(attributes: Any, headers: Any, header_map: Any, extensions: Any, metadata: Any) -> Said:
    http = attributes.request.http
    return (
        (http.method, http.path, http.host, http.scheme, http.body, http.raw_body),
        headers,
        [(each.key, each.value, each.raw_value) for each in header_map.headers],
        extensions,
        metadata.SerializeToString(deterministic=True),
    )


def varint(value: int, padding: int) -> bytes:
    """With `padding` octets more than it needs."""
    septets = []
    while True:
        septets.append(value & 0x7F)
        value >>= 7
        if not value:
            break
    septets += [0] * padding
    return bytes([*(each | 0x80 for each in septets[:-1]), septets[-1]])


_PADDINGS = st.sampled_from([0, 0, 0, 0, 1, 3, 5, 9])
_TEXTS = st.sampled_from([b"", b"a", b"b", b"GET", "\u00e9".encode(), b"\xff", b"\xed\xa0\x80", b"x" * 130])
#: No message has them.
_UNKNOWN = st.sampled_from([15, 77, 1 << 20, (1 << 29) - 1])


def _tagged(number: int, kind: int, padding: int = 0) -> bytes:
    return varint(number << 3 | kind, padding)


def _filled(number: int, content: bytes, tag: int, length: int) -> bytes:
    return _tagged(number, 2, tag) + varint(len(content), length) + content


def _fields(*known: tuple[int, st.SearchStrategy[bytes]], is_entry: bool = False) -> st.SearchStrategy[bytes]:
    """Fields in any order and number: as they should be, of another kind, and such that nobody knows."""
    numbers = st.one_of(*[st.just(number) for number, _ in known], _UNKNOWN)
    short = _PADDINGS.filter(lambda each: each < 4)
    right = [st.builds(_filled, st.just(number), content, short, _PADDINGS) for number, content in known]
    others = [
        st.builds(
            lambda number, value, pad: _tagged(number, 0) + varint(value, pad), numbers, _VALUES, short
        ),
        st.builds(lambda number: _tagged(number, 5) + bytes(4), numbers),
        st.builds(lambda number: _tagged(number, 1) + bytes(8), numbers),
        st.builds(lambda number: _tagged(number, 3) + _tagged(number, 4), numbers),
        st.builds(_filled, _UNKNOWN, _TEXTS, short, _PADDINGS),
    ]
    each = st.one_of(*right) if is_entry else st.one_of(*right, *right, *right, *others)
    return st.lists(each, max_size=5).map(b"".join)


_VALUES = st.sampled_from([0, 1, 127, 128, (1 << 64) - 1])
_ENTRY = _fields((1, _TEXTS), (2, _TEXTS), is_entry=True)
_HEADER_MAP = _fields((1, _fields((1, _TEXTS), (2, _TEXTS), (3, _TEXTS))))
_STRUCT = _fields((1, _fields((1, _TEXTS), (2, _fields((3, _TEXTS))))))
_METADATA = _fields((1, _fields((1, _TEXTS), (2, _STRUCT))))
_HTTP = _fields(*[(number, _TEXTS) for number in (2, 4, 5, 6, 11, 12)], (3, _ENTRY), (13, _HEADER_MAP))
_MESSAGES = _fields((1, _fields((4, _fields((2, _HTTP))), (10, _ENTRY), (11, _METADATA))))
_MANY = settings(
    max_examples=400, suppress_health_check=list(HealthCheck), deadline=None, database=None, derandomize=True
)


def _in_two(number: int, content: bytes, at: int) -> bytes:
    return field(number, content[:at]) + field(number, content[at:])


_HEADERS = wire.HeaderMap(headers=[wire.HeaderValue(key="x-a", raw_value=b"1")]).SerializeToString()


@_MANY
@given(_MESSAGES)
@example(field(1, field(4, field(2, field(2, b"GET") + _in_two(13, _HEADERS, 5)))))
@example(field(1, _in_two(11, field(1, field(1, b"jwt")), 3)))
@example(field(1, field(10, field(1, b"k") + field(2, b"1")) + field(10, field(2, b"2") + field(1, b"k"))))
@example(_tagged(77, 3) * 50 + _tagged(77, 4) * 50)
@example(_tagged(77, 3) * 200 + _tagged(77, 4) * 200)
@example(field(1, field(4, field(2, field(2, b"GET")))) + field(1, field(4, field(2, field(4, b"/")))))
def test_it_says_what_the_whole_says_and_is_none_where_that_is_none(raw: bytes) -> None:
    assert skim(raw) == read_in_full(raw)


@_MANY
@given(_MESSAGES, st.data())
def test_of_broken_bytes_it_says_what_the_whole_says(raw: bytes, data: st.DataObject) -> None:
    """What it does not look at may be broken."""
    at = data.draw(st.integers(0, len(raw)))
    if data.draw(st.booleans()):
        broken = raw[:at]
    else:
        broken = raw[:at] + data.draw(st.binary(max_size=2)) + raw[at + 1 :]
    said = read_in_full(broken)
    if said is not None:
        assert skim(broken) == said
