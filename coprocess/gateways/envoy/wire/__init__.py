"""The messages of Envoy's ext_proc and ext_authz, in a descriptor pool of our own.

Compiled from `proto/envoy` by `make proto`. The package `xds-protos` is not used: it puts its own modules
in the place of those of other packages.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.struct_pb2 import ListValue, Struct, Value
    from google.protobuf.timestamp_pb2 import Timestamp
    from google.protobuf.wrappers_pb2 import BoolValue

    from .address_pb2 import Address
    from .attribute_context_pb2 import AttributeContext
    from .base_pb2 import HeaderMap, HeaderValue, HeaderValueOption, Metadata, QueryParameter
    from .external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse
    from .external_processor_pb2 import (
        BodyMutation,
        BodyResponse,
        CommonResponse,
        HeaderMutation,
        HeadersResponse,
        HttpBody,
        HttpHeaders,
        HttpTrailers,
        ImmediateResponse,
        ProcessingRequest,
        ProcessingResponse,
        ProtocolConfiguration,
        StreamedBodyResponse,
        TrailersResponse,
    )
    from .http_status_pb2 import HttpStatus
    from .processing_mode_pb2 import ProcessingMode
    from .status_pb2 import Status

EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
EXT_AUTHZ = "envoy.service.auth.v3.Authorization"
PROCESS = f"/{EXT_PROC}/Process"
CHECK = f"/{EXT_AUTHZ}/Check"

POOL = descriptor_pool.DescriptorPool()

_PACKAGES = {
    "envoy.service.ext_proc.v3": (
        "BodyMutation",
        "BodyResponse",
        "CommonResponse",
        "HeaderMutation",
        "HeadersResponse",
        "HttpBody",
        "HttpHeaders",
        "HttpTrailers",
        "ImmediateResponse",
        "ProcessingRequest",
        "ProcessingResponse",
        "ProtocolConfiguration",
        "StreamedBodyResponse",
        "TrailersResponse",
    ),
    "envoy.extensions.filters.http.ext_proc.v3": ("ProcessingMode",),
    "envoy.service.auth.v3": (
        "AttributeContext",
        "CheckRequest",
        "CheckResponse",
        "DeniedHttpResponse",
        "OkHttpResponse",
    ),
    "envoy.config.core.v3": (
        "Address",
        "HeaderMap",
        "HeaderValue",
        "HeaderValueOption",
        "Metadata",
        "QueryParameter",
    ),
    "envoy.type.v3": ("HttpStatus",),
    "google.rpc": ("Status",),
    "google.protobuf": ("BoolValue", "Duration", "ListValue", "Struct", "Timestamp", "Value"),
}


def _add_files() -> list[bytes]:
    compiled = descriptor_pb2.FileDescriptorSet.FromString(
        files(__name__).joinpath("envoy.descriptorset").read_bytes()
    )
    for file in compiled.file:
        POOL.Add(file)
    return [file.SerializeToString() for file in compiled.file]


#: The files, each a serialized FileDescriptorProto: for reflection.
FILES: list[bytes] = _add_files()

if not TYPE_CHECKING:
    globals().update(
        {
            name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{package}.{name}"))
            for package, names in _PACKAGES.items()
            for name in names
        }
    )

__all__ = [
    "CHECK",
    "EXT_AUTHZ",
    "EXT_PROC",
    "FILES",
    "POOL",
    "PROCESS",
    "Address",
    "AttributeContext",
    "BodyMutation",
    "BodyResponse",
    "BoolValue",
    "CheckRequest",
    "CheckResponse",
    "CommonResponse",
    "DeniedHttpResponse",
    "Duration",
    "HeaderMap",
    "HeaderMutation",
    "HeaderValue",
    "HeaderValueOption",
    "HeadersResponse",
    "HttpBody",
    "HttpHeaders",
    "HttpStatus",
    "HttpTrailers",
    "ImmediateResponse",
    "ListValue",
    "Metadata",
    "OkHttpResponse",
    "ProcessingMode",
    "ProcessingRequest",
    "ProcessingResponse",
    "ProtocolConfiguration",
    "QueryParameter",
    "Status",
    "StreamedBodyResponse",
    "Struct",
    "Timestamp",
    "TrailersResponse",
    "Value",
]
