"""A server's sockets and connections: one thread polls at a time, and any thread may answer.

All that belongs to connections is under one lock, which nobody holds while waiting, or while code of others
runs. So a thread that answers writes to the socket itself, and the thread that polls need not be woken.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog

from coprocess.transport.alarm import Alarm
from coprocess.transport.awake import AwakeTime
from coprocess.transport.http2.grpc_connection import Method, Service
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.polling import make_poller
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.share import Share
from coprocess.transport.http2.spinning import Spinning
from coprocess.transport.http2.streams import Stream
from coprocess.transport.http2.timers import Timers
from coprocess.transport.http2.waiting import FairQueue

log = structlog.get_logger("coprocess")

#: Asked for each connection, as certificates change.
Tls = Callable[[], ssl.SSLContext]


class Writer(Protocol):
    """What has something to write: a connection, say. All is called with the server's lock."""

    is_dirty: bool

    def write(self) -> None: ...

    def close_if_done(self) -> None: ...

    def abort(self) -> None: ...


class Server:
    """Its life: `listen` once or more, `poll` again and again, perhaps `drain`, `stop`."""

    def __init__(self, methods: dict[str, Method], limits: Limits, *, max_connections: int = 10_000) -> None:
        self.lock = threading.Lock()
        self._timers = Timers()
        self.call_later = self._timers.call_later
        self.service = Service(methods, limits, self.call_later)
        self._max_connections = max_connections
        self._sockets: list[tuple[socket.socket, Tls | None]] = []
        self._connections: set[Http2Protocol] = set()
        #: Connections whose answers the thread that polls has yet to write.
        self._dirty: list[Writer] = []
        #: Connections that have more frames: others come first.
        self.behind: deque[Http2Protocol] = deque()
        #: Of which something was read last, and how often that was another than before, in this second and
        #: the one before.
        self.reader: Http2Protocol | None = None
        self.switches = self._switches_before = 0
        #: Code of others, which is run without the lock, in this order, by the thread that polls.
        self.callbacks: deque[Callable[[], None]] = deque()
        #: The event loop whose answers wait for the end of its turn.
        self._holding: asyncio.AbstractEventLoop | None = None
        #: Whoever waits for it calls `flush_held` when it rings. None: nobody does.
        self.alarm: Alarm | None = None
        #: The thread whose answers are written together, when it polls next; 0: none.
        self.polling_thread = 0
        self._runs_callbacks = False
        #: How often answers were written.
        self.flushes = 0
        #: What was read, and waits to be run.
        # Any, as tests have other things there.
        self.waiting: Any = deque()
        #: Of connections that come later: after the others.
        self.later: FairQueue[Any] = FairQueue()
        #: How many these were at the last poll, and whether their connections were put off there.
        self._later_before = 0
        self._was_put_off = False
        #: When a connection was read last that does not come later.
        self.first_read_s = 0.0
        #: So long calls that come later are run, one after the other, before others are looked for.
        self.later_in_a_row_s = _LATER_ALONE_S
        self._is_open = False
        self._is_awake = False
        #: time.monotonic(), as of the last second or so.
        self.now_s = time.monotonic()
        #: What each connection may hold.
        self.share = Share(limits.max_bytes_together)
        self._is_draining = self._is_stopping = False
        self._look([])

    def open(self) -> None:
        """What `poll` needs; `close` lets it go. `listen` does it, too."""
        if self._is_open:
            return
        self._is_open = True
        self._poller = make_poller()
        self._spinning = Spinning(self._poller.find)
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        self._poller.add(self._wake_reader, selectors.EVENT_READ, self._woken)

    def listen(self, bound: socket.socket, tls: Tls | None = None) -> None:
        """Serve a socket that is bound, or was inherited. It is closed by `drain`."""
        self.open()
        bound.listen(_BACKLOG)
        bound.setblocking(False)
        self._sockets.append((bound, tls))
        self._listen_again((bound, tls))

    def _listen_again(self, listening: tuple[socket.socket, Tls | None]) -> None:
        bound, tls = listening

        def accept(events: int) -> None:
            self._accept(bound, tls)

        if not self._is_draining:
            self._poller.add(bound, selectors.EVENT_READ, accept, later=True)

    def drain(self, timeout_s: float) -> None:
        """Take no more connections, and have clients send what is new elsewhere.

        What is on its way is taken. Calls are given up after `timeout_s`, where `stop` does not come before.
        Where it was polled, somebody must go on with that.
        """
        with self.lock:
            if self._is_draining:
                return
            self._is_draining = True
            for bound, _ in self._sockets:
                self._poller.remove(bound)
                bound.close()
            for connection in self.connections():
                connection.begin_end(time.monotonic() + timeout_s)
        waited = AwakeTime()
        while not self._are_told() and waited.passed_s() < _LAST_ID_S:
            time.sleep(_STOP_INTERVAL_S)
        with self.lock:
            for connection in self.connections():
                connection.second_step()

    def _are_told(self) -> bool:
        """Whether all clients know which call was their last."""
        with self.lock:
            return all(connection.is_ended for connection in self._connections)

    def unanswered(self) -> list[Stream]:
        """Calls that were taken and have no answer."""
        with self.lock:
            return [stream for connection in self._connections for stream in connection.grpc.unanswered()]

    def stop(self, timeout_s: float) -> None:
        """Take no more calls, end those that are left within `timeout_s`, and close all connections.

        Answers that were given before are waited for a little longer, as long as clients read them. Where it
        was polled, somebody must go on with that until then.
        """
        waited, until_s, most_s = AwakeTime(), timeout_s, timeout_s + _LONGEST_READ_S
        least_left = sys.maxsize
        with self.lock:
            if self._is_stopping:
                return
            self._is_stopping = True
        self.drain(timeout_s + _STOP_MARGIN_S)
        while self._connections and (now_s := waited.passed_s()) < until_s:
            time.sleep(_STOP_INTERVAL_S)
            with self.lock:
                for connection in self.connections():
                    connection.close_if_done()
                    connection.close_if_delivered()
                left = sum(connection.left_bytes for connection in self._connections)
            if left < least_left:
                least_left, until_s = left, min(most_s, now_s + timeout_s)
        with self.lock:
            for connection in self.connections():
                connection.give_up()
        time.sleep(_STOP_INTERVAL_S)
        with self.lock:
            for connection in self.connections():
                connection.abort()
        self.wake()

    def close(self) -> None:
        """When nobody polls any more."""
        self.run_callbacks()
        with self.lock:
            if self._is_open:
                for connection in self.connections():
                    connection.abort()
                self._is_open = False
                self._poller.close()
                self._wake_reader.close()
                self._wake_writer.close()

    # Polling.

    def fileno(self) -> int | None:
        """For a loop that is to call `poll`: ready while sockets are. None: there is none."""
        return self._poller.fileno()

    def is_due(self) -> bool:
        """Whether there is something to do for whoever polls. From any thread."""
        with self.lock:
            if not self._is_open:
                return False
            if self.callbacks:
                return True
            next_s = self._timers.next_s()
            return (next_s is not None and next_s < time.monotonic()) or self._poller.is_ready()

    def prepare(self, *, wait: bool) -> float:
        """Write what is to be written; how long `poll` may wait then. Called with the lock."""
        if self._dirty:
            self.flush()
        timeout_s = 0.0
        if wait and not self.behind:
            next_s = self._timers.next_s()
            timeout_s = _LOOK_INTERVAL_S if next_s is None else max(0.0, next_s - time.monotonic())
        self._is_awake = timeout_s == 0.0
        # After that is said, so that of two threads, at least one sees what the other did.
        return 0.0 if self.callbacks else timeout_s

    def find_soon(self, timeout_s: float, calls: int) -> bool:
        """Whether there is something to poll before it is worth to sleep. False: who polls may sleep now.

        `calls` have come since the last time.

        Called without the lock by who polls, where no other thread has work: it would take the interpreter.
        """
        return self._spinning.find(timeout_s, calls)

    def poll(self, timeout_s: float) -> None:
        """Do what sockets and timers ask for. Called without the lock, by one thread at a time."""
        found = self._poller.poll(timeout_s)
        self._spinning.woke()
        with self.lock:
            self._is_awake = True
            # None that is so from now on only: it has had its turn.
            behind = self.behind.popleft() if self.behind else None
            for ready, events in found:
                ready(events)
            if behind is not None or self._poller.has_later:
                self._go_on(behind, has_found=bool(found))
            self._timers.run_due(time.monotonic())
        if self.callbacks:
            self.run_callbacks()

    def _go_on(self, behind: Http2Protocol | None, *, has_found: bool) -> None:
        """With what was read before, and with connections that come later.

        These wait for the calls of others that were just found, once, and as long as their own become fewer:
        what they send stays with them, and a step is either reading of theirs, or running.
        """
        waiting, before = self.later.count, self._later_before
        self._later_before = waiting
        is_put_off = (has_found and not self._was_put_off) or _MANY_LATER < waiting < before
        self._was_put_off = is_put_off
        if behind is not None:
            if is_put_off and behind.comes_later:
                self.behind.append(behind)
            else:
                try:
                    behind.catch_up()
                except Exception:  # noqa: BLE001 - it is logged there
                    self.end_failed(behind)
        if is_put_off or not self._poller.has_later:
            return
        now_s = time.monotonic()
        is_alone = now_s - self.first_read_s > _ALONE_S
        # Where nobody waits, longer steps are less work.
        self.later_in_a_row_s = _LATER_ALONE_S if is_alone else _LATER_S
        until_s = now_s + self.later_in_a_row_s
        for _ in range(1 if has_found else _LATER_AT_ONCE):
            found = self._poller.next_later()
            if found is None:
                return
            ready, events = found
            ready(events)
            if time.monotonic() > until_s:
                return

    def flush_first(self) -> None:
        """Write what was answered, before calls that come later are run."""
        if self._dirty:
            with self.lock:
                self.flush()

    def call_back(self, callback: Callable[[], None]) -> None:
        """Have `callback` run by the thread that polls, from any thread."""
        self.callbacks.append(callback)
        self.wake()

    def run_callbacks(self) -> None:
        """Without the lock. What is answered meanwhile is written before the next poll."""
        callbacks = self.callbacks
        self._runs_callbacks = True
        while callbacks:
            try:
                callbacks.popleft()()
            except BaseException:  # The others are to be told, too, and somebody is to poll.
                log.exception("a callback failed")
        self._runs_callbacks = False

    def wake(self) -> None:
        """Have the thread that polls look again."""
        if not self._is_awake and self._is_open:
            self._is_awake = True
            with contextlib.suppress(OSError):
                self._wake_writer.send(b"\0")

    def _woken(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(64)

    def watch_other(
        self,
        connected: socket.socket,
        ready: Callable[[int], None] | None,
        events: int = selectors.EVENT_READ,
    ) -> None:
        """Poll a socket that is no client's connection. `ready` is called with the lock; None: no more."""
        if ready is None:
            self._poller.remove(connected)
        else:
            self._poller.watch(connected, events, ready)

    def watch(self, bound: socket.socket, connection: Http2Protocol, events: int) -> None:
        self._poller.watch(bound, events, connection.ready, later=connection.comes_later)

    # Connections.

    def _accept(self, bound: socket.socket, tls: Tls | None) -> None:
        """One: others go first. Else who connects again and again would take all."""
        if self._is_draining:
            return  # It was closed while this was on its way.
        try:
            accepted, _address = bound.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            # Most often no more files may be open: asking at once would be in vain, again and again.
            log.error("connections cannot be accepted", reason=error.strerror)
            self._poller.remove(bound)
            self.call_later(_ACCEPT_PAUSE_S, self._listen_again, (bound, tls))
            return
        if len(self._connections) >= self._max_connections:
            accepted.close()
            return
        try:
            self._add(accepted, tls)
        except OSError:  # It is gone already.
            accepted.close()

    def _add(self, accepted: socket.socket, tls: Tls | None) -> None:
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Http2Protocol(self, accepted, None if tls is None else tls())
        self.watch(accepted, connection, selectors.EVENT_READ)
        self._connections.add(connection)
        connection.write()

    def connections(self) -> list[Http2Protocol]:
        """With the lock."""
        return list(self._connections)

    def remove(self, connection: Http2Protocol, bound: socket.socket) -> None:
        self._connections.discard(connection)
        self._poller.remove(bound)

    def _look(self, left: list[Http2Protocol]) -> None:
        """Have connections look after themselves, those that are `left` of all: some, before others come."""
        now_s = self.now_s = time.monotonic()
        if not left:
            left = self.connections()
            self._switches_before, self.switches = self.switches, 0
        looked_at = left[-_LOOKED_AT_ONCE:]
        del left[-_LOOKED_AT_ONCE:]
        self.call_later(0.0 if left else _LOOK_INTERVAL_S, self._look, left)
        for connection in looked_at:
            try:
                if connection in self._connections:
                    connection.look(now_s)
            except Exception:  # noqa: BLE001 - it is logged there
                self.end_failed(connection)
        if not left and self.share.end_round():
            for connection in self._connections:
                connection.grpc.may_keep(self.share.each_bytes)

    def is_shared(self) -> bool:
        """Whether several connections want something of late."""
        return self.switches > _FEW_SWITCHES or self._switches_before > _FEW_SWITCHES

    def end_failed(self, connection: Writer) -> None:
        """A fault of ours ends one connection, and no other."""
        log.exception("a connection failed")
        try:
            connection.abort()
        except Exception:
            log.exception("a connection could not be ended")
        self.wake()  # Who has calls on it is told before the next poll.

    # Answers.

    def answer(
        self,
        connection: Writer,
        act: Callable[[Any, Any], Any],
        stream: Any,
        value: Any,
        at_once: bool = False,
        may_wait: bool = False,
    ) -> Any:
        """Do `act(stream, value)`, and see that what comes of it is written. From any thread.

        `at_once`: also by the thread that polls, which else writes it with what it answers next.
        """
        # Not `with`: it takes twice as long, and each answer comes by.
        if not self.lock.acquire(False):
            if may_wait and self.polling_thread not in (0, _get_ident()):
                self.call_back(partial(self.answer, connection, act, stream, value))
                return None
            self.lock.acquire()
        try:
            result = act(stream, value)
            if not connection.is_dirty:  # As `write_later`.
                connection.is_dirty = True
                self._dirty.append(connection)
            if at_once or _get_ident() != self.polling_thread:
                self.flush_answers()
        finally:
            self.lock.release()
        return result

    def _is_held(self) -> bool:
        """Whether an answer that is given on an event loop is written with those that come just after it.

        At the end of the loop's turn, or by whoever calls `flush_held`, where a handler takes long.
        """
        loop = asyncio._get_running_loop()  # The public one raises where there is none, as nearly always.
        alarm = self.alarm
        if loop is None or alarm is None:
            return False
        if self._holding is not loop:
            loop.call_soon(self._let_go)
            self._holding = loop
            # Not put off: what it is to ring for may go on.
            if (now_s := time.monotonic()) >= alarm.rings_s:
                alarm.put_off(now_s)
        return True

    def flush_held(self) -> None:
        """Write the answers that are held back."""
        if self._holding is not None:
            self._let_go()

    def _let_go(self) -> None:
        with self.lock:
            self._holding = None
            self.flush()

    def write_later(self, connection: Writer) -> None:
        """Before the next poll, or when another thread takes over. With the lock."""
        if not connection.is_dirty:
            connection.is_dirty = True
            self._dirty.append(connection)

    def flush_answers(self) -> None:
        """Write what was answered, where this thread does not write it later anyway. With the lock."""
        if _get_ident() == self.polling_thread:
            if not self._runs_callbacks:
                self.flush()
        elif not self._is_held():
            self.flush()

    def flush(self) -> None:
        """Write what was answered. With the lock."""
        if self._dirty:
            self.flushes += 1
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                try:
                    connection.write()
                    connection.close_if_done()
                except Exception:  # noqa: BLE001 - it is logged there
                    self.end_failed(connection)


# Of this module: each answer looks for it.
_get_ident = threading.get_ident


_BACKLOG = 1024
_ACCEPT_PAUSE_S = 1.0
#: So many that come later are read in a row, where no other is ready and it takes no longer than calls may.
_LATER_AT_ONCE = 4
#: Beside others, and where there were none for a moment.
_LATER_S, _LATER_ALONE_S, _ALONE_S = 0.00025, 0.0005, 0.1
#: Where more of their calls wait, no more are read as long as these become fewer.
_MANY_LATER = 512
_LOOK_INTERVAL_S = 1.0
_LOOKED_AT_ONCE = 128
#: So often another was read of than before: one is alone, but for one that asks for its health.
_FEW_SWITCHES = 16
_STOP_INTERVAL_S = 0.002
#: Clients that read their answers have so long for it.
_LONGEST_READ_S = 5.0
#: Calls are given up by the stop itself, which does not count the time for which the machine stands still.
_STOP_MARGIN_S = 60.0
#: A peer that does not acknowledge the first GOAWAY in that time gets the second.
_LAST_ID_S = 0.25
