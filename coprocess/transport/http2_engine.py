"""The http2 engine: `coprocess.transport.http2` behind the seam, with threads that run handlers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from coprocess.errors import Status
from coprocess.transport.engine import (
    BidiRpc,
    Engine,
    EngineOptions,
    FailedReply,
    HandlersLoop,
    ListenError,
    Metadata,
    Methods,
    NotingHandler,
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
from coprocess.transport.http2.turns import Turns
from coprocess.transport.workers import WorkerThreads


class _Cancellation:
    """What `on_cancel` asks for, told once: by whoever polls, or at once where it is over already."""

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


class Http2Rpc(StreamRpc):
    """A call with one message, and one reply. Which answer is the first is decided with the server's lock."""

    __slots__ = (
        "_cancellation",
        "_engine",
        "_is_answered",
        "_protocol",
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
        self._cancellation = None  # It knows whoever asked: a cycle for each call would be the collector's.
        protocol = self._protocol
        # Where no more calls came with it, its client waits for nothing else.
        engine.answer(protocol, protocol.respond, self._stream, reply, not engine.tasks, True)

    def send(self, reply: bytes) -> bool:
        # Here, and not where there are many: so each class has one base, as it must where it is compiled.
        engine = self._engine
        if len(reply) > engine.max_message_bytes:
            text = too_large("reply", len(reply), engine.max_message_bytes)
            self.fail(Status.RESOURCE_EXHAUSTED, text)
            return False
        return engine.send(self._protocol, self._stream, reply)

    def fail(self, status: Status, message: str) -> None:
        self._is_answered = True
        self._cancellation = None
        ending = (status, message, b"", ())
        self._engine.answer(self._protocol, self._protocol.end, self._stream, ending, may_wait=True)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        cancellation = self._cancellation
        if cancellation is None:
            cancellation = self._cancellation = _Cancellation()
        cancellation.add(callback)
        # After it is in, so that of two threads, at least one sees what the other did.
        if self.is_over and not self._is_answered:
            cancellation.tell()

    def cancelled(self, stream: Stream) -> None:
        """With the server's lock, which no callback may be run with."""
        self.is_over = True
        cancellation = self._cancellation
        if not self._is_answered:
            if cancellation is not None:
                self._engine.callbacks.append(cancellation.tell)
            self._engine.given_up(self)

    def metadata(self) -> Metadata:
        metadata: Metadata = self._stream.fields.request.metadata
        return metadata

    def time_allowed_s(self) -> float | None:
        timeout_s: float | None = self._stream.fields.request.timeout_s
        return timeout_s

    def may_block(self) -> None:
        self._engine.may_block()

    def runs_on(self, loop: HandlersLoop) -> None:
        if not loop.is_reading:
            self._engine.runs_on(self.method, loop)

    def unpack(self) -> bool:
        """Unpack a compressed message. False where that cannot be: the call has its answer."""
        engine = self._engine
        try:
            self.payload = grpc_wire.decompress(
                self._stream.fields.request.encoding, self.payload, engine.max_message_bytes
            )
        except Refused as refused:
            engine.refuse(self, refused)
            return False
        return True


class Http2Stream(Http2Rpc):
    """A call with one message and many replies."""

    __slots__ = ()

    def respond(self, reply: bytes) -> None:
        if not self.send(reply):
            self.fail(Status.RESOURCE_EXHAUSTED, "the client does not read its replies")
            return
        self._is_answered = True
        self._cancellation = None
        self._engine.answer(self._protocol, self._protocol.end, self._stream, (0, "", b"", ()))


class Http2Bidi(BidiRpc):
    """A call whose messages come one by one."""

    __slots__ = (
        "_cancellation",
        "_engine",
        "_is_ended",
        "_is_noted",
        "_protocol",
        "_request",
        "_stream",
        "task",
    )

    #: That of `in_turn`.
    task: Callable[[], None]

    def __init__(
        self, engine: Http2Engine, protocol: Http2Protocol, stream: Stream, request: Request
    ) -> None:
        # All in one place, as each stream makes one.
        self.method = request.method
        self.on_message, self.on_half_close = _ignore, self.end
        self._engine = engine
        self._protocol = protocol
        self._stream = stream
        self._request = request
        self._is_ended = False
        #: Whether its messages are only noted, which may be done with the server's lock.
        self._is_noted = False
        #: What `on_cancel` asks for.
        self._cancellation: Callable[[], None] | None = None

    def send(self, message: bytes) -> bool:
        if self._is_ended:
            return False
        engine = self._engine
        if len(message) > engine.max_message_bytes:
            self.fail(Status.RESOURCE_EXHAUSTED, too_large("reply", len(message), engine.max_message_bytes))
            return False
        protocol = self._protocol
        is_taken: bool = engine.answer(protocol, protocol.send, self._stream, message)
        return is_taken

    def finish(self, message: bytes) -> bool:
        engine = self._engine
        if self._is_ended or len(message) > engine.max_message_bytes:
            return self.send(message)
        if not engine.answer(self._protocol, self._protocol.finish, self._stream, message):
            return False
        self._is_ended = True
        # As `_forget_callbacks`, in place.
        self.on_message, self.on_half_close, self._cancellation = _ignore, _nothing, None
        return True

    def on_loop(self, task: Callable[[], None]) -> None:
        self._engine.call_back(partial(self._tell, task))

    def in_thread(self, task: Callable[[], None]) -> None:
        self._engine.put_task(task)

    def in_turn(self, task: Callable[[], None]) -> None:
        self.task = task
        engine = self._engine
        if _get_ident() == engine._server.polling_thread:
            engine.tasks.append(self)  # As `Turns.put`, in place.
        else:
            engine.put_task(self)

    def may_block(self) -> None:
        self._engine.may_block()

    def runs_on(self, loop: HandlersLoop) -> None:
        if not loop.is_reading:
            self._engine.runs_on(self.method, loop)

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
        if metadata:
            grpc_wire.trailers(*ending, only=False)  # As above.
        self._is_ended = True
        self._engine.answer(self._protocol, self._protocol.end, self._stream, ending)
        self._forget_callbacks()
        self._cancellation = None

    def failed_reply(self) -> FailedReply | None:
        return self._engine.failed_reply_of(self.method)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        first = self._cancellation
        self._cancellation = callback if first is None else _both(first, callback)

    def metadata(self) -> Metadata:
        return self._request.metadata

    def time_allowed_s(self) -> float | None:
        return self._request.timeout_s

    # The connection's, with the server's lock, which no callback may be run with.

    def opened(self, handler: Callable[[BidiRpc], None]) -> None:
        if type(handler) is NotingHandler:
            try:
                handler.begin(self)
                self._is_noted = True
            except Exception as error:  # noqa: BLE001 - logged there, and without the lock
                self._engine.callbacks.append(partial(self._broken, error))
            return
        self._engine.callbacks.append(partial(self._tell, handler, self))

    def received(self, message: bytes) -> None:
        if not self._is_noted:
            self._engine.callbacks.append(partial(self._receive, message))
        elif not self._is_ended:
            try:
                self.on_message(message)
            except Exception as error:  # noqa: BLE001 - as above
                self._engine.callbacks.append(partial(self._broken, error))

    def half_closed(self) -> None:
        self._engine.callbacks.append(self._receive_end)

    def cancelled(self, stream: Stream) -> None:
        self._engine.callbacks.append(self._tell_cancelled)

    def _tell_cancelled(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            cancellation = self._cancellation
            if cancellation is not None:
                cancellation()
            self._forget_callbacks()

    def _forget_callbacks(self) -> None:
        """Nobody is told any more. They know this call: a cycle for each would be the collector's."""
        # But for its task: whoever waits to run sees that it is over, and ends what it is part of.
        self.on_message, self.on_half_close = _ignore, _nothing

    def _receive(self, message: bytes) -> None:
        if self._is_ended:
            return
        try:
            self.on_message(message)
        except Exception:  # noqa: BLE001 - logged there; the other calls of the connection go on
            self._break()

    def _receive_end(self) -> None:
        self._tell(self.on_half_close)

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back; what it raises ends this call."""
        if self._is_ended:
            return
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - as above
            self._break()

    def _broken(self, error: Exception) -> None:
        try:
            raise error
        except Exception:  # noqa: BLE001 - logged there
            self._break()

    def _break(self) -> None:
        log.exception("a stream's callback failed", method=self.method)
        cancellation = self._cancellation
        self.fail(Status.INTERNAL, "internal error")
        if cancellation is not None:
            cancellation()


#: For the threads: a call to be handled, a stream with a task, or what its handler wants to be done.
_Task = Http2Rpc | Http2Bidi | Callable[[], None]


class Http2Engine(Engine):
    """One server for all addresses, and threads that poll it in turn, and run the handlers of calls."""

    name = "http2"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self.max_message_bytes = options.max_message_bytes
        limits = options.connection_limits or Limits()
        limits = replace(
            limits,
            # Two of the largest messages in any case.
            max_held_bytes=max(limits.max_held_bytes, 2 * options.max_message_bytes),
            max_unsent_bytes=max(limits.max_unsent_bytes, 2 * options.max_message_bytes),
            max_message_bytes=options.max_message_bytes,
            max_metadata_bytes=options.max_metadata_bytes,
            max_concurrent_streams=min(limits.max_concurrent_streams, options.max_concurrent_streams),
        )
        #: How a call of each method begins, by its path.
        self._beginnings: dict[str, Method] = {}
        self._server = Server(self._beginnings, limits)
        self.answer = self._server.answer
        self.callbacks = self._server.callbacks
        self._turns: Turns[_Task] = Turns(self._server, self._run, _nothing, self._run_on_loop)
        self.tasks = self._turns.tasks
        self.may_block = self._turns.may_block
        self.put_task = self._turns.put
        self.call_back = self._server.call_back
        self._methods = Methods()
        #: Of methods with one message, whatever their kind of reply: every call looks here.
        self._handlers: dict[str, Callable[[Any], None]] = {}
        #: Methods whose handlers have said that they run on a loop, or elsewhere where they may not.
        self._loop_methods: set[str] = set()
        self._threads: WorkerThreads[_Task] | None = None
        #: Of calls that were given up: perhaps they wait for a thread, and are kept until then.
        self._given_up_bytes = 0

    def _begin(
        self,
        connection: GrpcConnection,
        stream: Stream,
        request: Request,
        message: bytes,
        is_compressed: bool,
    ) -> Http2Rpc:
        """A call with one message and one reply."""
        rpc = Http2Rpc(self, connection.owner, stream, request, message, is_compressed)
        self.tasks.append(rpc)
        return rpc

    def _begin_stream(self, connection: GrpcConnection, *others: Any) -> Http2Stream:
        rpc = Http2Stream(self, connection.owner, *others)
        self.tasks.append(rpc)
        return rpc

    def _open(self, connection: GrpcConnection, stream: Stream, request: Request) -> Http2Bidi:
        rpc = Http2Bidi(self, connection.owner, stream, request)
        rpc.opened(self._methods.bidi[request.method])
        return rpc

    def _run(self, rpc: _Task) -> None:
        # By its type: `isinstance` of an abstract class takes long where it says no.
        if type(rpc) is Http2Bidi:
            # It is kept no longer, as it knows this call.
            task, rpc.task = rpc.task, _nothing
            task()
            return
        if type(rpc) is not Http2Rpc and type(rpc) is not Http2Stream:
            rpc()  # type: ignore[operator]  # it is no call
            return
        if rpc.is_over:
            return  # Nobody waits for it.
        if rpc.is_compressed or len(rpc.payload) > _LARGE_BYTES:
            self.may_block()
            if rpc.is_compressed and not rpc.unpack():
                return
        self._handlers[rpc.method](rpc)

    def given_up(self, rpc: Http2Rpc) -> None:
        """See that those that wait for a thread do not become too many. With the server's lock."""
        self._given_up_bytes += len(rpc.payload) + _CALL_BYTES
        if self._given_up_bytes > _MOST_GIVEN_UP_BYTES:
            self._given_up_bytes = 0
            self._turns.drop(_is_over)

    def runs_on(self, path: str, loop: HandlersLoop) -> None:
        self._loop_methods.add(path)
        self._turns.runs_on(loop)

    def _run_on_loop(self, task: _Task) -> bool:
        """False where it may not, as it may take long there."""
        if type(task) is Http2Bidi:
            if task.method not in self._loop_methods:
                return False
            self._run(task)
            return True
        if (
            type(task) is not Http2Rpc
            or task.is_compressed
            or len(task.payload) > _LARGE_BYTES
            or task.method not in self._loop_methods
        ):
            return False
        if not task.is_over:
            self._handlers[task.method](task)
        return True

    def send(self, protocol: Http2Protocol, stream: Stream, message: bytes) -> bool:
        """One of many messages. False where the call is over, or its client does not read."""
        return bool(self.answer(protocol, protocol.send, stream, message))

    def failed_reply_of(self, path: str) -> FailedReply | None:
        """As of `Methods.failed`."""
        return self._methods.failed.get(path)

    def refuse(self, rpc: Http2Rpc, refused: Refused) -> None:
        if refused.status == Status.RESOURCE_EXHAUSTED:
            self._server.service.refused_calls += 1
        rpc.fail(refused.status, refused.message)

    @property
    def poller(self) -> Server:
        return self._server

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
            raise ListenError(f"cannot listen on {address}: {_reason(error)}") from None
        for each in bound:
            self.listen_on(each)
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{bound[0].getsockname()[1]}"

    def listen_on(self, bound: socket.socket) -> None:
        """Serve a socket that is bound already, as one that was inherited."""
        tls = self._options.tls if bound.family != socket.AF_UNIX else None
        self._server.listen(bound, tls.server_context() if tls is not None else None)

    def start(self, methods: Methods) -> None:
        for path in methods.unary:
            self._beginnings[path] = Method(begin=self._begin)
        self.use(methods)
        for path in methods.server_streaming:
            self._beginnings[path] = Method(begin=self._begin_stream)
        for path in methods.bidi:
            self._beginnings[path] = Method(open=self._open)
        self._threads = WorkerThreads(
            "http2",
            self._turns.take,
            self._run,
            minimum=self._options.min_threads,
            maximum=self._options.max_threads,
            spare=1,  # The one that polls.
        )
        self._server.open()
        self._turns.start(self._threads)
        self._threads.start()

    def use(self, methods: Methods) -> None:
        self._methods = methods
        self._handlers = {**methods.unary, **methods.server_streaming}
        for path, method in self._beginnings.items():
            if path in methods.unary:
                relay = methods.relays.get(path)
                method.begin = self._begin if relay is None else relay(self._begin)
        self._server.service.failed = methods.failed

    def replace_thread(self, thread_id: int) -> bool:
        return self._threads is not None and self._threads.replace(thread_id)

    def drain(self, timeout_s: float) -> bool:
        # `stop` comes first, but for a service that hangs.
        self._server.drain(timeout_s + _DRAIN_MARGIN_S)
        return True

    def stop(self) -> None:
        self._server.stop(_FLUSH_S)
        if self._turns.stop(_FLUSH_S):
            self._server.close()  # Else somebody polls it still, and lets it go when the process ends.

    @property
    def thread_count(self) -> int:
        return 0 if self._threads is None else min(self._threads.count, self._options.max_threads)

    @property
    def abandoned_thread_count(self) -> int:
        return 0 if self._threads is None else self._threads.abandoned


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)  # Its own text may have the address once more.


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


def _is_over(task: _Task) -> bool:
    return isinstance(task, Http2Rpc) and task.is_over


def _ignore(message: bytes) -> None: ...


def _nothing() -> None: ...


# Of this module: each message looks for it.
_get_ident = threading.get_ident
log = structlog.get_logger("coprocess")

#: Reading a message of that size takes long already.
_LARGE_BYTES = 128 * 1024
#: What a call takes beside its message.
_CALL_BYTES = 1024
_MOST_GIVEN_UP_BYTES = 16 * 1024 * 1024
_FLUSH_S = 1.0
_DRAIN_MARGIN_S = 10.0
