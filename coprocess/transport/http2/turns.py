"""Threads that take turns at polling: the one that polls also runs quick handlers, without a hand-over.

When its handler takes longer, another thread goes on polling: because the handler's layer says so
(`may_block`), or because the watcher sees it. The thread with the handler is an ordinary one from then on.

Where all calls run on an event loop (`runs_on`), that loop polls, until it has a call of another kind, or
is blocked.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from coprocess.transport.engine import HandlersLoop
from coprocess.transport.http2.loop_turn import LoopTurn
from coprocess.transport.http2.server import Server
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
        #: None: whoever comes first. Changed with the server's lock.
        self._turn: _Turn | LoopTurn[Task] | None = None
        self._run_on_loop = run_on_loop
        #: The loop that tasks have told of last, its turn, and how many have.
        self._loop: HandlersLoop | None = None
        self._loop_turn: LoopTurn[Task] | None = None
        self._told = 0
        #: Threads with nothing to do, and what wakes each. The last is the first: what it needs is in caches.
        #: They come without the lock, and are taken with it.
        self._idle: list[tuple[_Turn, threading.Lock]] = []
        self.is_stopped = False
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._is_watcher_asleep = False

    def start(self, threads: WorkerThreads[Task]) -> None:
        """`threads` are those that call `take`."""
        self._threads = threads
        self._server.is_watched = True
        threading.Thread(target=self._watch, name="http2-watcher", daemon=True).start()

    def put(self, task: Task) -> None:
        """Have a task run, from any thread."""
        if threading.get_ident() == self._server.polling_thread:
            self.tasks.append(task)  # It looks for them itself.
            return
        with self._lock:
            self.tasks.append(task)
        self._server.wake()

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
                    elif self.tasks and not self._may_run and type(self._turn) is _Turn:
                        return self.tasks.popleft()
                    else:
                        self._idle.append(place)
                finally:
                    self._lock.release()
            if self._turn is not turn:
                wake.acquire()
            if self._turn is turn:
                return self._poll(turn)

    def _is_waiting(self, place: tuple[_Turn, threading.Lock]) -> bool:
        """Whether a thread has its place among those with nothing to do. False: it has the lock instead.

        Who holds that may wait for the interpreter, behind all that come here: so these do not wait for it.
        """
        self._idle.append(place)
        if self.tasks:
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

    @property
    def _may_run(self) -> bool:
        """Whether the thread that polls may run tasks."""
        return bool(self._idle) or (self._threads is not None and self._threads.can_grow)

    def _poll(self, turn: _Turn) -> Task | None:
        """Poll, and run what comes, until another thread does, or it is stopped."""
        server, tasks, run, now = self._server, self.tasks, self._run, time.monotonic
        told, in_a_row = self._told, 0
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
                timeout_s = server.prepare(wait=not (tasks and may_run))
            server.poll(timeout_s)
            if not (tasks and may_run):
                continue
            if self._is_watcher_asleep:
                self._wake_watcher()
            since_s = now()
            until_s = since_s + _IN_A_ROW_S
            while since_s < until_s:
                turn.since_s = since_s
                try:
                    task = tasks.popleft()
                except IndexError:
                    break
                try:
                    run(task)
                except BaseException:  # Nobody would poll any more.
                    log.exception("a task raised what it should have kept to itself")
                del task
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
        turn = self._turn
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
            lent = LoopTurn(loop, self._server, self, self.tasks, self._run_on_loop)
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

    def watch_closely(self) -> None:
        if self._is_watcher_asleep:
            self._wake_watcher()

    def _watch(self) -> None:
        quiet = 0
        while not self.is_stopped:
            time.sleep(_TICK_S)
            if self._server.holds:
                self._server.flush_held()
            turn = self._turn
            since_s = 0.0 if turn is None else turn.since_s
            if turn is None or not since_s:
                if type(turn) is LoopTurn and turn.is_late():
                    self.take_back(turn)
                quiet += 1
                if quiet > _QUIET_TICKS:
                    quiet = self._sleep()
                continue
            quiet = 0
            if time.monotonic() - since_s > _LONG_S and turn.since_s == since_s:
                # The machine may have stopped for a moment: then the task is over soon.
                time.sleep(_AGAIN_S)
                if turn.since_s == since_s:
                    self._pass_on(turn)

    def _sleep(self) -> int:
        """Until there is a task. How many ticks of quiet there were since it woke up."""
        lent = self._turn
        if isinstance(lent, LoopTurn) and lent.loop.has_tasks:
            self.take_back(lent)  # What goes on there may block it, and nobody would see.
        with self._lock:
            # A task that was taken just now is watched.
            if self.is_stopped or self.tasks or (self._turn is not None and self._turn.since_s):
                return 0
            if self._server.holds:
                return 0
            self._is_watcher_asleep = True
            self._server.is_watched = False
            is_lent = isinstance(self._turn, LoopTurn)
        if self._alarm.acquire(timeout=_DOZE_S if is_lent else -1):
            return 0
        # Others may have handed to the loop what blocks it.
        self._wake_watcher()
        self._alarm.acquire()
        return _QUIET_TICKS - _TICKS_UNTIL_LATE

    def _wake_watcher(self) -> None:
        with self._lock:
            if self._is_watcher_asleep:
                self._is_watcher_asleep = False
                self._server.is_watched = True
                self._alarm.release()

    def stop(self, timeout_s: float) -> bool:
        """Whether nobody polls any more."""
        with self._lock:
            self.is_stopped = True
            while self._idle:
                self._idle.pop()[1].release()
        self._wake_watcher()
        until_s = time.monotonic() + timeout_s
        while self._turn is not None and time.monotonic() < until_s:
            self._server.wake()
            time.sleep(_STOP_INTERVAL_S)
        lent = self._loop_turn
        return self._turn is None and not (lent is not None and lent.is_attached)


def _nothing() -> None: ...


#: A handler that takes longer goes on beside the polling, from the next tick on.
_LONG_S = 0.0003
_AGAIN_S = 0.0003
_TICK_S = 0.0012
#: The watcher sleeps after so many ticks without a task.
_QUIET_TICKS = 64
#: Tasks, one after the other, before new ones are looked for.
_IN_A_ROW_S = 0.001
_STOP_INTERVAL_S = 0.001
#: Calls in a row that all go to one loop, until that polls.
_CALLS_UNTIL_LENT = 16
#: The watcher of a loop that polls looks that often, where nothing is begun.
_DOZE_S = 0.1
_TICKS_UNTIL_LATE = 2
