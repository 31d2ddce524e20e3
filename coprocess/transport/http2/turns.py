"""Threads that take turns at polling: the one that polls also runs quick handlers, without a hand-over.

When its handler takes longer, another thread goes on polling: because the handler's layer says so
(`may_block`), or because the watcher sees it. The thread with the handler is an ordinary one from then on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from coprocess.transport.http2.server import Server

log = structlog.get_logger("coprocess")

Task = TypeVar("Task")


class Turns(Generic[Task]):
    """Threads call `take`; tasks come from what the server calls while it is polled."""

    def __init__(self, server: Server, can_grow: Callable[[], bool]) -> None:
        """`can_grow`: whether there will be another thread when all have a task."""
        self._server = server
        self._lock = server.lock
        self._can_grow = can_grow
        #: Changed with the server's lock, as all of this.
        self.tasks: deque[Task] = deque()
        #: The thread that polls, or runs a handler in between; 0: whoever comes first.
        self._poller = 0
        #: Whether that one runs a task now, since when, and which.
        self._is_running = False
        self._since_s = 0.0
        self._number = 0
        #: Until then it runs tasks, before it polls again.
        self._until_s = 0.0
        #: Threads with nothing to do, and what wakes each. The last is the first: what it needs is in caches.
        self._idle: list[tuple[int, threading.Lock]] = []
        self._is_stopped = False
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._is_watcher_asleep = False

    def start(self) -> None:
        threading.Thread(target=self._watch, name="http2-watcher", daemon=True).start()

    def take(self) -> Task | None:
        """Wait for a task. None: there will be no more."""
        me = threading.get_ident()
        own_lock: threading.Lock | None = None
        while True:
            with self._lock:
                if not self._poller and not self._is_stopped:
                    self._poller = self._server.polling_thread = me
                is_poller = self._poller == me
                if is_poller:
                    self._is_running = False
                elif self._is_stopped:
                    return None
                elif self.tasks:
                    return self.tasks.popleft()
                else:
                    if own_lock is None:
                        own_lock = threading.Lock()
                        own_lock.acquire()
                    self._idle.append((me, own_lock))
            if is_poller:
                task = self._poll()
                if task is not None:
                    return task
            elif own_lock is not None:
                own_lock.acquire()

    def _poll(self) -> Task | None:
        """None where it is stopped."""
        server = self._server
        while True:
            with self._lock:
                if self._is_stopped:
                    self._poller = server.polling_thread = 0
                    return None
                # Somebody must be there to go on with polling. Else the next thread that is free takes them.
                may_run = bool(self.tasks) and bool(self._idle or self._can_grow())
                if may_run and (now_s := time.monotonic()) < self._until_s:
                    self._number += 1
                    self._since_s = now_s
                    self._is_running = True
                    if self._is_watcher_asleep:
                        self._is_watcher_asleep = False
                        self._alarm.release()
                    return self.tasks.popleft()
            server.poll(wait=not may_run)
            server.run_callbacks()
            self._until_s = time.monotonic() + _IN_A_ROW_S

    def may_block(self) -> None:
        """Called by a task that may take long: where its thread polls, another does from now on."""
        if self._poller == threading.get_ident():
            with self._lock:
                if self._poller == threading.get_ident():
                    self._pass_on()

    #: For a thread that ends.
    leave = may_block

    def _pass_on(self) -> None:
        server = self._server
        self._is_running = False
        server.flush()
        if self._idle:
            self._poller, wake = self._idle.pop()
            wake.release()
        else:
            self._poller = 0
        server.polling_thread = self._poller

    def _watch(self) -> None:
        seen, quiet = 0, 0
        while not self._is_stopped:
            time.sleep(_TICK_S)
            if self._number == seen and not self._is_running:
                quiet += 1
                if quiet > _QUIET_TICKS:
                    self._sleep()
                continue
            seen, quiet = self._number, 0
            if self._is_running and time.monotonic() - self._since_s > _LONG_S:
                with self._lock:
                    if self._is_running and self._number == seen:
                        self._pass_on()

    def _sleep(self) -> None:
        """Until there is a task."""
        with self._lock:
            if self._is_running or self._is_stopped:
                return
            self._is_watcher_asleep = True
        self._alarm.acquire()

    def stop(self, timeout_s: float) -> bool:
        """Whether nobody polls any more."""
        with self._lock:
            self._is_stopped = True
            while self._idle:
                self._idle.pop()[1].release()
            if self._is_watcher_asleep:
                self._is_watcher_asleep = False
                self._alarm.release()
        until_s = time.monotonic() + timeout_s
        while self._poller and time.monotonic() < until_s:
            self._server.wake()
            time.sleep(_STOP_INTERVAL_S)
        return not self._poller


#: A handler that takes longer goes on beside the polling, from the next tick on.
_LONG_S = 0.0005
_TICK_S = 0.0015
#: The watcher sleeps after so many ticks without a task.
_QUIET_TICKS = 32
#: Tasks, one after the other, before new ones are looked for.
_IN_A_ROW_S = 0.001
_STOP_INTERVAL_S = 0.001
