"""The grpcio engine: `grpc.server`, which has everything and is slower than ours."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import grpc

from coprocess.errors import Status
from coprocess.transport.awake import AwakeTime
from coprocess.transport.engine import (
    Engine,
    EngineOptions,
    FailedReply,
    ListenError,
    Metadata,
    Methods,
    Rpc,
    StreamRpc,
)
from coprocess.transport.grpcio_bidi import CODES, GrpcioBidi, metadata_of, time_allowed_s
from coprocess.transport.message_limit import too_large
from coprocess.transport.workers import WorkerThreads


class GrpcioRpc(Rpc):
    """A call that is answered from any thread: none waits for the answer."""

    __slots__ = ("_answered", "_came_s", "_context", "_lock", "_max_reply_bytes", "_send", "failed")

    def __init__(
        self,
        method: str,
        payload: bytes,
        context: grpc.ServicerContext,
        send: Callable[[bytes | None], None],
        max_reply_bytes: int,
    ) -> None:
        self.method = method
        self.payload = payload
        self._context = context
        self._send = send
        self._max_reply_bytes = max_reply_bytes
        self._lock = threading.Lock()
        self._came_s = time.monotonic()
        self._answered = False
        #: That of its method.
        self.failed: FailedReply | None = None

    def respond(self, reply: bytes) -> None:
        if len(reply) > self._max_reply_bytes:
            self.fail(Status.RESOURCE_EXHAUSTED, too_large("reply", len(reply), self._max_reply_bytes))
        elif self._is_first():
            self._end(reply)

    def fail(self, status: Status, message: str) -> None:
        if not self._is_first():
            return
        if self.failed is not None:
            self._end(self.failed(status, message))
        else:
            self._context.set_code(CODES[status])
            self._context.set_details(message)
            self._end(None)

    def _is_first(self) -> bool:
        with self._lock:
            first, self._answered = not self._answered, True
        return first

    def _end(self, reply: bytes | None) -> None:
        if reply is not None:
            self._send(reply)
        self._send(None)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        def ended() -> None:
            if not self._answered:
                callback()

        if not self._context.add_callback(ended):
            ended()  # It is over already: grpcio would never call back.

    def metadata(self) -> Metadata:
        return metadata_of(self._context)

    def time_allowed_s(self) -> float | None:
        return time_allowed_s(self._context, self._came_s)


class GrpcioStream(GrpcioRpc, StreamRpc):
    """A call with many replies; a thread of its own sends them, as grpcio waits for readers that are slow."""

    __slots__ = ("_outgoing",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        #: None: the end.
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        if not self._context.add_callback(lambda: self._outgoing.put(None)):
            self._outgoing.put(None)  # It is over already, and perhaps nobody ends it.
        threading.Thread(target=self._send_outgoing, name="grpcio-stream", daemon=True).start()

    def send(self, reply: bytes) -> bool:
        if not self._context.is_active() or self._outgoing.qsize() >= _MAX_UNREAD:
            return False
        self._outgoing.put(reply)
        return True

    def _end(self, reply: bytes | None) -> None:
        if reply is not None:
            self._outgoing.put(reply)
        self._outgoing.put(None)

    def _send_outgoing(self) -> None:
        while (reply := self._outgoing.get()) is not None:
            self._send(reply)
        self._send(None)


_MAX_UNREAD = 16
#: Each has a thread.
_MAX_BIDIS = 2048


class _SubmittedCall:
    """What grpcio uses of a Future: it is told of the end. A real one takes 2 µs more of each call."""

    __slots__ = ("_callbacks", "_ended", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[object], object]] = []
        self._ended = False

    def run(self, call: Callable[[], object]) -> None:
        try:
            call()
        finally:
            with self._lock:
                self._ended = True
            for callback in self._callbacks:
                callback(self)

    def add_done_callback(self, callback: Callable[[object], object]) -> None:
        with self._lock:
            if not self._ended:
                self._callbacks.append(callback)
                return
        callback(self)


class _WorkerExecutor(Executor):
    """Worker threads in the form that grpcio takes."""

    def __init__(self, options: EngineOptions) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.threads: WorkerThreads[Callable[[], None]] = WorkerThreads(
            "grpcio", self._tasks.get, _run, minimum=options.min_threads, maximum=options.max_threads
        )
        self.threads.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call = _SubmittedCall()
        self._tasks.put(lambda: call.run(partial(fn, *args, **kwargs)))
        return cast("Future[Any]", call)

    def run(self, task: Callable[[], None]) -> None:
        """Run `task` in one of the threads."""
        self._tasks.put(task)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for _ in range(self.threads.count):
            self._tasks.put(None)


def _run(task: Callable[[], None]) -> None:
    task()


class GrpcioEngine(Engine):
    """One server for all addresses."""

    name = "grpcio"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._executor = _WorkerExecutor(options)
        self._methods = Methods()
        #: Calls whose answer has not left.
        self._unsent: set[GrpcioRpc] = set()
        self._bidis: set[GrpcioBidi] = set()
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
                # Else grpcio itself ends calls that wait for this process, beyond 1,000 some, beyond 3,000
                # all, whoever they are from: as CANCELLED, and without a word to anybody. How many one
                # connection may have is limited above; the service then sheds what is too much for a hook.
                ("grpc.server.max_pending_requests", _NO_LIMIT),
                ("grpc.server.max_pending_requests_hard_limit", _NO_LIMIT),
                ("grpc.server_max_unrequested_time_in_server", _NO_LIMIT),
                # Else who pings more often than each five minutes loses the connection, and its calls.
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )

    def _register(self, methods: Methods) -> None:
        services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
        for path in methods.unary:
            _, service, method = path.split("/")
            # Not grpcio's unary handler: in that, a thread would wait until a call is answered.
            services.setdefault(service, {})[method] = grpc.unary_stream_rpc_method_handler(
                self._behavior(path, GrpcioRpc)
            )
        for path in methods.server_streaming:
            _, service, method = path.split("/")
            services.setdefault(service, {})[method] = grpc.unary_stream_rpc_method_handler(
                self._behavior(path, GrpcioStream)
            )
        for path in methods.bidi:
            _, service, method = path.split("/")
            services.setdefault(service, {})[method] = grpc.stream_stream_rpc_method_handler(
                self._bidi_behavior(path)
            )
        for service, handlers in services.items():
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
            # As generated code does: calls of methods that are known beforehand take less work.
            self._server.add_registered_method_handlers(service, handlers)

    def _behavior(self, method: str, kind: type[GrpcioRpc]) -> Callable[..., Any]:
        max_reply_bytes, unsent = self._options.max_message_bytes, self._unsent

        def behave(
            payload: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]
        ) -> None:
            rpc = kind(method, payload, context, send, max_reply_bytes)
            rpc.failed = self._methods.failed.get(method)
            if kind is GrpcioRpc:
                unsent.add(rpc)
                if not context.add_callback(partial(unsent.discard, rpc)):
                    unsent.discard(rpc)
            # Looked up with each call, as `use` may have changed it.
            if isinstance(rpc, GrpcioStream):
                self._methods.server_streaming[method](rpc)
            else:
                self._methods.unary[method](rpc)

        # As grpcio's own health service does it: else each call would keep a thread.
        behave.experimental_non_blocking = True  # type: ignore[attr-defined]  # grpcio reads it off the function
        return behave

    def _bidi_behavior(self, method: str) -> Callable[..., Any]:
        max_reply_bytes, submit, open_streams = (
            self._options.max_message_bytes,
            self._executor.run,
            self._bidis,
        )

        def behave(
            messages: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[bytes | None], None]
        ) -> None:
            rpc = GrpcioBidi(method, messages, context, send, max_reply_bytes, submit)
            rpc.failed = self._methods.failed.get(method)
            open_streams.add(rpc)
            if len(open_streams) > _MAX_BIDIS or not context.add_callback(partial(open_streams.discard, rpc)):
                open_streams.discard(rpc)
                rpc.fail(Status.RESOURCE_EXHAUSTED, "too many streams are open")
                return
            rpc.start(self._methods.bidi[method])

        behave.experimental_non_blocking = True  # type: ignore[attr-defined]  # as above
        return behave

    def listen(self, address: str) -> str:
        tls = None if address.startswith("unix:") else self._options.tls
        if not address.startswith("unix:") and not _names_a_port(address):
            # grpcio would take another port.
            raise ListenError(f"cannot listen on {address}: expected HOST:PORT, the port from 0 to 65535")
        try:
            if tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, tls.server_credentials())
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {address}: {_reason(address, error)}") from None
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def start(self, methods: Methods) -> None:
        self.use(methods)
        self._register(methods)
        self._server.start()

    def use(self, methods: Methods) -> None:
        self._methods = methods

    def replace_thread(self, thread_id: int) -> bool:
        return self._executor.threads.replace(thread_id)

    def stop(self) -> None:
        # Answers that were just given are still on their way. grpcio could wait for them itself, but
        # meanwhile it would cancel new calls without a word, instead of having them refused.
        self._flush(self._unsent.copy())
        # grpcio would end these with an error, too.
        open_calls: set[GrpcioRpc | GrpcioBidi] = {*self._unsent.copy(), *self._bidis.copy()}
        given_up = {rpc for rpc in open_calls if rpc.failed is not None}
        for rpc in given_up:
            rpc.fail(Status.UNAVAILABLE, "the service is shutting down")
        self._flush(given_up)
        self._server.stop(None).wait(_STOP_TIMEOUT_S)
        self._executor.shutdown()

    def _flush(self, calls: AbstractSet[GrpcioRpc | GrpcioBidi]) -> None:
        """Wait until their answers have left, up to a limit."""
        waited = AwakeTime()
        while waited.passed_s() < _FLUSH_S:
            if calls.isdisjoint(self._unsent) and calls.isdisjoint(self._bidis):
                return
            time.sleep(_FLUSH_INTERVAL_S)

    @property
    def thread_count(self) -> int:
        return self._executor.threads.count

    @property
    def abandoned_thread_count(self) -> int:
        return self._executor.threads.abandoned


_NO_LIMIT = 2**31 - 1
_FLUSH_S = 1.0
_FLUSH_INTERVAL_S = 0.002
_STOP_TIMEOUT_S = 5.0


def _names_a_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) <= _HIGHEST_PORT


def _reason(address: str, error: RuntimeError) -> str:
    """Why `address` cannot be had. grpcio does not say: so try it, as it did."""
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        try:
            for family, kind, protocol, _, target in socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            ):
                with socket.socket(family, kind, protocol) as probe:
                    probe.bind(target)
        except OSError as found:
            return found.strerror or str(found)
    return str(error).partition("; set GRPC_VERBOSITY")[0]


_HIGHEST_PORT = 65_535
