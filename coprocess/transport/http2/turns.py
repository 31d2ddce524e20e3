"""Threads that take turns at polling: the one that polls also runs quick handlers, without a hand-over.

When its handler takes longer, another thread goes on polling: because the handler's layer says so
(`may_block`), or because the watcher sees it, whom an alarm wakes that each task puts off. The thread with
the handler is an ordinary one from then on.

Where all calls run on an event loop (`runs_on`), that loop polls, until it has a call of another kind, or
is blocked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import structlog

from coprocess.transport.alarm import Alarm, SilentAlarm, make_alarm
from coprocess.transport.engine import HandlersLoop
from coprocess.transport.http2.loop_turn import LoopTurn
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.waiting import TAKEN_AT_ONCE, FairQueue
from coprocess.transport.workers import WorkerThreads

log = structlog.get_logger("coprocess")

Task = TypeVar("Task")


class _Turn:
    """A thread's time as the one that polls."""

    __slots__ = ("since_s", "thread_id")

    def __init__(self, thread_id: int) -> None:
        self.thread_id = thread_id
        #: time.monotonic() when the task that it runs began; 0: it runs none.
        self.since_s = 0.0


class Turns(Generic[Task]):
    """Threads call `take`; tasks come from what the server calls while it is polled."""

    def __init__(
        self,
        server: Server,
        run: Callable[[Task], None],
        after: Task,
        run_on_loop: Callable[[Task], bool] = lambda task: False,
    ) -> None:
        """`run` is for tasks that are begun here. It never raises. `run_on_loop` is what a LoopTurn asks for.

        `after` is given to a thread that has run one, and found that another polls: for its bookkeeping.
        """
        self._server = server
        self._lock = server.lock
        self._run = run
        self._after = after
        #: None: nothing can take over from the thread that polls.
        self._threads: WorkerThreads[Task] | None = None
        self.tasks: deque[Task] = deque()
        server.waiting = self.tasks
        self.later: FairQueue[Task] = server.later
        #: A _Turn, or a LoopTurn; None: whoever comes first. Changed with the server's lock.
        # Any, as others change it: it is not still what it was found to be, which a compiler would rely on.
        self._turn: Any = None
        self._run_on_loop = run_on_loop
        #: The loop that tasks have told of last, its turn, and how many have.
        self._loop: HandlersLoop | None = None
        self._loop_turn: LoopTurn[Task] | None = None
        self._told = 0
        #: Threads with nothing to do, and what wakes each. The last is the first: what it needs is in caches.
        #: They come without the lock, and are taken with it.
        self._idle: list[tuple[_Turn, threading.Lock]] = []
        self.is_stopped = False
        #: Rings where a task takes long. Each that begins puts it off.
        self._alarm: Alarm = SilentAlarm()

    def start(self, threads: WorkerThreads[Task]) -> None:
        """Before the first `take`. `threads` are those that call it."""
        self._threads = threads
        self._alarm = self._server.alarm = make_alarm(_ALARM_S)
        threading.Thread(target=self._watch, name="http2-watcher", daemon=True).start()

    def put(self, task: Task) -> None:
        """Have a task run, from any thread."""
        if threading.get_ident() == self._server.polling_thread:
            self.tasks.append(task)  # It looks for them itself.
            return
        with self._lock:
            self.tasks.append(task)
        self._server.wake()

    def drop(self, is_over: Callable[[Task], bool]) -> list[Task]:
        """Take out what waits and need not be run any more; what that was. With the lock.

        Not the first: how long that waits tells whether all threads hang.
        """
        tasks = self.tasks
        kept: list[Task] = []
        dropped: list[Task] = []
        with contextlib.suppress(IndexError):  # Others may take some meanwhile.
            for _ in range(len(tasks)):
                task = tasks.popleft()
                (dropped if kept and is_over(task) else kept).append(task)
        tasks.extendleft(reversed(kept))
        return dropped + self.later.drop(is_over)

    def take(self) -> Task | None:
        """Wait for a task. None: there will be no more."""
        turn, wake = place = _Turn(threading.get_ident()), threading.Lock()
        wake.acquire()
        while True:
            if self._lock.acquire(blocking=False) or not self._is_waiting(place):
                try:
                    if self.is_stopped:
                        return None
                    if self._turn is None:
                        self._turn = turn
                        self._server.polling_thread = turn.thread_id
                    # Else the one that polls runs them: two would only wait for each other.
                    elif (
                        not self._may_run and type(self._turn) is _Turn and (found := self._pop()) is not None
                    ):
                        return found
                    else:
                        self._idle.append(place)
                finally:
                    self._lock.release()
            if self._turn is not turn:
                wake.acquire()
            if self._turn is turn:
                try:
                    return self._poll(turn)
                except BaseException:  # It is logged by whoever called this, and calls again.
                    self._give_up(turn)
                    raise

    def _pop(self) -> Task | None:
        """A task, where there is one: who polls may be at the last just now."""
        try:
            return self.tasks.popleft()
        except IndexError:
            return self.later.take_one()

    def _is_waiting(self, place: tuple[_Turn, threading.Lock]) -> bool:
        """Whether a thread has its place among those with nothing to do. False: it has the lock instead.

        Who holds that may wait for the interpreter, behind all that come here: so these do not wait for it.
        """
        self._idle.append(place)
        if self.tasks or self.later.lines:
            self._server.call_back(_nothing)  # Perhaps the thread that polls may run them now.
        # After it is there, so that of two threads, at least one sees what the other did.
        if self._turn is not None and not self.is_stopped:
            return True
        self._lock.acquire()
        if place not in self._idle:  # It was given the turn, or woken for the end.
            self._lock.release()
            return True
        self._idle.remove(place)
        return False

    def _give_up(self, turn: _Turn) -> None:
        """Polling failed: whoever comes first goes on. Nobody would, were it the turn of `turn` still."""
        with self._lock:
            if self._turn is turn:
                self.end()

    @property
    def _may_run(self) -> bool:
        """Whether the thread that polls may run tasks."""
        return bool(self._idle) or (self._threads is not None and self._threads.can_grow)

    @property
    def _is_alone(self) -> bool:
        """Whether the thread that polls is the only one with work."""
        threads, loop = self._threads, self._loop
        return (
            threads is not None
            and len(self._idle) + 1 >= threads.count
            and (loop is None or not loop.has_tasks)
        )

    def _poll(self, turn: _Turn) -> Task | None:
        """Poll, and run what comes, until another thread does, or it is stopped."""
        server, tasks, run, now = self._server, self.tasks, self._run, time.monotonic
        later = self.later
        alarm, told, in_a_row = self._alarm, self._told, 0
        calls = 0
        while True:
            with self._lock:
                if self._turn is not turn:
                    return self._after
                turn.since_s = 0.0
                if self.is_stopped:
                    self._turn, server.polling_thread = None, 0
                    return None
                # Somebody must be there to go on with polling. Else the next thread that is free takes them.
                may_run = self._may_run
                timeout_s = server.prepare(wait=not (may_run and (tasks or later.lines)))
            if timeout_s:
                if self._is_alone and server.find_soon(timeout_s, calls):
                    timeout_s = 0.0
                calls = 0
            server.poll(timeout_s)
            if not (may_run and (tasks or later.lines)):
                continue
            since_s = now()
            until_s = since_s + _IN_A_ROW_S
            later_until_s = since_s + server.later_in_a_row_s
            are_first = bool(tasks)  # Whose answers do not wait for calls that come later.
            while since_s < until_s:
                turn.since_s = since_s
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
                    run(task)
                except BaseException:  # Nobody would poll any more.
                    log.exception("a task raised what it should have kept to itself")
                del task
                calls += 1
                if self._turn is not turn:
                    return self._after
                if told != self._told:
                    told = self._told
                    in_a_row += 1
                else:
                    in_a_row = 0
                since_s = now()
            if in_a_row > _CALLS_UNTIL_LENT:
                in_a_row = 0
                self._lend(turn)

    def may_block(self) -> None:
        """Called by a task that may take long: where its thread polls, another does from now on."""
        turn: _Turn | LoopTurn[Task] | None = self._turn
        if turn is not None and turn.thread_id == threading.get_ident():
            self._pass_on(turn)

    def _pass_on(self, turn: _Turn | LoopTurn[Task]) -> None:
        if type(turn) is LoopTurn:
            self.take_back(turn)
            return
        threads = self._threads
        with self._lock:
            if self._turn is not turn or not turn.since_s or threads is None:
                return
            # Before the thread sees that it does not poll any more.
            threads.mark_busy(turn.thread_id)
            wake = self._choose()
        self._begin(wake)

    def _choose(self) -> threading.Lock | None:
        """Give the turn to a thread that has nothing to do: what wakes it. With the lock."""
        self._server.flush()
        if not self._idle:
            self._turn, self._server.polling_thread = None, 0
        # After that is said: one may have come meanwhile, without the lock.
        if not self._idle:
            return None
        self._turn, wake = self._idle.pop()
        self._server.polling_thread = self._turn.thread_id
        return wake

    def _begin(self, wake: threading.Lock | None) -> None:
        if wake is not None:
            wake.release()
        if self._threads is not None:
            self._threads.grow()

    # An event loop's turn.

    def runs_on(self, loop: HandlersLoop) -> None:
        """Called by a task that goes to `loop`: where all do, it polls."""
        self._loop = loop
        self._told += 1

    def _lend(self, turn: _Turn) -> None:
        """Have the loop poll that all tasks go to."""
        loop = self._loop
        if loop is None or loop.thread_id is None or self._server.fileno() is None:
            return
        lent = self._loop_turn
        if lent is None or lent.loop is not loop:
            lent = LoopTurn(loop, self._server, self, self.tasks, self.later, self._run_on_loop, self._alarm)
            self._loop_turn = lent
        with self._lock:
            # Attached still: the loop is blocked, or was a moment ago.
            if self._turn is not turn or self.is_stopped or lent.is_attached:
                return
            self._server.flush()
            self._turn, self._server.polling_thread = lent, 0
            lent.is_over = False
        if not lent.lend():
            self.take_back(lent)
            return
        # It may have rung just before, and the loop be blocked: nobody would see that.
        self._alarm.put_off(time.monotonic())

    def holds(self, turn: object) -> bool:
        return self._turn is turn

    def take_back(self, turn: object) -> None:
        with self._lock:
            lent = self._turn
            if lent is not turn or not isinstance(lent, LoopTurn) or lent.is_polling:
                return
            lent.is_over = True
            wake = self._choose()
        self._begin(wake)
        lent.detach()

    def end(self) -> None:
        self._turn, self._server.polling_thread = None, 0

    def left(self) -> None:
        if self.is_stopped and self._turn is None:
            self._server.close()  # `stop` could not wait for it.

    # The watcher.

    def _watch(self) -> None:
        while not self.is_stopped:
            # Others may hand to a loop what blocks it, and put off nothing.
            has_rung = self._alarm.wait(_DOZE_S if type(self._turn) is LoopTurn else None)
            try:
                self._look_at_turn(has_rung)
            except Exception:  # Without this thread, all would wait for a task that hangs.
                log.exception("who polls could not be watched")
        self._alarm.close()

    def _look_at_turn(self, has_rung: bool) -> None:
        self._server.flush_held()
        turn: _Turn | LoopTurn[Task] | None = self._turn
        if turn is None:
            return
        if since_s := turn.since_s:
            self._watch_task(turn, since_s)
        # Also after a task of its: it may be blocked by what comes then.
        if type(turn) is LoopTurn and self._turn is turn and not self._will_ring():
            self._watch_loop(turn, _QUIET_TICKS if has_rung else _TICKS_UNTIL_LATE)

    def _will_ring(self) -> bool:
        return time.monotonic() < self._alarm.rings_s

    def _watch_task(self, turn: _Turn | LoopTurn[Task], since_s: float) -> None:
        """Of `turn`, as long as it goes on: have another poll."""
        while self._turn is turn and turn.since_s == since_s and not self.is_stopped:
            is_long = time.monotonic() - since_s > _LONG_S
            # Also then: the machine may have stopped for a moment, and the task is over soon.
            time.sleep(_AGAIN_S)
            if is_long and turn.since_s == since_s:
                self._pass_on(turn)

    def _watch_loop(self, lent: LoopTurn[Task], ticks: int) -> None:
        """It has begun nothing for a moment: it has nothing to do, or is blocked."""
        for _ in range(ticks):
            if lent.is_late():
                return self.take_back(lent)
            time.sleep(_TICK_S)
            self._server.flush_held()
            # It is at it again, and has put off the alarm.
            if self._turn is not lent or self.is_stopped or self._will_ring():
                return None
        if lent.loop.has_tasks:
            self.take_back(lent)  # What goes on there may block it, and nobody would see.
        return None

    def stop(self, timeout_s: float) -> bool:
        """Whether nobody polls any more."""
        with self._lock:
            self.is_stopped = True
            while self._idle:
                self._idle.pop()[1].release()
        self._alarm.put_off(time.monotonic())
        until_s = time.monotonic() + timeout_s
        while self._turn is not None and time.monotonic() < until_s:
            self._server.wake()
            time.sleep(_STOP_INTERVAL_S)
        lent = self._loop_turn
        return self._turn is None and not (lent is not None and lent.is_attached)


def _nothing() -> None: ...


#: The watcher looks so long after the alarm was put off last, and tasks put it off once that is half over.
_ALARM_S = 0.0012
#: A task that takes longer goes on beside the polling, once the watcher sees it.
_LONG_S = 0.0003
_AGAIN_S = 0.0003
#: Tasks, one after the other, before new ones are looked for.
_IN_A_ROW_S = 0.001
_STOP_INTERVAL_S = 0.001
#: Calls in a row that all go to one loop, until that polls.
_CALLS_UNTIL_LENT = 16
#: The watcher looks at a loop that polls so often, where it begins nothing.
_TICK_S = 0.0012
#: From then on it looks seldom.
_QUIET_TICKS = 64
_DOZE_S = 0.1
_TICKS_UNTIL_LATE = 2
