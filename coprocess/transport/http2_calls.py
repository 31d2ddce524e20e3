"""Calls as the http2 engine hands them to handlers: with one reply, with many, or with messages both ways."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from coprocess.errors import Status
from coprocess.transport.engine import (
    BidiRpc,
    FailedReply,
    HandlersLoop,
    Metadata,
    NotingHandler,
    StreamRpc,
)
from coprocess.transport.http2 import grpc_messages, grpc_wire
from coprocess.transport.http2.grpc_wire import Refused, Request
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.streams import Stream
from coprocess.transport.message_limit import too_large

if TYPE_CHECKING:
    from coprocess.transport.http2_engine import Http2Engine


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
        "_stream",
        "is_compressed",
        "is_over",
        "protocol",
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
        self.protocol = protocol
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
        protocol = self.protocol
        # Where no more calls came with it, its client waits for nothing else.
        is_last = not (engine.tasks or engine.lines)
        engine.answer(protocol, protocol.respond, self._stream, reply, is_last, True)

    def send(self, reply: bytes) -> bool:
        # Here, and not where there are many: so each class has one base, as it must where it is compiled.
        engine = self._engine
        if len(reply) > engine.max_message_bytes:
            text = too_large("reply", len(reply), engine.max_message_bytes)
            self.fail(Status.RESOURCE_EXHAUSTED, text)
            return False
        return engine.send(self.protocol, self._stream, reply)

    def fail(self, status: Status, message: str) -> None:
        self._is_answered = True
        self._cancellation = None
        ending = (status, message, b"", ())
        self._engine.answer(self.protocol, self.protocol.end, self._stream, ending, may_wait=True)

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
        """Unpack a compressed message. False where that cannot be: the call is over, or has its answer."""
        engine, stream, packed = self._engine, self._stream, self.payload
        pieces: list[bytes] = []
        size = len(packed)
        try:
            for piece in grpc_messages.unpack(
                stream.fields.request.encoding, packed, engine.max_message_bytes
            ):
                pieces.append(piece)
                size += len(piece)
                # While it grows: many are unpacked at one time, each a thousand times as large as it came.
                if not engine.hold(self.protocol, stream, size):
                    return False
                engine.give_way()
        except Refused as refused:
            engine.refuse(self, refused)
            return False
        self.payload = b"".join(pieces)
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
        self._engine.answer(self.protocol, self.protocol.end, self._stream, (0, "", b"", ()))


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
        if _get_ident() == engine.server.polling_thread:
            self._protocol.calls.append(self)  # As `Turns.put`, in place.
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
        self.on_message, self.on_half_close, self._cancellation = _ignore, _nothing, None

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


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


def _ignore(message: bytes) -> None: ...


def _nothing() -> None: ...


# Of this module: each message looks for it.
_get_ident = threading.get_ident
log = structlog.get_logger("coprocess")
