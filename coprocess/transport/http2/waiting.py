"""Tasks of connections that ask for much: one of each has its turn, however many each has."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Task = TypeVar("Task")


class FairQueue(Generic[Task]):
    """For any threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Those of each connection that has any, in the order of their turns. For others, only whether there
        #: are any.
        self.lines: deque[deque[Task]] = deque()
        #: How many there are of all connections.
        self.count = 0

    def put(self, line: deque[Task], task: Task) -> None:
        """`line` is the connection's own, and only changed here."""
        with self._lock:
            if not line:
                self.lines.append(line)
            line.append(task)
            self.count += 1

    def take_one(self) -> Task | None:
        """The next; None: there is none."""
        with self._lock:
            if not self.lines:
                return None
            line = self.lines.popleft()
            task = line.popleft()
            self.count -= 1
            if line:
                self.lines.append(line)
            return task

    def take(self, count: int) -> list[Task]:
        """The next, so many at most: a few of a connection in a row, whose answers are one write."""
        taken: list[Task] = []
        with self._lock:
            while self.lines and len(taken) < count:
                line = self.lines.popleft()
                taken += [line.popleft() for _ in range(min(len(line), count - len(taken), _IN_A_ROW))]
                if line:
                    self.lines.append(line)
            self.count -= len(taken)
        return taken

    def take_line(self, line: deque[Task]) -> list[Task]:
        """All of one connection."""
        with self._lock:
            if not line:
                return []
            tasks = list(line)
            line.clear()
            self.lines.remove(line)
            self.count -= len(tasks)
            return tasks

    def drop(self, is_over: Callable[[Task], bool]) -> list[Task]:
        """Take out what need not be run any more; what that was."""
        dropped: list[Task] = []
        with self._lock:
            for line in list(self.lines):
                tasks = list(line)
                line.clear()
                for task in tasks:
                    (dropped if is_over(task) else line).append(task)
                if not line:
                    self.lines.remove(line)
            self.count -= len(dropped)
        return dropped


class Line(Generic[Task]):
    """Of one connection; it stands where others have one deque for all."""

    def __init__(self, queue: FairQueue[Task]) -> None:
        self._queue = queue
        self.tasks: deque[Task] = deque()

    def leave(self) -> list[Task]:
        """Those that wait in it, which are the caller's from now on."""
        return self._queue.take_line(self.tasks)

    def append(self, task: Task) -> None:
        self._queue.put(self.tasks, task)


#: Of such, taken at once, as each look takes a lock: who comes then waits for so many.
TAKEN_AT_ONCE = 8
#: Of one connection.
_IN_A_ROW = 4
