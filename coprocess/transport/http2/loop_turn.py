"""An event loop that polls in the place of a thread: the calls of async handlers need no hand-over then.

It watches the poller's own descriptor among its others. When it does not come to it in time, as a handler
blocks it, a thread polls again (`turns`): so a blocked loop holds up the calls that run on it, and no other.
"""

from __future__ import annotations

import time
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from coprocess.transport.alarm import Alarm
from coprocess.transport.engine import HandlersLoop
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.waiting import TAKEN_AT_ONCE, FairQueue

log = structlog.get_logger("coprocess")

Task = TypeVar("Task")


class Lender(Protocol):
    """Who has polled until now. `holds` and `end` are called with the server's lock."""

    is_stopped: bool

    def holds(self, turn: object) -> bool:
        """Whether it is that one's turn still."""

    def take_back(self, turn: object) -> None:
        """Have a thread poll again."""

    def end(self) -> None:
        """Nobody polls any more."""

    def left(self) -> None:
        """The loop watches the poller no more."""


class LoopTurn(Generic[Task]):
    """A loop's time as the one that polls; it may come again and again."""

    def __init__(
        self,
        loop: HandlersLoop,
        server: Server,
        lender: Lender,
        tasks: deque[Task],
        later: FairQueue[Task],
        run: Callable[[Task], bool],
        alarm: Alarm,
    ) -> None:
        """`run` begins a task. False where that may not run on a loop: it is left for a thread.

        `alarm` is put off with each task.
        """
        self.loop = loop
        self._server = server
        self._lender = lender
        self._tasks = tasks
        self._later = later
        self._run = run
        self._alarm = alarm
        #: As a thread's turn has them.
        self.thread_id = loop.thread_id or 0
        self.since_s = 0.0
        #: Sockets and timers are looked after at this moment, and no other may. Set with the server's lock.
        self.is_polling = False
        #: Another has its turn. The lender's, with the server's lock.
        self.is_over = False
        #: From when it was lent until the loop knows that it is over: not to be lent again before.
        self.is_attached = False
        self._descriptor: int | None = None
        self._timer: TimerHandle | None = None
        self._timer_s = 0.0
        self._looks = 0
        #: Tasks, since it polled last.
        self._begun = 0
        self._progress: tuple[int, int, object] | None = None
        self._was_due = False
        loop.on_end.append(self._lost)

    # The lender's.

    def lend(self) -> bool:
        """Have the loop poll from now on. False where it does not run any more."""
        self.is_attached = True
        self.since_s = 0.0
        self._progress, self._was_due = None, False
        if self.loop.call_soon(self._begin):
            return True
        self.is_attached = False
        return False

    def detach(self) -> None:
        """When it is over: have the loop watch the poller no more, as soon as it is free."""
        if not self.loop.call_soon(self._leave_if_over):
            self.is_attached = False

    def is_late(self) -> bool:
        """Whether there was something to do when this was called last, and nothing is done since."""
        before, self._progress = self._progress, (self._looks, self._server.flushes, self.loop.current)
        # After that: what there is to do is asked for with the lock, which the loop needs for each look.
        was_due, self._was_due = self._was_due, self._server.is_due()
        return was_due and self._was_due and before == self._progress

    # On the loop.

    def _begin(self) -> None:
        if self._descriptor is None:
            self._descriptor = self._server.fileno()
            if self._descriptor is not None:
                self.loop.add_reader(self._descriptor, self._look)
        self._look()

    def _look(self) -> None:
        """Poll, and begin the tasks that come; a few times, where more comes soon."""
        server = self._server
        with server.lock:
            if not self._is_mine():
                return
            self.is_polling = True
            server.polling_thread = self.thread_id
        until_s = time.monotonic() + _IN_A_ROW_S
        while True:
            timeout_s = self._poll()
            if timeout_s is None:
                return
            if not timeout_s or self.loop.has_tasks or not server.find_soon(timeout_s, self._begun):
                break
            if time.monotonic() > until_s:
                timeout_s = 0.0
                break
        # In this order: nobody else has polled until the second.
        server.polling_thread = 0
        self.is_polling = False
        self._look_after(timeout_s)

    def _poll(self) -> float | None:
        """How long it may wait then, with `is_polling` still set. None: it polls no more."""
        server, lender, tasks, run, now = self._server, self._lender, self._tasks, self._run, time.monotonic
        alarm, later = self._alarm, self._later
        self._looks += 1
        self._begun = 0
        try:
            server.poll(0.0)
        except BaseException:  # The loop tells of it; what is answered waits for nobody.
            self.is_polling = False
            lender.take_back(self)
            raise
        self.is_polling = False
        if tasks or later.lines:
            since_s = now()
            until_s = since_s + _IN_A_ROW_S
            later_until_s = since_s + server.later_in_a_row_s
            are_first = bool(tasks)  # Whose answers do not wait for calls that come later.
            self.loop.is_reading = True
            while since_s < until_s:
                self.since_s = since_s
                if since_s >= alarm.again_s:
                    alarm.put_off(since_s)
                try:
                    task = tasks.popleft()
                except IndexError:
                    if not later.lines or since_s >= later_until_s:
                        break
                    if are_first:
                        are_first = False
                        server.flush_first()
                    tasks.extend(later.take(TAKEN_AT_ONCE))
                    continue
                try:
                    has_run = run(task)
                except BaseException:  # The others' calls are to be begun, too.
                    log.exception("a task raised what it should have kept to itself")
                    has_run = True
                if not has_run:
                    tasks.appendleft(task)
                    self.since_s = 0.0
                    lender.take_back(self)
                    break
                del task
                self._begun += 1
                if self.is_over:
                    break
                since_s = now()
            self.loop.is_reading = False
        with server.lock:
            self.since_s = 0.0
            if not self._is_mine():
                return None
            self.is_polling = True
            return server.prepare(wait=not (tasks or later.lines))

    def _look_after(self, timeout_s: float) -> None:
        when_s = time.monotonic() + timeout_s
        if self._timer is not None:
            if self._timer_s <= when_s:
                return
            self._timer.cancel()
        self._timer, self._timer_s = self.loop.call_later(timeout_s, self._look_in_time), when_s

    def _look_in_time(self) -> None:
        self._timer = None
        self._look()

    def _is_mine(self) -> bool:
        """With the lock. Where it is not, the loop has left."""
        if self._lender.holds(self):
            if not self._lender.is_stopped:
                return True
            self._lender.end()
        self._leave()
        return False

    def _leave_if_over(self) -> None:
        with self._server.lock:
            if not self._lender.holds(self):
                self._leave()
        self._lender.left()

    def _leave(self) -> None:
        if self._descriptor is not None:
            self.loop.remove_reader(self._descriptor)
            self._descriptor = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_attached = False

    def _lost(self) -> None:
        """The loop runs no more."""
        self._lender.take_back(self)
        self._descriptor = self._timer = None
        self.is_attached = False
        self._lender.left()


#: Tasks, one after the other, before what else runs on the loop has its turn.
_IN_A_ROW_S = 0.001
