"""Steps that come by another way than they usually do: one thread reads it, and another waits for it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.connection import Connection
from coprocess.gateways.kong.event import CLIENT_WAIT_S, Event
from coprocess.gateways.kong.turns import EventEnded
from coprocess.transport.awake import AwakeTime

#: How long a step is waited for where Kong waits for nobody.
_STEP_WAIT_S = 30.0
#: Events that wait for a client, each with a thread; beyond, the oldest is given up.
_MOST_WAITING = 200
#: As above, of async phases, which have no thread: half of those that run at one time.
_MOST_TASKS_WAITING = 2048
#: Between looks at whether an event that waits on another connection has turned to its inbox.
_LOOK_S = 0.005
_MOST_LOOKING_S = 1.0

#: A connection, and the step that has come on it.
Came = tuple[Connection, Any]
_Inbox = queue.SimpleQueue[Came | None]


class Hands(Protocol):
    """Who goes on with connections: the engine."""

    def resume(self, connection: Connection) -> None: ...

    def resume_at_once(self, connection: Connection, value: Any = None) -> None: ...

    def close(self, connection: Connection) -> None: ...

    def refuse_frame(self, connection: Connection, error: wire.FrameError) -> None: ...


class LateSteps:
    """An inbox for each event that waits for its step where it does not read itself."""

    def __init__(self, events: dict[int, Event], hands: Hands) -> None:
        """`events`: by id, those that are not over."""
        self._events = events
        self._hands = hands
        self._inboxes: dict[int, Callable[[Any], None]] = {}
        #: Those of them that wait for a client, the oldest first: in threads, and in tasks.
        self._in_threads: OrderedDict[int, None] = OrderedDict()
        self._in_tasks: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()
        #: Events whose step never came.
        self.lost_events = 0

    # Who has read a step.

    def deliver(self, event_id: int, came: Came) -> bool:
        """Give a step to its event. False where there is none of that id."""
        looked = AwakeTime()
        while True:
            with self._lock:
                put = self._inboxes.get(event_id)
                if put is not None:
                    put(came)
                    return True
            if event_id not in self._events or looked.passed_s() > _MOST_LOOKING_S:
                return False
            time.sleep(_LOOK_S)  # It waits on another connection, and turns to its inbox soon.

    def deliver_awaited(self, connection: Connection, value: Any) -> bool:
        """Give a step to its event, where that waits for it at this moment. False for all else."""
        try:
            _, method, argument = wire.parts_of(value)
            event_id = argument["EventId"]
        except (wire.FrameError, TypeError, KeyError):
            return False
        if not method.startswith(wire.STEP) or type(event_id) is not int:
            return False
        with self._lock:
            put = self._inboxes.get(event_id)
            if put is None:
                return False
            is_awaited, connection.awaits = connection.awaits, None
            put((connection, value))
        if is_awaited not in (None, event_id):
            self.wake(is_awaited)
        return True

    def wake(self, event_id: int) -> None:
        """End an event's waiting for its step."""
        put = self._inboxes.get(event_id)
        if put is not None:
            put(None)

    def give_up_awaited(self, connection: Connection, argument: Any = None) -> None:
        """Something else came where a step should have: its event is lost."""
        event_id, connection.awaits = connection.awaits, None
        if event_id is not None and not (isinstance(argument, dict) and argument.get("EventId") == event_id):
            self.wake(event_id)

    # Who waits for one.

    def wait(self, event: Event, *, may_wait: bool) -> Came:
        """Let go of the event's connection, and wait for the step wherever it comes. Raises EventEnded."""
        connection = event.connection
        if not may_wait:
            connection.awaits = event.id
        limit_s = CLIENT_WAIT_S if may_wait else _STEP_WAIT_S
        came = self._wait(event, limit_s, lambda: self._hands.resume(connection), may_wait=may_wait)
        if connection.awaits == event.id:  # The step came by another.
            connection.awaits = None
        return came

    def wait_after(self, event: Event, came: Any, *, may_wait: bool) -> Came:
        """As `wait`, where something else came: a value, or an error. Raises EventEnded."""
        if may_wait:
            return self._wait(event, CLIENT_WAIT_S, lambda: self.let_go(event, came), may_wait=True)
        # Kong waits in none of the other calls: it has ended this event, for an error in Lua.
        self.let_go(event, came)
        self.lose(event)
        raise EventEnded

    def expect(
        self, event: Event, put: Callable[[Came | None], None], *, may_wait: bool, is_task: bool = True
    ) -> None:
        """Until `forget`, `put` gets what other threads read for the event; None: it is over, or given up."""
        assert event.id is not None  # noqa: S101 - only events ask
        self._inboxes[event.id] = put
        if may_wait:
            waiting, most = (
                (self._in_tasks, _MOST_TASKS_WAITING) if is_task else (self._in_threads, _MOST_WAITING)
            )
            self._give_up_oldest(event.id, waiting, most)

    def forget(self, event: Event) -> None:
        assert event.id is not None  # noqa: S101 - as above
        with self._lock:
            self._inboxes.pop(event.id, None)
            self._in_threads.pop(event.id, None)
            self._in_tasks.pop(event.id, None)

    def let_go(self, event: Event, came: Any) -> None:
        """Give away the event's connection, on which something else came: a value, or an error."""
        event.detached = True
        if isinstance(came, wire.FrameError):
            self._hands.refuse_frame(event.connection, came)
        elif isinstance(came, OSError):
            self._hands.close(event.connection)
        elif came is not None:
            self._hands.resume_at_once(event.connection, came)

    def lose(self, event: Event) -> None:
        if not event.is_over:
            event.is_over = True
            self.lost_events += 1
        if event.id is not None:
            self._events.pop(event.id, None)

    def _wait(self, event: Event, limit_s: float, let_go: Callable[[], None], *, may_wait: bool) -> Came:
        inbox: _Inbox = queue.SimpleQueue()
        event.detached = True
        self.expect(event, inbox.put, may_wait=may_wait, is_task=False)
        try:
            since_s = event.waits_since_s = time.monotonic()
            let_go()
            if event.is_over:  # Who ended it may not have found the inbox.
                inbox.put(None)
            try:
                came = inbox.get(timeout=limit_s)
            except queue.Empty:
                came = None
        finally:
            self.forget(event)
        self._pass_on(inbox)
        event.waited_s += time.monotonic() - since_s
        event.waits_since_s = None
        if came is None:
            self.lose(event)
            raise EventEnded
        return came

    def _give_up_oldest(self, event_id: int, waiting: OrderedDict[int, None], most: int) -> None:
        oldest = None
        with self._lock:
            waiting[event_id] = None
            if len(waiting) > most:
                oldest, _ = waiting.popitem(last=False)
        if oldest is not None:
            self.wake(oldest)

    def _pass_on(self, inbox: _Inbox) -> None:
        """What came when nobody waited any more: it is answered as of an event that is over."""
        with contextlib.suppress(queue.Empty):
            while True:
                left = inbox.get_nowait()
                if left is not None:
                    self._hands.resume_at_once(*left)
