"""The native engine: `pygrpc-native`, whose HTTP/2 and gRPC work runs outside of Python."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pygrpc_native import EVENT_CALL, STREAM_SENT, NativeGrpcFront

from coprocess.errors import Status
from coprocess.transport.cancellations import Cancellations
from coprocess.transport.engine import (
    Engine,
    EngineOptions,
    Handler,
    ListenError,
    Metadata,
    Rpc,
    StreamRpc,
    too_large,
)
from coprocess.transport.workers import WorkerThreads

if TYPE_CHECKING:
    import grpc

_IO_THREADS = 1


class NativeRpc(Rpc):
    """A call, as an event of the front."""

    __slots__ = ("_call_id", "_details", "_endpoint")

    def __init__(
        self, endpoint: _Endpoint, call_id: int, method: str, payload: bytes, details: object
    ) -> None:
        self._endpoint = endpoint
        self._call_id = call_id
        self._details = details
        self.method = method
        self.payload = payload

    def respond(self, reply: bytes) -> None:
        endpoint = self._endpoint
        if len(reply) > endpoint.max_message_bytes:
            text = too_large("reply", len(reply), endpoint.max_message_bytes)
            self.fail(Status.RESOURCE_EXHAUSTED, text)
            return
        endpoint.front.respond(self._call_id, reply)
        if endpoint.cancels:
            endpoint.cancels.pop(self._call_id, None)

    def fail(self, status: Status, message: str) -> None:
        self._endpoint.front.fail(self._call_id, status, message)
        self._endpoint.cancels.pop(self._call_id, None)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._endpoint.cancels.when_over(self._call_id, callback)

    def metadata(self) -> Metadata:
        return cast("tuple[Metadata, str, float | None]", self._details)[0] if self._details else ()

    def time_allowed_s(self) -> float | None:
        return cast("tuple[Metadata, str, float | None]", self._details)[2] if self._details else None


class NativeStream(NativeRpc, StreamRpc):
    """A call with many replies."""

    __slots__ = ()

    def send(self, reply: bytes) -> bool:
        return self._endpoint.front.stream_try_send(self._call_id, reply) == STREAM_SENT

    def respond(self, reply: bytes) -> None:
        self.send(reply)
        self._endpoint.front.stream_end(self._call_id)
        self._endpoint.cancels.pop(self._call_id, None)


class _Endpoint:
    """One address, with the threads that serve it."""

    def __init__(self, front: NativeGrpcFront, options: EngineOptions) -> None:
        self.front = front
        self.max_message_bytes = options.max_message_bytes
        #: Calls whose message was too large.
        self.refused_calls = 0
        self.cancels = Cancellations()
        #: By the method's number.
        self._kinds: list[tuple[type[NativeRpc], str]] = [
            *((NativeRpc, method) for method in options.methods),
            *((NativeStream, method) for method in options.streaming_methods),
        ]
        self._options = options

    def start(self, handler: Handler) -> WorkerThreads[NativeRpc]:
        self._threads = WorkerThreads(
            "native",
            self._take,
            handler,
            minimum=self._options.min_threads,
            maximum=self._options.max_threads,
        )
        self.front.start()
        self._threads.start()
        return self._threads

    @property
    def unanswered(self) -> int:
        """Calls whose answer the transport has not passed on to the kernel yet, as far as it knows."""
        counted = self.front.metrics() or {"methods": {}}
        return sum(
            method["started"] - sum(status["count"] for status in method["status"].values())
            for path, method in counted["methods"].items()
            if path in self._options.methods
        )

    def _take(self) -> NativeRpc | None:
        receive = self.front.recv_batch_details
        while (events := receive(1)) is not None:
            for kind, call_id, method_id, payload, _, details in events:
                if kind != EVENT_CALL or payload is None:
                    self.cancels.is_over(call_id)
                elif len(payload) > self.max_message_bytes:
                    self.refused_calls += 1
                    text = too_large("message", len(payload), self.max_message_bytes)
                    self.front.fail(call_id, Status.RESOURCE_EXHAUSTED, text)
                else:
                    kind_of_rpc, method = self._kinds[method_id]
                    return kind_of_rpc(self, call_id, method, payload, details)
        return None


class NativeEngine(Engine):
    """One front, and one set of threads, for each address."""

    name = "native"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._endpoints: list[_Endpoint] = []
        self._threads: list[WorkerThreads[NativeRpc]] = []
        self._behind: _ServerBehind | None = None

    def listen(self, address: str) -> str:
        try:
            front = NativeGrpcFront(
                address,
                [(method, False) for method in self._options.methods]
                + [(method, True) for method in self._options.streaming_methods],
                io_threads=_IO_THREADS,
                call_details=True,
                # Tells which answers have left: see `stop`.
                metrics=True,
                max_concurrent_streams=self._options.max_concurrent_streams,
                max_metadata_size=self._options.max_metadata_bytes,
            )
        except (OSError, ValueError) as error:
            raise ListenError(f"cannot listen on {address}: {_reason(error)}") from None
        self._endpoints.append(_Endpoint(front, self._options))
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{front.bound_port}"

    def start(self, handler: Handler) -> None:
        if self._options.add_services is not None:
            self._behind = _ServerBehind(self._options.add_services)
            for endpoint in self._endpoints:
                endpoint.front.set_fallback(self._behind.path)
        self._threads = [endpoint.start(handler) for endpoint in self._endpoints]

    @property
    def refused_calls(self) -> int:
        return sum(endpoint.refused_calls for endpoint in self._endpoints)

    def replace_thread(self, thread_id: int) -> bool:
        return any(threads.replace(thread_id) for threads in self._threads)

    def stop(self) -> None:
        # close() waits for nothing: answers that were just given would be lost.
        until_s = time.monotonic() + _FLUSH_S
        while any(endpoint.unanswered for endpoint in self._endpoints) and time.monotonic() < until_s:
            time.sleep(_FLUSH_INTERVAL_S)
        time.sleep(_LAST_WRITE_S)
        for endpoint in self._endpoints:
            endpoint.front.close()
        if self._behind is not None:
            self._behind.stop()

    @property
    def thread_count(self) -> int:
        return sum(threads.count for threads in self._threads)

    @property
    def abandoned_thread_count(self) -> int:
        return sum(threads.abandoned for threads in self._threads)


_FLUSH_S = 1.0
_FLUSH_INTERVAL_S = 0.002
# What hyper has taken and not yet written.
_LAST_WRITE_S = 0.02


class _ServerBehind:
    """A small grpcio server on a private socket, to which the fronts pass methods they do not know."""

    def __init__(self, add_services: Callable[[grpc.Server], None]) -> None:
        # Only here: grpcio is large, and most services of this engine never need it.
        from concurrent.futures import ThreadPoolExecutor

        import grpc

        self._folder = tempfile.TemporaryDirectory(prefix="coprocess-")
        self.path = os.path.join(self._folder.name, "behind.sock")
        self._server = grpc.server(ThreadPoolExecutor(2, thread_name_prefix="behind"))
        add_services(self._server)
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._folder.cleanup()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
