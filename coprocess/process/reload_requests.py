"""Reloads and rollbacks that were asked for, by whoever and whenever, until the main thread comes to them."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from coprocess.process.reload import Outcome, Rollback, RollbackTo


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """What somebody asked for: a reload, or a rollback."""

    future: Future[Any]
    #: Why a reload; empty: a rollback.
    reason: str = ""
    to: RollbackTo | None = None
    #: Whether a reload may lose hooks.
    force: bool = False

    @property
    def what(self) -> tuple[bool, RollbackTo | None, bool]:
        return bool(self.reason), self.to, self.force


class ReloadRequests:
    """Anybody asks, from any thread, or from a signal handler; one thread takes."""

    def __init__(self) -> None:
        # What signal handlers do takes no lock: the thread they interrupt may hold it. This is the one queue
        # that allows it. None in it only wakes the thread that waits.
        self._asked: queue.SimpleQueue[ReloadRequest | None] = queue.SimpleQueue()

    def reload(self, reason: str, force: bool = False) -> Future[Outcome]:
        """Ask for a reload. The future is cancelled where the service stops first."""
        future: Future[Outcome] = Future()
        self._asked.put(ReloadRequest(future, reason, force=force))
        return future

    def roll_back(self, to: RollbackTo | None) -> Future[Rollback]:
        """As `reload`."""
        future: Future[Rollback] = Future()
        self._asked.put(ReloadRequest(future, to=to))
        return future

    def wake(self) -> None:
        """Have `take` return, with nothing."""
        self._asked.put(None)

    def take(self, timeout_s: float) -> list[ReloadRequest]:
        """What was asked for, in order; waits until there is something."""
        taken: list[ReloadRequest] = []
        try:
            request = self._asked.get(timeout=timeout_s)
            while True:
                if request is not None:
                    taken.append(request)
                request = self._asked.get_nowait()
        except queue.Empty:
            return taken
