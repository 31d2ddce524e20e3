"""Server reflection, for tools such as grpcurl. It runs on grpcio, whatever the engine is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coprocess.server import health
from coprocess.tyk import wire

if TYPE_CHECKING:
    import grpc


def add_reflection(server: grpc.Server) -> None:
    """Let clients ask `server` for the services and messages of this program."""
    from google.protobuf import descriptor_pool
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection, reflection_pb2

    # A pool of its own that has all: the protocol's lie in one pool, those of the libraries in another.
    pool = descriptor_pool.DescriptorPool()
    for module in (*wire.MODULES.values(), health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    names = (wire.SERVICE, health.SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=pool)
