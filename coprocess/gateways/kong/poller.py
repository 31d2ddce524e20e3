"""Watches connections on which nothing happens, so that no thread waits on them, and takes new ones."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable

import structlog

from coprocess.gateways.kong.connection import Connection
from coprocess.gateways.kong.spare import Spare
from coprocess.runtime.log_limit import LimitedLog

log = structlog.get_logger("coprocess")

# Where there are no descriptors left, say.
_PAUSE_S = 0.1


class Poller:
    """`on_ready` is called with each connection that was given (`add`), once something has come on it."""

    def __init__(
        self,
        on_ready: Callable[[Connection], None],
        on_accept: Callable[[socket.socket], Connection],
        close: Callable[[Connection], None],
    ) -> None:
        """`on_ready` never raises. `on_accept` makes a connection of a socket; it is watched at once.

        `close` is called with one that cannot be watched.
        """
        self._on_ready = on_ready
        self._on_accept = on_accept
        self._close = close
        self._selector = selectors.DefaultSelector()
        self._added: deque[Connection] = deque()
        self._wakes, self._woken = socket.socketpair()
        self._wakes.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="kong-poller", daemon=True)
        self._is_stopped = False
        self._spare = Spare()
        self._log = LimitedLog(log)

    def listen(self, listening: socket.socket) -> None:
        """Take what connects. Before `start`."""
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ, listening)

    def start(self) -> None:
        self._thread.start()

    def add(self, connection: Connection) -> None:
        """Watch a connection, from any thread. Who gives it holds it no longer."""
        self._added.append(connection)
        if self._is_stopped:
            self._close_added()
        else:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # It is awake, or stopped.
            self._wakes.send(b"\0")

    def stop(self) -> None:
        """Close what is watched."""
        self._is_stopped = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(1)
        self._woken.close()
        self._wakes.close()
        self._close_added()

    def _close_added(self) -> None:
        with contextlib.suppress(IndexError):  # Another thread does the same.
            while True:
                self._close(self._added.popleft())

    def _run(self) -> None:
        while not self._is_stopped:
            try:
                # First: who gave them has woken this thread, which may have failed since.
                self._watch_added()
                self._log.end_window()
                for key, _ in self._selector.select():
                    self._take(key)
            except Exception:  # Without this thread, Kong would wait in vain.
                log.exception("the connections could not be watched")
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Connection):
                key.data.close()
        self._selector.close()
        self._spare.close()

    def _take(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, Connection):
            self._selector.unregister(key.fileobj)
            self._on_ready(key.data)
        elif key.data is None:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        else:
            self._accept(key.data)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(100):
            try:
                connected, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if self._is_stopped or listening.fileno() == -1:
                    self._selector.unregister(listening)
                    return
                self._log.write("error", "not taken", "a connection could not be taken", reason=str(error))
                # Not the next one as well: accept tells of a full table also where nobody comes.
                if not self._spare.refuse_next(listening, error):
                    threading.Event().wait(_PAUSE_S)
                return
            self._watch(self._on_accept(connected))

    def _watch_added(self) -> None:
        while self._added:
            connection = self._added.popleft()
            if connection.values:
                self._on_ready(connection)
            else:
                self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        try:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        except (ValueError, KeyError, OSError):
            self._close(connection)
