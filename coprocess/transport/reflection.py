"""Server reflection, for tools such as grpcurl."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import structlog

from coprocess.errors import Status
from coprocess.transport import health
from coprocess.transport.engine import BidiRpc

if TYPE_CHECKING:
    import grpc
    from google.protobuf import descriptor_pool

log = structlog.get_logger("coprocess")

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
        asked = _Asked(rpc, self._answer)
        rpc.on_message, rpc.on_half_close = asked.put, asked.end

    def _answer(self, rpc: BidiRpc, message: bytes) -> None:
        from google.protobuf.message import DecodeError
        from grpc_reflection.v1alpha import reflection_pb2

        no_context = cast("grpc.ServicerContext", None)  # The servicer has no use for one.
        try:
            request = reflection_pb2.ServerReflectionRequest.FromString(message)
        except DecodeError:
            rpc.end(Status.INVALID_ARGUMENT, "not a ServerReflectionRequest")
            return
        for reply in self._servicer.ServerReflectionInfo(iter([request]), no_context):
            if not rpc.send(reply.SerializeToString()):
                rpc.end(Status.RESOURCE_EXHAUSTED, "the replies are not read")
                return


class _Asked:
    """What one stream asks for, answered one by one: each answer takes long beside other calls."""

    def __init__(self, rpc: BidiRpc, answer: Callable[[BidiRpc, bytes], None]) -> None:
        self._rpc = rpc
        self._answer = answer
        self._lock = threading.Lock()
        #: With the one that is answered now. None: there are no more.
        self._waiting: deque[bytes | None] = deque()

    def put(self, message: bytes | None) -> None:
        with self._lock:
            count = len(self._waiting)
            if count <= _MOST_WAITING:
                self._waiting.append(message)
        if count == 0:
            self._rpc.in_turn(self._next)
        elif count > _MOST_WAITING:
            self._rpc.end(Status.RESOURCE_EXHAUSTED, "too many requests at one time")

    def end(self) -> None:
        self.put(None)

    def _next(self) -> None:
        rpc, message = self._rpc, self._waiting[0]
        if message is None:
            rpc.end()
            return
        try:
            self._answer(rpc, message)
        except Exception:  # A task never raises, and its client waits.
            log.exception("a reflection request failed")
            rpc.end(Status.INTERNAL, "internal error")
        with self._lock:
            self._waiting.popleft()
            is_more = bool(self._waiting)
        if is_more:
            rpc.in_turn(self._next)


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


_MOST_WAITING = 64
