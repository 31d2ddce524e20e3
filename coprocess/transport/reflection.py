"""Server reflection, for tools such as grpcurl."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from coprocess.errors import Status
from coprocess.transport import health
from coprocess.transport.engine import BidiRpc

if TYPE_CHECKING:
    import grpc
    from google.protobuf import descriptor_pool

REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class Reflection:
    """Lets clients ask for services and their messages."""

    def __init__(self, services: Iterable[str], files: Sequence[bytes]) -> None:
        """`files` are serialized FileDescriptorProtos, each after those that it imports."""
        from grpc_reflection.v1alpha import reflection

        self._names = (*services, health.SERVICE, REFLECT.split("/")[1])
        self._pool = _pool(files)
        self._servicer = reflection.ReflectionServicer(self._names, pool=self._pool)

    def begin(self, rpc: BidiRpc) -> None:
        """Serve one call of REFLECT: a BidiHandler."""
        from google.protobuf.message import DecodeError
        from grpc_reflection.v1alpha import reflection_pb2

        no_context = cast("grpc.ServicerContext", None)  # The servicer has no use for one.

        def answer(message: bytes) -> None:
            try:
                request = reflection_pb2.ServerReflectionRequest.FromString(message)
            except DecodeError:
                rpc.end(Status.INVALID_ARGUMENT, "not a ServerReflectionRequest")
                return
            for reply in self._servicer.ServerReflectionInfo(iter([request]), no_context):
                if not rpc.send(reply.SerializeToString()):
                    rpc.end(Status.RESOURCE_EXHAUSTED, "the replies are not read")
                    return

        rpc.on_message = answer


def _pool(files: Sequence[bytes]) -> descriptor_pool.DescriptorPool:
    """A pool that has all: the gateway's messages lie in one pool, those of the libraries in another."""
    from google.protobuf import descriptor_pool
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    pool = descriptor_pool.DescriptorPool()
    libraries = [module.DESCRIPTOR.serialized_pb for module in (health_pb2, reflection_pb2)]
    for file in (*files, *libraries):
        pool.AddSerializedFile(file)
    return pool
