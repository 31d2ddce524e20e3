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

#: A connection, and what has come on it; None: it is to be read.
Task = tuple[Connection, object]

#: Kong waits for 60 s, and a phase takes 30 of these, unless told otherwise: for a thread, and then for a
#: place, so long each.
MOST_QUEUED_S: Final = 10.0
#: So a phase that may take longer could outlast Kong, which lets the request by then.
MOST_TIMEOUT_S: Final = 60.0 - 2 * MOST_QUEUED_S
_LOOK_S: Final = 0.25


class Overdue:
    """Looks, in a thread of its own, at the tasks that wait for one of the threads that run plugins."""

    def __init__(
        self,
        tasks: queue.SimpleQueue[Task | None],
        put: Callable[[Task], None],
        are_all_taken: Callable[[], bool],
        refuse: Callable[[Connection, object], None],
    ) -> None:
        """`put` puts a task back into the queue. `are_all_taken`: no thread is free, or can be started.

        `refuse` answers what has come on a connection, and gives it on.
        """
        self._tasks = tasks
        self._put = put
        self._are_all_taken = are_all_taken
        self._refuse = refuse
        #: Since when each task waits, by time.monotonic(), the oldest first. Kept by who puts and takes.
        self.since_s: dict[Connection, float] = {}
        self.most_queued_s = MOST_QUEUED_S
        self._stopped = threading.Event()
        self._log = LimitedLog(log)

    def start(self) -> None:
        threading.Thread(target=self._run, name="kong-overdue", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            try:
                while self._are_all_taken() and self._is_one_overdue() and self._refuse_next():
                    pass
                self._log.end_window()
            except Exception:  # The others are to be answered, too.
                log.exception("what waits for a thread could not be refused")

    def _is_one_overdue(self) -> bool:
        try:
            return time.monotonic() - next(iter(self.since_s.values())) > self.most_queued_s
        except (StopIteration, RuntimeError):  # None waits, or one was taken at this moment.
            return False

    def _refuse_next(self) -> bool:
        """Refuse the one that has waited longest. False where a thread has taken it meanwhile."""
        try:
            task = self._tasks.get_nowait()
        except queue.Empty:
            return False
        if task is None:  # For a thread, to end.
            self._tasks.put(None)
            return False
        connection, value = task
        since_s = self.since_s.get(connection, 0.0)
        if time.monotonic() - since_s < self.most_queued_s:
            self._put(task)
            return False
        self.since_s.pop(connection, None)
        self._log.write(
            "error",
            "overdue",
            "all threads hang, or compute: an event that waited for one is refused",
            waited_s=self.most_queued_s,
        )
        self._refuse(connection, value)
        return not self._stopped.is_set()
