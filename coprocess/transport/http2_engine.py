"""The http2 engine: `coprocess.transport.http2` behind the seam, with threads that run handlers."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from coprocess.errors import Status
from coprocess.transport.engine import (
    BidiRpc,
    Engine,
    EngineOptions,
    Handler,
    ListenError,
    Metadata,
    Rpc,
    StreamRpc,
    too_large,
)
from coprocess.transport.http2 import grpc_wire, sockets
from coprocess.transport.http2.grpc_connection import GrpcConnection, Method
from coprocess.transport.http2.grpc_wire import Refused, Request
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.streams import Stream
from coprocess.transport.workers import WorkerThreads


class _Cancellation:
    """What `on_cancel` asks for, told once: by the loop, or at once where it is over already."""

    __slots__ = ("_callbacks", "_is_over")

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._is_over = False

    def tell(self) -> None:
        self._is_over = True
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:  # Another thread was first.
                return
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)
        # After it is in, so that of two threads, at least one sees what the other did.
        if self._is_over:
            self.tell()


class Http2Rpc(Rpc):
    """A call with one message. Which answer is the first is decided on the loop, in their order."""

    __slots__ = (
        "_cancellation",
        "_engine",
        "_is_answered",
        "_protocol",
        "_request",
        "_stream",
        "is_compressed",
        "is_over",
    )

    def __init__(
        self,
        engine: Http2Engine,
        protocol: Http2Protocol,
        stream: Stream,
        request: Request,
        payload: bytes,
        is_compressed: bool,
    ) -> None:
        self._engine = engine
        self._protocol = protocol
        self._stream = stream
        self._request = request
        self._is_answered = False
        self._cancellation: _Cancellation | None = None
        self.method = request.method
        self.payload = payload
        self.is_compressed = is_compressed
        #: The client waits no more.
        self.is_over = False

    def respond(self, reply: bytes) -> None:
        engine = self._engine
        if len(reply) > engine.max_message_bytes:
            text = too_large("reply", len(reply), engine.max_message_bytes)
            self.fail(Status.RESOURCE_EXHAUSTED, text)
            return
        self._is_answered = True
        protocol = self._protocol
        engine.answer(protocol, protocol.respond, self._stream, reply)

    def fail(self, status: Status, message: str) -> None:
        self._is_answered = True
        self._engine.answer(self._protocol, self._protocol.end, self._stream, (status, message, b"", ()))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        cancellation = self._cancellation
        if cancellation is None:
            cancellation = self._cancellation = _Cancellation()
        cancellation.add(callback)
        # After it is in, so that of two threads, at least one sees what the other did.
        if self.is_over and not self._is_answered:
            cancellation.tell()

    def cancelled(self) -> None:
        """On the loop."""
        self.is_over = True
        if not self._is_answered and self._cancellation is not None:
            self._cancellation.tell()

    def metadata(self) -> Metadata:
        return self._request.metadata

    def time_allowed_s(self) -> float | None:
        return self._request.timeout_s

    def unpack(self) -> bool:
        """Unpack a compressed message. False where that cannot be: the call has its answer."""
        engine = self._engine
        try:
            self.payload = grpc_wire.decompress(
                self._request.encoding, self.payload, engine.max_message_bytes
            )
        except Refused as refused:
            engine.refuse(self, refused)
            return False
        return True


class _Outgoing:
    """The messages of one stream that its client has not read: they are bounded."""

    __slots__ = ("_engine", "_lock", "_posted_bytes", "_protocol", "_put_bytes", "_stream")

    def __init__(self, engine: Http2Engine, protocol: Http2Protocol, stream: Stream) -> None:
        self._engine = engine
        self._protocol = protocol
        self._stream = stream
        self._lock = threading.Lock()
        self._posted_bytes = 0
        #: Changed on the loop only.
        self._put_bytes = 0

    def send(self, message: bytes) -> bool:
        stream = self._stream
        with self._lock:
            unsent_bytes = self._posted_bytes - self._put_bytes + stream.unsent_bytes
            # One message goes out in any case, however large.
            if stream.is_closed or unsent_bytes >= self._engine.max_unsent_bytes:
                return False
            self._posted_bytes += len(message) + _MESSAGE_BYTES
        self._engine.answer(self._protocol, self._put, stream, message)
        return True

    def _put(self, stream: Stream, message: bytes) -> None:
        self._put_bytes += len(message) + _MESSAGE_BYTES
        self._protocol.send(stream, message)


class Http2Stream(Http2Rpc, StreamRpc):
    """A call with one message and many replies."""

    __slots__ = ("_outgoing",)

    def __init__(self, engine: Http2Engine, protocol: Http2Protocol, stream: Stream, *others: Any) -> None:
        super().__init__(engine, protocol, stream, *others)
        self._outgoing = _Outgoing(engine, protocol, stream)

    def send(self, reply: bytes) -> bool:
        engine = self._engine
        if len(reply) > engine.max_message_bytes:
            text = too_large("reply", len(reply), engine.max_message_bytes)
            self.fail(Status.RESOURCE_EXHAUSTED, text)
            return False
        return not self.is_over and self._outgoing.send(reply)

    def respond(self, reply: bytes) -> None:
        if not self.send(reply):
            self.fail(Status.RESOURCE_EXHAUSTED, "the client does not read its replies")
            return
        self._is_answered = True
        self._engine.answer(self._protocol, self._protocol.end, self._stream, (0, "", b"", ()))


class Http2Bidi(BidiRpc):
    """A call whose messages come one by one."""

    def __init__(
        self, engine: Http2Engine, protocol: Http2Protocol, stream: Stream, request: Request
    ) -> None:
        super().__init__(request.method)
        self._engine = engine
        self._protocol = protocol
        self._stream = stream
        self._request = request
        self._outgoing = _Outgoing(engine, protocol, stream)
        self._is_ended = False
        self._cancellation = _Cancellation()

    def send(self, message: bytes) -> bool:
        if self._is_ended:
            return False
        if len(message) > self._engine.max_message_bytes:
            self.end(
                Status.RESOURCE_EXHAUSTED, too_large("reply", len(message), self._engine.max_message_bytes)
            )
            return False
        return self._outgoing.send(message)

    def on_loop(self, task: Callable[[], None]) -> None:
        self._engine.answer(self._protocol, lambda stream, value: self.tell(task), self._stream, None)

    def in_thread(self, task: Callable[[], None]) -> None:
        self._engine.tasks.put(task)

    def begin(self, metadata: Metadata) -> None:
        grpc_wire.response_headers(tuple(metadata))  # What cannot be sent is found here, at the caller.
        self._engine.answer(self._protocol, self._protocol.begin, self._stream, tuple(metadata))

    def end(
        self,
        status: Status | None = None,
        message: str = "",
        details: bytes = b"",
        metadata: Metadata = (),
    ) -> None:
        ending = (status or 0, message, details, tuple(metadata))
        grpc_wire.trailers(*ending, only=False)  # As above.
        self._is_ended = True
        self._engine.answer(self._protocol, self._protocol.end, self._stream, ending)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._cancellation.add(callback)

    def metadata(self) -> Metadata:
        return self._request.metadata

    def time_allowed_s(self) -> float | None:
        return self._request.timeout_s

    # The connection's, on the loop.

    def received(self, message: bytes) -> None:
        self.tell(lambda: self.on_message(message))

    def half_closed(self) -> None:
        self.tell(self.on_half_close)

    def cancelled(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            self._cancellation.tell()

    def tell(self, callback: Callable[[], None]) -> None:
        """Call back; what it raises ends this call."""
        if self._is_ended:
            return
        try:
            callback()
        except Exception:  # The other calls of the connection go on.
            log.exception("a stream's callback failed", method=self.method)
            self.end(Status.INTERNAL, "internal error")
            self._cancellation.tell()


class Http2Engine(Engine):
    """One loop for all addresses, and threads that run the handlers of calls with one message."""

    name = "http2"

    def __init__(self, options: EngineOptions, limits: Limits | None = None) -> None:
        """`limits`: for what the options do not say."""
        self._options = options
        self.max_message_bytes = options.max_message_bytes
        limits = limits or Limits()
        limits = replace(
            limits,
            # Two of the largest messages in any case.
            max_held_bytes=max(limits.max_held_bytes, 2 * options.max_message_bytes),
            max_unsent_bytes=max(limits.max_unsent_bytes, 2 * options.max_message_bytes),
            max_message_bytes=options.max_message_bytes,
            max_metadata_bytes=options.max_metadata_bytes,
            max_concurrent_streams=min(limits.max_concurrent_streams, options.max_concurrent_streams),
        )
        self.max_unsent_bytes = limits.max_unsent_stream_bytes
        #: For the threads: calls to be handled, and what handlers of streams want to be done.
        self.tasks: queue.SimpleQueue[Http2Rpc | Callable[[], None] | None] = queue.SimpleQueue()
        methods = {path: Method(begin=self._begin_with(Http2Rpc)) for path in options.methods}
        for path in options.streaming_methods:
            methods[path] = Method(begin=self._begin_with(Http2Stream))
        for path, handler in options.bidi_methods.items():
            methods[path] = Method(open=self._open_with(handler))
        self._server = Server(methods, limits)
        self.answer = self._server.answer
        self._threads: WorkerThreads[Http2Rpc | Callable[[], None]] | None = None

    def _begin_with(self, kind: type[Http2Rpc]) -> Callable[..., Http2Rpc]:
        tasks = self.tasks

        def begin(connection: GrpcConnection, *others: Any) -> Http2Rpc:
            rpc = kind(self, connection.owner, *others)
            tasks.put(rpc)
            return rpc

        return begin

    def _open_with(self, handler: Callable[[BidiRpc], None]) -> Callable[..., Http2Bidi]:
        def begin(connection: GrpcConnection, stream: Stream, request: Request) -> Http2Bidi:
            rpc = Http2Bidi(self, connection.owner, stream, request)
            rpc.tell(lambda: handler(rpc))
            return rpc

        return begin

    def _take(self) -> Http2Rpc | Callable[[], None] | None:
        while (rpc := self.tasks.get()) is not None:
            if not isinstance(rpc, Http2Rpc):
                return rpc
            # Nobody waits for those that are over.
            if not rpc.is_over and (not rpc.is_compressed or rpc.unpack()):
                return rpc
        return None

    def refuse(self, rpc: Http2Rpc, refused: Refused) -> None:
        if refused.status == Status.RESOURCE_EXHAUSTED:
            self._server.service.refused_calls += 1
        rpc.fail(refused.status, refused.message)

    @property
    def refused_calls(self) -> int:
        return self._server.service.refused_calls

    def listen(self, address: str) -> str:
        try:
            if address.startswith("unix:"):
                bound = [sockets.unix_socket(address.removeprefix("unix:"))]
            else:
                bound = sockets.tcp_sockets(address)
        except (OSError, ValueError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise ListenError(f"cannot listen on {address}: {reason}") from None
        for each in bound:
            self.listen_on(each)
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{bound[0].getsockname()[1]}"

    def listen_on(self, bound: socket.socket) -> None:
        """Serve a socket that is bound already, as one that was inherited."""
        tls = self._options.tls if bound.family != socket.AF_UNIX else None
        self._server.listen(bound, tls.server_context() if tls is not None else None)

    def start(self, handler: Handler) -> None:
        def run(task: Http2Rpc | Callable[[], None]) -> None:
            if isinstance(task, Http2Rpc):
                handler(task)
            else:
                task()

        self._threads = WorkerThreads(
            "http2",
            self._take,
            run,
            minimum=self._options.min_threads,
            maximum=self._options.max_threads,
        )
        self._threads.start()
        self._server.start()

    def replace_thread(self, thread_id: int) -> bool:
        return self._threads is not None and self._threads.replace(thread_id)

    def stop(self) -> None:
        self._server.stop(_FLUSH_S)
        if self._threads is not None:
            for _ in range(self._threads.count):
                self.tasks.put(None)

    @property
    def thread_count(self) -> int:
        return 0 if self._threads is None else self._threads.count

    @property
    def abandoned_thread_count(self) -> int:
        return 0 if self._threads is None else self._threads.abandoned


log = structlog.get_logger("coprocess")

#: What a message takes beside its bytes.
_MESSAGE_BYTES = 64
_FLUSH_S = 1.0
