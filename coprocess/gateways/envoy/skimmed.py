"""A CheckRequest, skimmed: what few handlers look at stays as bytes, and is read when one does.

To read all of it takes twice as long. A map is a list of its entries, and the bytes of those of a route are
what its chain is known by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from coprocess.errors import BadMessage


class Http(Protocol):
    """Of `envoy.service.auth.v3.AttributeContext.HttpRequest`."""

    method: str
    path: str
    host: str
    scheme: str
    #: Any bytes, though Envoy has them as text.
    body: bytes
    raw_body: bytes
    #: Entries of a map.
    headers: Sequence[bytes]
    #: Parts of a HeaderMap: where a message has a field twice, the two are one.
    header_map: Sequence[bytes]


class _Request(Protocol):
    http: Http


class Attributes(Protocol):
    """Of `envoy.service.auth.v3.AttributeContext`."""

    request: _Request
    #: Entries of a map.
    context_extensions: Sequence[bytes]
    #: Parts of a Metadata.
    metadata_context: Sequence[bytes]


_TEXT, _BYTES = (
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
)
_MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_ONE, _MANY = (
    descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
)
_PACKAGE = "coprocess.envoy"
_Message = TypeVar("_Message", bound=Message)
#: By message: name, number, type and label. The numbers are those of `proto/envoy`.
MESSAGES: dict[str, list[tuple[str, int, Any, Any]]] = {
    "Check": [("attributes", 1, "Attributes", _ONE)],
    "Attributes": [
        ("request", 4, "Request", _ONE),
        ("context_extensions", 10, _BYTES, _MANY),
        ("metadata_context", 11, _BYTES, _MANY),
    ],
    "Request": [("http", 2, "Http", _ONE)],
    "Http": [
        ("method", 2, _TEXT, _ONE),
        ("headers", 3, _BYTES, _MANY),
        ("path", 4, _TEXT, _ONE),
        ("host", 5, _TEXT, _ONE),
        ("scheme", 6, _TEXT, _ONE),
        ("body", 11, _BYTES, _ONE),
        ("raw_body", 12, _BYTES, _ONE),
        ("header_map", 13, _BYTES, _MANY),
    ],
    "Entry": [("key", 1, _TEXT, _ONE), ("value", 2, _TEXT, _ONE)],
}


def _made() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="coprocess/envoy/skimmed.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label in fields:
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _made()


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


_Check, _Entry = _class("Check"), _class("Entry")
_check_of, _entry_of = _Check.FromString, _Entry.FromString


def attributes_of(message: bytes) -> Attributes:
    """Raises BadMessage."""
    try:
        attributes: Attributes = _check_of(message).attributes
    except DecodeError:
        raise BadMessage("not an envoy.service.auth.v3.CheckRequest") from None
    return attributes


def items_of(entries: Sequence[bytes]) -> dict[str, str]:
    """What a map holds. Raises BadMessage."""
    try:
        return {entry.key: entry.value for entry in map(_entry_of, entries)}
    except DecodeError:
        raise BadMessage("a map of a CheckRequest is none of texts") from None


def merged(kind: type[_Message], parts: Sequence[bytes]) -> _Message:
    """What the parts are together, each of them a message of its own. Raises BadMessage."""
    try:
        whole = kind.FromString(parts[0]) if parts else kind()
        for part in parts[1:]:
            whole.MergeFromString(part)
    except DecodeError:
        raise BadMessage(f"the {kind.DESCRIPTOR.name} of a CheckRequest is none") from None
    return whole
