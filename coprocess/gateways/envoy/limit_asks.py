"""Checks that wait for the store of rates and quotas: bounded, in flight, and each with an end."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from functools import partial

import structlog

from coprocess.error_text import format_error
from coprocess.errors import Overloaded, Status, TimedOut
from coprocess.gateways.envoy.call import Traffic
from coprocess.gateways.envoy.check_reply import closed, reply_of
from coprocess.runtime.service import Service
from coprocess.transport.engine import Rpc, wait_until_s

log = structlog.get_logger("coprocess")

#: Checks that wait, or ask: beyond them, one is refused.
MAX_ASKS = 1024
#: Threads that ask at one time. The service has more: its other tasks must not wait for a store that hangs.
_MAX_THREADS = 16


class _Ask:
    """One Check, whose handlers have admitted its caller."""

    __slots__ = ("deadline_s", "rpc", "traffic")

    def __init__(self, traffic: Traffic, rpc: Rpc, deadline_s: float) -> None:
        self.traffic = traffic
        self.rpc = rpc
        self.deadline_s = deadline_s


class LimitAsks:
    """Whoever takes an ask out of `_open` answers it: that is one step, and needs no lock."""

    def __init__(self) -> None:
        self._open: set[_Ask] = set()
        # What follows is changed under the lock only.
        self._lock = threading.Lock()
        self._waiting: deque[_Ask] = deque()
        self._threads = 0

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, service: Service, traffic: Traffic, rpc: Rpc, limit_s: float) -> None:
        """Answer `rpc` once the store has said whether rate or quota is exceeded, within `limit_s`."""
        ask = _Ask(traffic, rpc, wait_until_s(rpc, limit_s))
        self._open.add(ask)
        if len(self._open) > MAX_ASKS:
            self._open.discard(ask)
            _refuse(service, rpc, Overloaded("too many requests wait for their rate or quota"))
            return
        with self._lock:
            self._waiting.append(ask)
            is_thread_wanted = self._threads < _MAX_THREADS
            self._threads += is_thread_wanted
        # Else the store would count a request that nobody waits for. After it is in: one that was cancelled
        # before would stay in the line.
        rpc.on_cancel(partial(self._cancelled, ask))
        if is_thread_wanted:
            service.in_thread(partial(self._run, service))

    def end_overdue(self, service: Service, now_s: float) -> None:
        for ask in list(self._open):
            if now_s > ask.deadline_s and self._take_early(ask):
                _refuse(service, ask.rpc, TimedOut("a rate or quota was not told in time"))

    def _take(self, ask: _Ask) -> bool:
        """Whether it is to be answered only now."""
        try:
            self._open.remove(ask)
        except KeyError:
            return False
        return True

    def _take_early(self, ask: _Ask) -> bool:
        """The same of one that may still wait for a thread."""
        if not self._take(ask):
            return False
        with self._lock, suppress(ValueError):
            self._waiting.remove(ask)
        return True

    def _cancelled(self, ask: _Ask) -> None:
        if self._take_early(ask):
            ask.rpc.fail(Status.CANCELLED, "the client gave up")

    def _run(self, service: Service) -> None:
        """Ask for those that wait, one after the other."""
        while (ask := self._next()) is not None:
            if ask not in self._open:
                continue  # It was ended just now.
            try:
                self._answer(service, ask)
            except Exception as error:  # noqa: BLE001 - those behind it wait for this thread
                log.error("a request could not be answered", exception=format_error(error))

    def _next(self) -> _Ask | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _answer(self, service: Service, ask: _Ask) -> None:
        failure: Exception | None = None
        reply = b""
        try:
            ask.traffic.ask_limits()
            reply = reply_of(ask.traffic)
        except Exception as error:  # noqa: BLE001 - nobody else would answer
            failure = error
        if not self._take(ask):
            return
        if failure is None:
            ask.rpc.respond(reply)
        else:
            _refuse(service, ask.rpc, failure)


def _refuse(service: Service, rpc: Rpc, error: Exception) -> None:
    rpc.respond(closed(service, error))
