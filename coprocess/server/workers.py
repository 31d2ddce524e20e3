"""Threads that run handlers: as many as are needed, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger("coprocess")

Task = TypeVar("Task")


class WorkerThreads(Generic[Task]):
    """Threads that each take a task, run it, and take the next: no hand-over between threads.

    When the last idle one takes a task, another is started, up to `maximum`: so handlers that block
    hold up nothing, and quick ones run on few threads, which is faster (fewer switches).
    """

    def __init__(
        self,
        name: str,
        take: Callable[[], Task | None],
        run: Callable[[Task], None],
        *,
        minimum: int,
        maximum: int,
    ) -> None:
        """`take` waits for a task, and gives None when there will be no more. `run` never raises."""
        self._name = name
        self._take = take
        self._run = run
        self._minimum = minimum
        self._maximum = maximum
        self._lock = threading.Lock()
        self._alive = 0
        self._busy = 0
        self._started = 0
        self._members: set[int] = set()
        self._abandoned: set[int] = set()

    def start(self) -> None:
        for _ in range(self._minimum):
            with self._lock:
                self._alive += 1
            self._start_thread()

    @property
    def count(self) -> int:
        """Threads that are not given up."""
        return self._alive

    @property
    def busy(self) -> int:
        return self._busy

    def replace(self, thread_id: int) -> bool:
        """Give up a thread that hangs in `run`: it ends when `run` does, and another is started.

        False where it is none of these threads, or as many as `maximum` hang already.
        """
        with self._lock:
            if thread_id not in self._members or thread_id in self._abandoned:
                return False
            if len(self._abandoned) >= self._maximum:
                return False
            self._abandoned.add(thread_id)
            self._busy -= 1
        self._start_thread()
        return True

    def _start_thread(self) -> None:
        self._started += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()

    def _work(self) -> None:
        take, run, lock = self._take, self._run, self._lock
        me = threading.get_ident()
        with lock:
            self._members.add(me)
        while (task := take()) is not None:
            with lock:
                self._busy += 1
                grow = self._busy >= self._alive < self._maximum
                if grow:
                    self._alive += 1
            if grow:
                self._start_thread()
            try:
                run(task)
            except BaseException:  # A thread less would go unseen until none is left.
                log.exception("a task raised what it should have kept to itself")
            del task  # Not kept while this thread waits for the next.
            with lock:
                if self._abandoned and me in self._abandoned:
                    self._abandoned.discard(me)
                    self._members.discard(me)
                    return
                self._busy -= 1
        with lock:
            self._members.discard(me)
            self._alive -= 1
