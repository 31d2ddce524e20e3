"""The messages of `grpc.testing.TestService`, as far as its service here reads and writes them.

Names and numbers are those of grpc/testing/messages.proto. The pool is our own: the default one keeps room
for whoever has the whole file.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_PACKAGE = "grpc.testing"
_MANY = "repeated "
_SCALARS = {
    "int32": FieldDescriptorProto.TYPE_INT32,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "string": FieldDescriptorProto.TYPE_STRING,
}
#: Each message's fields: the number, the type and the name. An enum's number is read as an int32.
_FIELDS: dict[str, list[tuple[int, str, str]]] = {
    "Empty": [],
    "Payload": [(1, "int32", "type"), (2, "bytes", "body")],
    "EchoStatus": [(1, "int32", "code"), (2, "string", "message")],
    "SimpleRequest": [
        (1, "int32", "response_type"),
        (2, "int32", "response_size"),
        (3, "Payload", "payload"),
        (7, "EchoStatus", "response_status"),
        (9, "bool", "fill_server_id"),
    ],
    "SimpleResponse": [(1, "Payload", "payload"), (4, "string", "server_id")],
    "StreamingInputCallRequest": [(1, "Payload", "payload")],
    "StreamingInputCallResponse": [(1, "int32", "aggregated_payload_size")],
    "ResponseParameters": [(1, "int32", "size"), (2, "int32", "interval_us")],
    "StreamingOutputCallRequest": [
        (1, "int32", "response_type"),
        (2, f"{_MANY}ResponseParameters", "response_parameters"),
        (3, "Payload", "payload"),
        (7, "EchoStatus", "response_status"),
    ],
    "StreamingOutputCallResponse": [(1, "Payload", "payload")],
}


def _field(number: int, kind: str, name: str) -> FieldDescriptorProto:
    one = kind.removeprefix(_MANY)
    label = FieldDescriptorProto.LABEL_OPTIONAL if one == kind else FieldDescriptorProto.LABEL_REPEATED
    made = FieldDescriptorProto(name=name, number=number, label=label)
    if one in _SCALARS:
        made.type = _SCALARS[one]
    else:
        made.type, made.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{one}"
    return made


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    messages = [
        DescriptorProto(name=name, field=[_field(*field) for field in fields])
        for name, fields in _FIELDS.items()
    ]
    file = FileDescriptorProto(name="interop.proto", package=_PACKAGE, syntax="proto3", message_type=messages)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()


def _message(name: str) -> type[Any]:
    made: type[Any] = GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
    return made


Empty = _message("Empty")
SimpleRequest = _message("SimpleRequest")
SimpleResponse = _message("SimpleResponse")
StreamingInputCallRequest = _message("StreamingInputCallRequest")
StreamingInputCallResponse = _message("StreamingInputCallResponse")
StreamingOutputCallRequest = _message("StreamingOutputCallRequest")
StreamingOutputCallResponse = _message("StreamingOutputCallResponse")
