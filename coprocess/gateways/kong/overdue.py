"""What no thread takes for long is refused, before Kong has waited so long that it lets the request by."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from coprocess.gateways.kong.connection import Connection
from coprocess.runtime.log_limit import LimitedLog

log = structlog.get_logger("coprocess")

#: A connection, what has come on it, or None: to be read; and since when it waits, by time.monotonic().
Task = tuple[Connection, object, float]

#: Kong waits for 60 s, and a phase may take 30 of these.
_MOST_QUEUED_S: Final = 10.0
_LOOK_S: Final = 0.25


class Overdue:
    """Looks, in a thread of its own, at the tasks that wait for one of the threads that run plugins."""

    def __init__(
        self,
        tasks: queue.SimpleQueue[Task | None],
        are_all_busy: Callable[[], bool],
        refuse: Callable[[Connection, object], None],
        close: Callable[[Connection], None],
        most_queued_s: float | None = None,
    ) -> None:
        """`refuse` answers what has come on a connection, and gives it on."""
        self._tasks = tasks
        self._are_all_busy = are_all_busy
        self._refuse = refuse
        self._close = close
        self._most_queued_s = _MOST_QUEUED_S if most_queued_s is None else most_queued_s
        self._stopped = threading.Event()
        self._log = LimitedLog(log)

    def start(self) -> None:
        threading.Thread(target=self._run, name="kong-overdue", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        #: The one that has waited longest.
        held: Task | None = None
        while not self._stopped.wait(_LOOK_S):
            while self._are_all_busy():
                held = held or self._next()
                if held is None or time.monotonic() - held[2] < self._most_queued_s:
                    break
                self._tell()
                try:
                    self._refuse(held[0], held[1])
                except Exception:  # The others are to be answered, too.
                    log.exception("what waits for a thread could not be refused")
                held = None
            else:
                if held is not None:
                    self._tasks.put(held)
                    held = None
            self._log.end_window()
        if held is not None:
            self._close(held[0])

    def _next(self) -> Task | None:
        try:
            task = self._tasks.get_nowait()
        except queue.Empty:
            return None
        if task is None:  # A thread's, to end.
            self._tasks.put(None)
        return task

    def _tell(self) -> None:
        self._log.write(
            "error",
            "overdue",
            "all threads hang, or compute: an event that waited for one is refused",
            waited_s=self._most_queued_s,
        )
