"""Server reflection, for tools such as grpcurl: grpcio's service, also on engines that are not grpcio's."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from coprocess.errors import Status
from coprocess.gateways.tyk import wire
from coprocess.transport import health
from coprocess.transport.engine import BidiHandler, BidiRpc

if TYPE_CHECKING:
    import grpc
    from google.protobuf import descriptor_pool

REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def add_reflection(server: grpc.Server) -> None:
    """Let clients ask `server` for the services and messages of this program."""
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection(_names(), server, pool=_pool())


def reflect() -> BidiHandler:
    """The same as a method of an engine that serves such methods."""
    from google.protobuf.message import DecodeError
    from grpc_reflection.v1alpha import reflection, reflection_pb2

    servicer = reflection.ReflectionServicer(_names(), pool=_pool())

    no_context = cast("grpc.ServicerContext", None)  # It has no use for one.

    def begin(rpc: BidiRpc) -> None:
        def answer(message: bytes) -> None:
            try:
                request = reflection_pb2.ServerReflectionRequest.FromString(message)
            except DecodeError:
                rpc.end(Status.INVALID_ARGUMENT, "not a ServerReflectionRequest")
                return
            for reply in servicer.ServerReflectionInfo(iter([request]), no_context):
                if not rpc.send(reply.SerializeToString()):
                    rpc.end(Status.RESOURCE_EXHAUSTED, "the replies are not read")

        rpc.on_message = answer

    return begin


def _names() -> tuple[str, ...]:
    return wire.SERVICE, health.SERVICE, REFLECT.split("/")[1]


def _pool() -> descriptor_pool.DescriptorPool:
    """A pool that has all: the protocol's messages lie in one pool, those of the libraries in another."""
    from google.protobuf import descriptor_pool
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    pool = descriptor_pool.DescriptorPool()
    for module in (*wire.MODULES.values(), health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool
