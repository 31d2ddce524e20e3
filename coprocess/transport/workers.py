"""Threads that run handlers: as many as are needed, within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import structlog

log = structlog.get_logger("coprocess")

Task = TypeVar("Task")

MOST_IDLE = 64
#: Sets of threads that are one short, as none could be started: see `start_missing`.
_short: set[WorkerThreads[Any]] = set()


def start_missing() -> None:
    """Try again what failed. To be called again and again, as long as the process runs tasks."""
    for threads in list(_short):
        threads.start_missing()


# Between attempts to take a task, where that fails.
_PAUSE_S = 0.05


class WorkerThreads(Generic[Task]):
    """Threads that each take a task, run it, and take the next: no hand-over between threads.

    When the last idle one takes a task, another is started, up to `maximum`: so handlers that block
    hold up nothing, and quick ones run on few threads, which is faster (fewer switches). After a burst, those
    that are idle end, but for `MOST_IDLE`: each keeps memory, and more of it with each task of another size.
    """

    def __init__(
        self,
        name: str,
        take: Callable[[], Task | None],
        run: Callable[[Task], None],
        *,
        minimum: int,
        maximum: int,
        spare: int = 0,
    ) -> None:
        """`take` waits for a task, and gives None when there will be no more. `run` never raises.

        So many threads are there in any case that run no task, beyond `maximum`: `spare`.

        `start` raises RuntimeError where not one thread can be started.
        """
        self._name = name
        self._take = take
        self._run = run
        self._minimum = minimum
        self._most_idle = max(minimum, MOST_IDLE)
        self._maximum = maximum + spare
        self._spare = spare
        self._lock = threading.Lock()
        self._alive = 0
        #: Threads that run a task. Changed without the lock, as each call does it twice: a set's own
        #: operations are atomic.
        self._busy: set[int] = set()
        self._started = 0
        self._members: set[int] = set()
        self._abandoned: set[int] = set()

    def start(self) -> None:
        for _ in range(self._minimum):
            self._add_thread()
        if not self._alive:
            raise RuntimeError("no thread can be started")

    @property
    def count(self) -> int:
        """Threads that are not given up."""
        return self._alive

    @property
    def abandoned(self) -> int:
        """Threads that were given up, and hang still."""
        return len(self._abandoned)

    @property
    def busy(self) -> int:
        return len(self._busy)

    def start_missing(self) -> None:
        """Start what could not be started when it was needed, if it is needed still."""
        _short.discard(self)
        for _ in range(self._minimum):
            if self not in _short:
                self._add_thread()

    def _add_thread(self) -> None:
        """Start one where all are busy; later, where that cannot be now."""
        with self._lock:
            # Another thread may have seen the same, and been first.
            if not (self._is_short or self._alive < self._minimum):
                return
            self._alive += 1
        if not self._start_thread():
            with self._lock:
                self._alive -= 1
            _short.add(self)

    @property
    def _is_short(self) -> bool:
        return len(self._busy) + self._spare >= self._alive < self._maximum

    @property
    def can_grow(self) -> bool:
        return self._alive < self._maximum

    @property
    def are_all_taken(self) -> bool:
        """Whether all run a task, and none can be started now."""
        is_full = self._alive >= self._maximum or self in _short
        return is_full and len(self._busy) + self._spare >= self._alive

    def mark_busy(self, thread_id: int) -> None:
        """Of a thread that runs a task within `take`; to be followed by `grow`."""
        self._busy.add(thread_id)

    def grow(self) -> None:
        """Start a thread where too few are left that run no task."""
        if self._is_short:
            self._add_thread()

    def replace(self, thread_id: int) -> bool:
        """Give up a thread that hangs in `run`: it ends when `run` does, and another is started.

        False where it is none of these threads, as many as `maximum` hang already, or none can be started.
        """
        with self._lock:
            if thread_id not in self._members or thread_id in self._abandoned:
                return False
            if len(self._abandoned) >= self._maximum - self._spare:
                return False
            if not self._start_thread():
                return False
            self._abandoned.add(thread_id)
            self._busy.discard(thread_id)
        return True

    def _start_thread(self) -> bool:
        """False where the system has no more: a limit of processes, or no memory."""
        try:
            threading.Thread(target=self._work, name=f"{self._name}-{self._started + 1}", daemon=True).start()
        except (RuntimeError, MemoryError):
            return False
        self._started += 1
        return True

    def _work(self) -> None:
        take, run, busy, abandoned = self._take, self._run, self._busy, self._abandoned
        most_idle, spare = self._most_idle, self._spare
        me = threading.get_ident()
        with self._lock:
            self._members.add(me)
        while True:
            try:
                task = take()
            except BaseException:  # As below: a thread less would go unseen.
                log.exception("a task could not be taken")
                time.sleep(_PAUSE_S)
                continue
            if task is None:
                _short.discard(self)
                break
            busy.add(me)
            if len(busy) + spare >= self._alive < self._maximum:
                self._add_thread()
            try:
                run(task)
            except BaseException:  # A thread less would go unseen until none is left.
                log.exception("a task raised what it should have kept to itself")
            del task  # Not kept while this thread waits for the next.
            busy.discard(me)
            if abandoned and self._end_abandoned(me):
                return
            if self._alive - len(busy) > most_idle and self._end_surplus(me):
                return
        with self._lock:
            self._members.discard(me)
            self._alive -= 1

    def _end_abandoned(self, thread_id: int) -> bool:
        with self._lock:
            if thread_id not in self._abandoned:
                return False
            self._abandoned.discard(thread_id)
            self._members.discard(thread_id)
            return True

    def _end_surplus(self, thread_id: int) -> bool:
        with self._lock:
            if self._alive - len(self._busy) <= self._most_idle:
                return False
            self._alive -= 1
            self._members.discard(thread_id)
            return True
