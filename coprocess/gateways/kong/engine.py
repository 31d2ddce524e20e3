"""The plugin server's transport: sockets, the threads that read them, and which event a step belongs to.

A thread reads a connection, runs the event that comes, and reads its steps from the same connection: so
nothing is handed from thread to thread. Where Kong does otherwise, the connection goes to other hands.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import secrets
import socket
import threading
import time
from threading import get_ident
from typing import Any

import structlog
from msgpack import unpackb

from coprocess.errors import Overloaded
from coprocess.gateways.kong import kept, wire
from coprocess.gateways.kong.answers import failure_data
from coprocess.gateways.kong.balance import Balance
from coprocess.gateways.kong.children import keep_from_children
from coprocess.gateways.kong.connection import CHUNK_BYTES, Connection
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.known import LONGEST_KNOWN_BYTES, KnownEvents
from coprocess.gateways.kong.late_steps import LateSteps
from coprocess.gateways.kong.overdue import Overdue, Task
from coprocess.gateways.kong.poller import Poller
from coprocess.gateways.kong.preemption import TURN_REQUESTS, Crowd, give_way
from coprocess.gateways.kong.sharing import Share, listen_at, take
from coprocess.transport.engine import Engine, EngineOptions, Methods
from coprocess.transport.workers import WorkerThreads

log = structlog.get_logger("coprocess")

#: Threads that serve a connection, and wait for its next event; others are watched by the poller.
_MOST_KEPT = 64
_FIRST_ID = 2**16
#: More threads than that hold up each other.
_CROWD = 4
_ANSWERED = frozenset((wire.START_INSTANCE, wire.CLOSE_INSTANCE, wire.HANDLE_EVENT))


class KongEngine(Engine):
    """Its requests are `Event`s. It answers steps itself, as those are of events that it has."""

    name = "kong"

    takes_over = True

    def __init__(self, options: EngineOptions, greeting: bytes = b"", share: Share | None = None) -> None:
        """`greeting` is sent on a new connection before the first answer; `share`: this is a worker."""
        self._greeting = greeting
        self._share = share
        self.max_frame_bytes = options.max_message_bytes
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads: WorkerThreads[Task] = WorkerThreads(
            "kong", self._tasks.get, self._serve, minimum=options.min_threads, maximum=options.max_threads
        )
        self._overdue = Overdue(
            self._tasks, self._put, lambda: self._threads.are_all_taken, self._refuse_overdue
        )
        self._crowd = Crowd()
        self._poller = Poller(self._is_ready, self._accepted, self.close)
        self._listening: list[socket.socket] = []
        self._methods = Methods()
        #: By id: those that are not over.
        self.events: dict[int, Event] = {}
        # From where on Kong sends each id back in the bytes that went to it.
        # By chance, as Kong may send a step of an event of a server before this one.
        first = _FIRST_ID + secrets.randbelow(2**26)
        self._ids = itertools.count(
            first if share is None else share.first_id(first), 1 if share is None else share.count
        )
        self.late = LateSteps(self.events, self)
        #: By their ids.
        self._keeping: set[int] = set()
        self.known = KnownEvents()
        self._connections: set[Connection] = set()
        # Kept, as a bound method is made anew each time.
        self._own_sockets = self._sockets
        keep_from_children(self._own_sockets)
        self._refused = 0
        #: As a worker, once it is started.
        self._balance: Balance | None = None
        self._is_stopped = False

    def _sockets(self) -> list[socket.socket]:
        return [*self._listening, *(connection.socket for connection in self._connections)]

    # As an engine.

    def listen(self, address: str) -> str:
        self._listening.append(listen_at(address))
        return address

    def start(self, methods: Methods) -> None:
        self.use(methods)
        self._threads.start()
        self._overdue.start()
        if self._share is None:
            for listening in self._listening:
                self._poller.listen(listening)
        else:
            self._balance = Balance(self._share.loads(), lambda: len(self.events))
            self._balance.start()
            listening = self._share.listen()
            self._listening.append(listening)
            threading.Thread(
                target=self._take_given, args=(listening,), name="kong-given", daemon=True
            ).start()
        self._poller.start()

    def use(self, methods: Methods) -> None:
        self._methods = methods
        self._run_event = methods.unary[wire.HANDLE_EVENT]

    def replace_thread(self, thread_id: int) -> bool:
        return self._threads.replace(thread_id)

    def stop(self) -> None:
        self._is_stopped = True
        self._overdue.stop()
        if self._balance is not None:
            self._balance.stop()
        for listening in self._listening:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # Who waits for a connection is woken.
            listening.close()
        self._poller.stop()
        for connection in list(self._connections):
            connection.end()
        for _ in range(self._threads.count):
            self._tasks.put(None)

    def _close_left(self) -> None:
        """Close what is given back after the stop: no thread takes it any more."""
        ends = 0
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is None:
                    ends += 1
                else:
                    self.close(task[0])
        for _ in range(ends):
            self._tasks.put(None)

    @property
    def refused_calls(self) -> int:
        return self._refused

    @property
    def lost_requests(self) -> int:
        return self.late.lost_events + kept.requests.lost

    @property
    def thread_count(self) -> int:
        return self._threads.count

    @property
    def abandoned_thread_count(self) -> int:
        return self._threads.abandoned

    # Connections, from hand to hand.

    def _take_given(self, listening: socket.socket) -> None:
        """As a worker: take the connections that the front, or another worker, gives to this one."""
        while not self._is_stopped:
            try:
                with listening.accept()[0] as from_other:
                    taken = take(from_other, self.max_frame_bytes)
                if taken is not None:
                    connected, value = taken
                    connection = self._accepted(connected, is_new=value is None)
                    if value is None:
                        self.resume(connection)
                    else:
                        self.resume_at_once(connection, value)
            except Exception as error:  # noqa: BLE001 - without this thread, this worker would get none
                if not self._is_stopped:
                    log.error("a connection could not be taken", reason=str(error))
                    time.sleep(0.05)

    def _accepted(self, connected: socket.socket, *, is_new: bool = True) -> Connection:
        connection = Connection(connected, self.max_frame_bytes)
        self._connections.add(connection)
        if self._greeting and is_new:
            with contextlib.suppress(OSError):
                connection.send(self._greeting)
        return connection

    def resume(self, connection: Connection) -> None:
        """Have somebody read on. Who calls this holds the connection no longer."""
        self._poller.add(connection)

    def resume_at_once(self, connection: Connection, value: Any = None) -> None:
        """As `resume`, where something has come, or `value` has been read."""
        self._overdue.since_s[connection] = time.monotonic()
        self._put((connection, value))

    def _put(self, task: Task) -> None:
        self._tasks.put(task)
        if self._is_stopped:
            self._close_left()

    def _is_ready(self, connection: Connection) -> None:
        """Something has come on a connection that nobody reads.

        A step is given to its event here, where it is awaited: all threads may wait for theirs.
        """
        try:
            self._take_ready(connection)
        except Exception:  # noqa: BLE001 - else nobody would read it any more
            self._end_failed(connection)

    def _take_ready(self, connection: Connection) -> None:
        # What is queued may take the threads that are left.
        is_full = bool(self._overdue.since_s) or self._threads.are_all_taken
        if connection.awaits is None and not (is_full and (connection.is_within or connection.begins_step())):
            self.resume_at_once(connection)
            return
        try:
            value = connection.receive_now()
        except BlockingIOError:
            self.resume(connection)
        except wire.FrameError as error:
            self.refuse_frame(connection, error)
        except OSError:
            self.close(connection)
        else:
            if not self.late.deliver_awaited(connection, value):
                self.resume_at_once(connection, value)

    def _serve(self, task: Task) -> None:
        """Read and answer on one connection, until it goes to other hands."""
        connection: Connection | None
        connection, value = task
        self._overdue.since_s.pop(connection, None)
        keeping, waiting = self._keeping, self._overdue.since_s
        me = get_ident()
        keeping.add(me)
        is_crowd = self._crowd.is_told
        in_a_row = 0
        try:
            if value is not None:
                connection = self._handle(connection, value, me, may_give=False)
            while connection is not None:
                count = len(keeping)
                if (count > _CROWD) is not is_crowd:
                    is_crowd = self._crowd.tell(is_crowd=count > _CROWD)
                if count > _MOST_KEPT and not connection.has_something(0):
                    self.resume(connection)
                    return
                connection = self._serve_next(connection, me)
                if is_crowd:
                    in_a_row += 1
                    if in_a_row == TURN_REQUESTS:
                        in_a_row = 0
                        give_way()
                if waiting and connection is not None and self._threads.are_all_taken:
                    # Others have waited longer: it has its turn after them.
                    self.resume(connection)
                    return
        except Exception:  # noqa: BLE001 - as above
            if connection is not None:
                self._end_failed(connection)
        finally:
            keeping.discard(me)

    def _serve_next(self, connection: Connection, me: int) -> Connection | None:
        """Read and answer a request: the connection, where this thread goes on with it."""
        try:
            if connection.values or connection.is_within:
                return self._handle(connection, connection.receive(), me)
            data = connection.read(CHUNK_BYTES)
            end = wire.ID_ENDS.get(data[:3], LONGEST_KNOWN_BYTES)
            argument = self.known.get(data[end:])
            if argument is None or connection.awaits is not None:
                value = connection.value_of(data)
                if len(data) < LONGEST_KNOWN_BYTES:
                    self.known.learn(data[end:], data)
                return self._handle(connection, value, me)
        except BlockingIOError:
            self.resume(connection)
            return None
        except wire.FrameError as error:
            self.refuse_frame(connection, error)
            return None
        except OSError:
            self.close(connection)
            return None
        return self._handle_event(connection, b"\x94\x01" + data[2:end], argument, me, True)

    def close(self, connection: Connection) -> None:
        connection.close()
        self._connections.discard(connection)
        self.late.give_up_awaited(connection)

    def refuse_frame(self, connection: Connection, error: wire.FrameError) -> None:
        """Answer what is no message, so that Kong does not let the request by: an error that is no text."""
        self._refused += 1
        log.warning("refused", reason=str(error))
        frame = wire.pack_answer(error.message_id or 0, None, {"error": "not a message of Kong"})
        connection.send_now(frame)
        self.close(connection)

    def _end_failed(self, connection: Connection) -> None:
        """End a connection after a fault of ours: Kong would wait for 60 s, and let the request by."""
        log.exception("a connection failed")
        self.refuse_frame(connection, wire.FrameError("internal error"))

    def _handle(
        self, connection: Connection, value: Any, me: int, *, may_give: bool = True
    ) -> Connection | None:
        """Answer a request, or have it answered: the connection, where this thread goes on with it.

        `may_give`: whether another worker may. Not of what another has given, as it is to be run here.
        """
        try:
            message_id, method, argument = wire.parts_of(value)
            if connection.awaits is not None:
                self.late.give_up_awaited(connection, argument)
            if method.startswith(wire.STEP):
                return self._deliver(connection, message_id, argument, value)
        except wire.FrameError as error:
            self.refuse_frame(connection, error)
            return None
        if method not in _ANSWERED:
            text = f"{method[:100]!r} is no method of a plugin server"
            # To a text, Kong would let the request by.
            return self._answer(connection, wire.pack_answer(message_id, None, {"error": text}))
        head = wire.pack_head(message_id)
        if method == wire.HANDLE_EVENT:
            return self._handle_event(connection, head, argument, me, may_give)
        event = Event(self, connection, method, head, argument, me)
        self._methods.unary[method](event)
        return event.release()

    def _handle_event(
        self, connection: Connection, head: bytes, argument: Any, me: int, may_give: bool
    ) -> Connection | None:
        balance = self._balance
        if (
            balance is not None
            and balance.gives
            and may_give
            and self._give_event(connection, head, argument)
        ):
            return None
        event_id = next(self._ids)
        event = self.events[event_id] = Event(
            self, connection, wire.HANDLE_EVENT, head, argument, me, event_id
        )
        self._run_event(event)
        if event.thread == me:
            return None if event.detached else event.connection
        return event.release()

    def _refuse_overdue(self, connection: Connection, value: Any) -> None:
        """Answer what has come, as no thread is there to run it. Steps are taken: they end what hangs."""
        me = get_ident()
        goes_on: Connection | None = connection
        try:
            value = connection.receive_now() if value is None else value
            message_id, method, argument = wire.parts_of(value)
            if method in _ANSWERED:
                self.late.give_up_awaited(connection)
                self._refused += 1
                event_id = next(self._ids) if method == wire.HANDLE_EVENT else None
                event = Event(self, connection, method, wire.pack_head(message_id), argument, me, event_id)
                event.phase = str(argument.get("EventName")) if isinstance(argument, dict) else ""
                event.fail(Overloaded.status, "the plugin server is overloaded")
            else:
                goes_on = self._handle(connection, value, me)
        except BlockingIOError:
            pass
        except wire.FrameError as error:
            return self.refuse_frame(connection, error)
        except OSError:
            return self.close(connection)
        except Exception:  # noqa: BLE001 - as in `_is_ready`
            return self._end_failed(connection)
        if goes_on is not None:
            self.resume(goes_on)
        return None

    def _answer(self, connection: Connection, frame: bytes) -> Connection:
        connection.send_now(frame)
        return connection

    # Steps that come by another way than they usually do.

    def _deliver(
        self, connection: Connection, message_id: int, argument: Any, value: Any
    ) -> Connection | None:
        event_id = argument.get("EventId") if isinstance(argument, dict) else None
        if type(event_id) is int and (
            self.late.deliver(event_id, (connection, value))
            or self._give_to_owner(event_id, connection, value)
        ):
            return None
        # Of an event whose time was over, or of a server before this one: it must not go on unguarded.
        frame = (
            b"\x94\x01"
            + wire.pack(message_id)
            + b"\xc0\x82\xa4Data"
            + failure_data("")
            + b"\xa7EventId"
            + wire.pack(event_id if type(event_id) is int else None)
        )
        return self._answer(connection, frame)

    def _give_to_owner(self, event_id: int, connection: Connection, value: Any) -> bool:
        """Where the event is another worker's: its step goes there, with its connection."""
        share = self._share
        if share is None or share.owner_of(event_id) == share.number:
            return False
        return self._give(share, share.owner_of(event_id), connection, value)

    def _give_event(self, connection: Connection, head: bytes, argument: Any) -> bool:
        """Where another worker has fewer events: this one goes there, with its connection."""
        share, balance = self._share, self._balance
        if share is None or balance is None or (taker := balance.take()) is None:
            return False
        value = [wire.REQUEST, unpackb(head[2:]), wire.HANDLE_EVENT, [argument]]
        return self._give(share, taker, connection, value)

    def _give(self, share: Share, taker: int, connection: Connection, value: Any) -> bool:
        if connection.values or connection.is_within or not share.give(taker, connection.socket, value):
            return False
        connection.socket.close()  # Not shut down: the other has it.
        self._connections.discard(connection)
        return True


def server_greeting(pid: int) -> bytes:
    """Tells Kong which process the server is, so that it lets go of instances of another."""
    return wire.pack_notification(wire.SERVER_PID, pid)
