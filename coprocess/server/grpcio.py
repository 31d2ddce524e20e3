"""The grpcio engine: `grpc.server`, which has everything and is slower than the native one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, cast

import grpc

from coprocess.errors import Status
from coprocess.server.engine import Engine, EngineOptions, Handler, ListenError, Metadata, Rpc
from coprocess.server.workers import WorkerThreads

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioRpc(Rpc):
    """A call whose handler thread waits in `result` until somebody has answered."""

    __slots__ = ("_answered", "_context", "_error", "_lock", "_reply")

    def __init__(self, method: str, payload: bytes, context: grpc.ServicerContext) -> None:
        self.method = method
        self.payload = payload
        self._context = context
        self._lock = threading.Lock()
        # Made only where the answer comes later, from another thread.
        self._answered: threading.Event | None = None
        self._reply: bytes | None = None
        self._error: tuple[Status, str] | None = None

    def respond(self, reply: bytes) -> None:
        self._answer(reply, None)

    def fail(self, status: Status, message: str) -> None:
        self._answer(None, (status, message))

    def _answer(self, reply: bytes | None, error: tuple[Status, str] | None) -> None:
        with self._lock:
            if self._reply is None and self._error is None:
                self._reply, self._error = reply, error
            if self._answered is not None:
                self._answered.set()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        def ended() -> None:
            with self._lock:
                open_still = self._reply is None and self._error is None
            if open_still:
                callback()

        self._context.add_callback(ended)

    def metadata(self) -> Metadata:
        return [(key, value) for key, value in self._context.invocation_metadata()]

    def time_remaining_s(self) -> float | None:
        remaining = self._context.time_remaining()
        # grpcio gives the largest number there is where the client set no deadline.
        return None if remaining is None or remaining > _FOREVER_S else remaining

    def result(self) -> bytes:
        """Wait for the answer. Raises what ends a call in grpcio."""
        with self._lock:
            if self._reply is None and self._error is None:
                self._answered = threading.Event()
        if self._answered is not None:
            self._context.add_callback(self._answered.set)
            self._answered.wait()
        if self._reply is not None:
            return self._reply
        status, message = self._error or (Status.CANCELLED, "the client gave up")
        self._context.abort(_CODES[status], message)
        raise AssertionError("abort raises")


_FOREVER_S = 10.0 * 365 * 86400


class _WorkerExecutor(Executor):
    """Worker threads in the form that grpcio takes."""

    def __init__(self, options: EngineOptions) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.threads: WorkerThreads[Callable[[], None]] = WorkerThreads(
            "grpcio", self._tasks.get, _run, minimum=options.min_threads, maximum=options.max_threads
        )
        self.threads.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def task() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - the future's owner gets it
                future.set_exception(error)

        self._tasks.put(task)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for _ in range(self.threads.count):
            self._tasks.put(None)


def _not_started(rpc: Rpc) -> None:
    rpc.fail(Status.UNAVAILABLE, "not started")


def _run(task: Callable[[], None]) -> None:
    task()


class GrpcioEngine(Engine):
    """One server for all addresses."""

    name = "grpcio"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._executor = _WorkerExecutor(options)
        self._handler: Handler = _not_started
        self._server = grpc.server(
            # grpcio takes any executor; its stubs say ThreadPoolExecutor.
            cast("ThreadPoolExecutor", self._executor),
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
                ("grpc.max_concurrent_streams", options.max_concurrent_streams),
                ("grpc.max_metadata_size", options.max_metadata_bytes),
                # Else a second server would share the port, and nobody would be told.
                ("grpc.so_reuseport", 0),
            ],
        )
        services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
        for path in options.methods:
            _, service, method = path.split("/")
            services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(
                self._behavior(path)
            )
        for service, handlers in services.items():
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])

    def _behavior(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def behave(payload: bytes, context: grpc.ServicerContext) -> bytes:
            rpc = GrpcioRpc(method, payload, context)
            self._handler(rpc)
            return rpc.result()

        return behave

    def listen(self, address: str) -> str:
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {address}: {_reason(error)}") from None
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def start(self, handler: Handler) -> None:
        self._handler = handler
        self._server.start()

    def replace_thread(self, thread_id: int) -> bool:
        return self._executor.threads.replace(thread_id)

    def stop(self) -> None:
        self._server.stop(None).wait(_STOP_TIMEOUT_S)
        self._executor.shutdown()

    @property
    def thread_count(self) -> int:
        return self._executor.threads.count


_STOP_TIMEOUT_S = 5.0


def _reason(error: RuntimeError) -> str:
    text = str(error)
    return "Address already in use" if "in use" in text else text
