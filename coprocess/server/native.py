"""The native engine: `pygrpc-native`, whose HTTP/2 and gRPC work runs outside of Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from coprocess.errors import Status
from coprocess.server.engine import Engine, EngineOptions, Handler, ListenError, Metadata, Rpc
from coprocess.server.workers import WorkerThreads

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
        if len(reply) > self._endpoint.max_message_bytes:
            self.fail(
                Status.RESOURCE_EXHAUSTED, _too_large("reply", len(reply), self._endpoint.max_message_bytes)
            )
            return
        self._endpoint.front.respond(self._call_id, reply)
        if self._endpoint.cancels:
            self._endpoint.cancels.pop(self._call_id, None)

    def fail(self, status: Status, message: str) -> None:
        self._endpoint.front.fail(self._call_id, status, message)
        self._endpoint.cancels.pop(self._call_id, None)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._endpoint.cancels[self._call_id] = callback

    def metadata(self) -> Metadata:
        return cast("tuple[Metadata, str, float | None]", self._details)[0] if self._details else ()

    def time_remaining_s(self) -> float | None:
        return cast("tuple[Metadata, str, float | None]", self._details)[2] if self._details else None


def _too_large(what: str, size: int, limit: int) -> str:
    return f"the {what} is larger than the limit: {size} of {limit} bytes"


class _Endpoint:
    """One address, with the threads that serve it."""

    def __init__(self, front: NativeGrpcFront, options: EngineOptions) -> None:
        self.front = front
        self.max_message_bytes = options.max_message_bytes
        #: Who wants to know, by call id.
        self.cancels: dict[int, Callable[[], None]] = {}
        self._methods = options.methods
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

    def _take(self) -> NativeRpc | None:
        receive = self.front.recv_batch_details
        while (events := receive(1)) is not None:
            for kind, call_id, method_id, payload, _, details in events:
                if kind != EVENT_CALL or payload is None:
                    if (callback := self.cancels.pop(call_id, None)) is not None:
                        callback()
                elif len(payload) > self.max_message_bytes:
                    too_large = _too_large("message", len(payload), self.max_message_bytes)
                    self.front.fail(call_id, Status.RESOURCE_EXHAUSTED, too_large)
                else:
                    return NativeRpc(self, call_id, self._methods[method_id], payload, details)
        return None


class NativeEngine(Engine):
    """One front, and one set of threads, for each address."""

    name = "native"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._endpoints: list[_Endpoint] = []
        self._threads: list[WorkerThreads[NativeRpc]] = []

    def listen(self, address: str) -> str:
        try:
            front = NativeGrpcFront(
                address,
                [(method, False) for method in self._options.methods],
                io_threads=_IO_THREADS,
                call_details=True,
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
        self._threads = [endpoint.start(handler) for endpoint in self._endpoints]

    def replace_thread(self, thread_id: int) -> bool:
        return any(threads.replace(thread_id) for threads in self._threads)

    def stop(self) -> None:
        for endpoint in self._endpoints:
            endpoint.front.close()

    @property
    def thread_count(self) -> int:
        return sum(threads.count for threads in self._threads)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
