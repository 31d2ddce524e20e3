"""A server on an event loop of its own: sockets, connections, and answers from other threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from coprocess.transport.http2.grpc_connection import Method, Service
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.streams import Stream

log = structlog.get_logger("coprocess")

#: Does something with a stream on the loop; then what, with which bytes.
Answer = tuple[Http2Protocol, Callable[[Stream, Any], None], Stream, Any]


def new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Server:
    """Its life: `listen` once or more, `start`, `stop`, from one thread."""

    def __init__(self, methods: dict[str, Method], limits: Limits, *, max_connections: int = 10_000) -> None:
        self.loop = new_event_loop()
        self.service = Service(methods, limits, self.loop.call_later)
        self._max_connections = max_connections
        self._sockets: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Http2Protocol] = set()
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._answers: deque[Answer] = deque()
        self._is_awake = False
        #: time.monotonic(), as of the last second or so.
        self.now_s = time.monotonic()
        self._is_stopping = False

    def listen(self, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve a socket that is bound, or was inherited. It is closed by `stop`."""
        bound.listen(_BACKLOG)
        bound.setblocking(False)
        self._sockets.append((bound, tls))

    def start(self) -> None:
        """Returns when clients can connect."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="http2", daemon=True)
        self._thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        loop = self.loop
        self._thread_id = threading.get_ident()
        asyncio.set_event_loop(loop)
        try:
            for bound, tls in self._sockets:
                self._servers.append(loop.run_until_complete(self._serve(bound, tls)))
            loop.call_soon(started.set)
            loop.call_soon(self._look)
            loop.run_forever()
        finally:
            started.set()
            loop.close()

    def _serve(self, bound: socket.socket, tls: ssl.SSLContext | None) -> Any:
        options: dict[str, Any] = {"ssl": tls, "backlog": _BACKLOG}
        if tls is not None:
            options["ssl_handshake_timeout"] = _HANDSHAKE_S
            options["ssl_shutdown_timeout"] = _SHUTDOWN_S

        def protocol() -> Http2Protocol:
            return Http2Protocol(self)

        if bound.family == socket.AF_UNIX:
            return self.loop.create_unix_server(protocol, sock=bound, **options)
        return self.loop.create_server(protocol, sock=bound, **options)

    def stop(self, timeout_s: float) -> None:
        """Take no more calls, end those that are left within `timeout_s`, and close all."""
        if self._thread is None:
            for bound, _ in self._sockets:
                bound.close()
            self.loop.close()
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(timeout_s), self.loop).result()
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_JOIN_S)

    async def _end(self, timeout_s: float) -> None:
        self._is_stopping = True
        for server in self._servers:
            server.close()
        until_s = time.monotonic() + timeout_s
        for connection in list(self._connections):
            connection.begin_end(until_s)
        last_id_s = time.monotonic() + _LAST_ID_S
        while self._connections and time.monotonic() < until_s:
            await asyncio.sleep(_STOP_INTERVAL_S)
            for connection in list(self._connections):
                if time.monotonic() > last_id_s:
                    connection.second_step()
                connection.close_if_done()
        for connection in list(self._connections):
            connection.give_up()
        await asyncio.sleep(_STOP_INTERVAL_S)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    # Connections.

    def add(self, connection: Http2Protocol) -> bool:
        """False where there are too many, or no more are taken."""
        if self._is_stopping or len(self._connections) >= self._max_connections:
            return False
        self._connections.add(connection)
        return True

    def remove(self, connection: Http2Protocol) -> None:
        self._connections.discard(connection)

    def _look(self) -> None:
        now_s = self.now_s = time.monotonic()
        for connection in list(self._connections):
            connection.look(now_s)
        self.loop.call_later(_LOOK_INTERVAL_S, self._look)

    # Answers.

    def answer(
        self, connection: Http2Protocol, act: Callable[[Stream, Any], None], stream: Stream, value: Any
    ) -> None:
        """Have `act(stream, value)` run on the loop, from any thread, in their order; then write."""
        if threading.get_ident() == self._thread_id and not self._answers:
            act(stream, value)
            connection.write()
            return
        self._answers.append((connection, act, stream, value))
        if not self._is_awake:
            self._is_awake = True
            with contextlib.suppress(RuntimeError):  # It has stopped: there is nobody to answer.
                self.loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        answers = self._answers
        touched: list[Http2Protocol] = []
        while answers:
            while answers:
                connection, act, stream, value = answers.popleft()
                try:
                    act(stream, value)
                except Exception:  # The others wait for theirs.
                    log.exception("an answer could not be sent")
                if not connection.is_dirty:
                    connection.is_dirty = True
                    touched.append(connection)
            # Then looked at again: whoever comes from here on wakes the loop.
            self._is_awake = False
        for connection in touched:
            connection.write()
            connection.close_if_done()


_BACKLOG = 1024
_HANDSHAKE_S = 10.0
_SHUTDOWN_S = 1.0
_LOOK_INTERVAL_S = 1.0
_STOP_INTERVAL_S = 0.002
#: A peer that does not acknowledge the first GOAWAY in that time gets the second.
_LAST_ID_S = 0.25
_JOIN_S = 5.0
