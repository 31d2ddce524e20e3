"""Runs the simulated Kong's tasks against plugin servers on unix sockets, one task at a time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from coprocess.desk.kong.simulator.exchange import (
    AskUpstream,
    AwaitBody,
    ClientGone,
    EndOfStream,
    Receive,
    Release,
    Send,
    Sleep,
    Spawn,
    Task,
)
from coprocess.desk.kong.simulator.http import UpstreamReply, UpstreamRequest
from coprocess.desk.kong.simulator.lua import LuaError, NeedMore, Reader
from coprocess.desk.kong.simulator.rpc import Worker

#: How long Kong waits for an answer.
TIMEOUT_S = 60.0
_CHUNK_BYTES = 65536

Upstream = Callable[[UpstreamRequest], UpstreamReply]


class Driver:
    """Connects to the server of each plugin, and keeps connections as Kong does. Close it in the end."""

    def __init__(
        self, sockets: Mapping[str, str], upstream: Upstream, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`sockets`: plugin → path of its server's socket."""
        self._sockets = sockets
        self.upstream = upstream
        self._timeout_s = timeout_s
        self._idle: dict[tuple[int, str], list[_Connection]] = {}

    def run(self, task: Task[None], *, body_gone: bool = False) -> None:
        """The task to its end; then what it started, such as the log phase."""
        later: list[Task[None]] = []
        self._run(task, later, body_gone)
        for each in later:
            self._run(each, [], False)

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.socket.close()
        self._idle.clear()

    def _run(self, task: Task[None], later: list[Task[None]], body_gone: bool) -> None:
        value: Any = None
        error: Exception | None = None
        connection: _Connection | None = None
        while True:
            try:
                wait = task.send(value) if error is None else task.throw(error)
            except StopIteration:
                return
            value = error = None
            try:
                if isinstance(wait, Send):
                    connection, value = self._send(wait)
                elif isinstance(wait, Receive):
                    assert connection is not None  # noqa: S101 - a task receives after it has sent
                    value = connection.receive()
                elif isinstance(wait, Release):
                    self._release(connection, broken=wait.broken)
                    connection = None
                elif isinstance(wait, Spawn):
                    later.append(wait.task)
                elif isinstance(wait, AskUpstream):
                    value = self.upstream(wait.request)
                elif isinstance(wait, Sleep):
                    time.sleep(wait.seconds)
                elif isinstance(wait, AwaitBody) and body_gone:
                    error = ClientGone()
            except (OSError, EndOfStream, LuaError) as raised:
                error = raised
                if isinstance(raised, OSError) and not isinstance(raised, ConnectionError):
                    error = ConnectionError(str(raised))

    def _send(self, wait: Send) -> tuple[_Connection, int]:
        idle = self._idle.get((wait.worker.number, wait.plugin), [])
        while idle and idle[-1].is_closed():
            idle.pop().socket.close()
        number = wait.worker.next_message_id(wait.plugin)
        connection = idle.pop() if idle else self._connected(wait.worker, wait.plugin)
        connection.socket.sendall(wait.frame(number))
        return connection, number

    def _connected(self, worker: Worker, plugin: str) -> _Connection:
        path = self._sockets.get(plugin)
        if path is None:
            raise ConnectionRefusedError(f"no server for plugin {plugin!r}")
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(self._timeout_s)
        try:
            connected.connect(path)
        except OSError:
            connected.close()
            raise
        return _Connection(connected, (worker.number, plugin))

    def _release(self, connection: _Connection | None, *, broken: bool) -> None:
        if connection is None:
            return
        if broken:
            connection.socket.close()
        else:
            # What came after the answer is not read by anybody.
            connection.reader = Reader()
            self._idle.setdefault(connection.pool, []).append(connection)


class _Connection:
    def __init__(self, connected: socket.socket, pool: tuple[int, str]) -> None:
        self.socket = connected
        self.pool = pool
        self.reader = Reader()
        self._began = False

    def receive(self) -> Any:
        while True:
            try:
                value = self.reader.next()
            except NeedMore:
                try:
                    data = self.socket.recv(_CHUNK_BYTES)
                except OSError as error:
                    # A read that took too long is to Kong as if the server had gone.
                    raise EndOfStream(str(error)) from None
                if not data:
                    if self._began:
                        raise LuaError("lualib/MessagePack.lua:831: missing bytes") from None
                    raise EndOfStream from None
                self._began = True
                self.reader.feed(data)
            else:
                self._began = False
                return value

    def is_closed(self) -> bool:
        """Whether the server has closed it meanwhile."""
        try:
            self.socket.setblocking(False)
            try:
                return self.socket.recv(1, socket.MSG_PEEK) == b""
            finally:
                self.socket.setblocking(True)
                self.socket.settimeout(TIMEOUT_S)
        except BlockingIOError:
            return False
        except OSError:
            return True
