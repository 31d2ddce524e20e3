"""A Check of several handlers, or of one that leaves something for the end of the request: in steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from coprocess.errors import HandlerFailed, Overloaded, Status, TimedOut
from coprocess.gateways.envoy.call import Traffic
from coprocess.gateways.envoy.check_reply import Tells, closed, reply_of
from coprocess.gateways.envoy.unread_check import NO_BODY
from coprocess.loading.hooks import Hook
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.call import Call
from coprocess.runtime.chained import PAUSE, Chain, StepCall, Steps
from coprocess.runtime.hook_state import HookState
from coprocess.runtime.service import Service
from coprocess.transport.engine import Metadata, Rpc, wait_until_s

#: Checks that wait for a thread: beyond them, one is refused.
MAX_WAITING = 1024


class Check:
    """Its `steps`, and when they are through, its `reply`."""

    __slots__ = ("_refusal", "_tells", "asks_limits", "traffic")

    def __init__(self, traffic: Traffic, tells: Tells) -> None:
        self.traffic = traffic
        self._tells = tells
        #: The reply, where it is given before the steps are through.
        self._refusal = b""
        #: Whether the steps have ended before the store is asked for rate and quota: who has run them does.
        self.asks_limits = False

    def steps(self) -> Steps:
        """Its calls."""
        try:
            for need in self.traffic.before_upstream():
                if need is PAUSE:  # For a body that does not come.
                    raise HandlerFailed(NO_BODY)
                if not isinstance(need, StepCall):
                    self.asks_limits = True  # The last of them.
                    return
                yield need
        except Exception as error:  # noqa: BLE001 - an RPC error might let in
            self._refusal = closed(self._tells, error)

    def reply(self) -> bytes:
        """A serialized CheckResponse, which is never empty. Never raises."""
        try:
            return self._refusal or reply_of(self.traffic)
        except Exception as error:  # noqa: BLE001 - an RPC error might let in
            return closed(self._tells, error)


class CheckChain(Chain):
    """A Check at work. Whatever becomes of it, its reply is a CheckResponse.

    That its client has left matters where a call runs elsewhere, or waits: then that is asked for.
    """

    __slots__ = ("_check", "_is_told", "_on_end", "_waiting", "rpc")

    def __init__(
        self,
        service: Service,
        rpc: Rpc,
        traffic: Traffic,
        waiting: WaitingChecks,
        on_end: Callable[[CheckChain], None],
    ) -> None:
        """`on_end` is called when the steps are through, or were cancelled, from any thread."""
        super().__init__(service, rpc.method)
        self._check = Check(traffic, service)
        self._waiting = waiting
        self._on_end = on_end
        self.rpc = rpc
        self._is_told = False

    @property
    def lifetime(self) -> Lifetime | None:
        """Of the request; None: it leaves nothing for its end."""
        return self._check.traffic.lifetime

    def holds(self, hook: Hook) -> bool:
        """Whether a call of `hook` may come."""
        return hook in self._check.traffic.chain.hooks

    def begin(self) -> None:
        try:
            self.run(self._check.steps())
        except Exception as error:  # noqa: BLE001 - nobody else would answer
            self.refuse(error)

    def refuse(self, error: Exception) -> None:
        """End it before its steps are through."""
        self.rpc.respond(closed(self._service, error))
        self.stopped()

    def _tell_when_cancelled(self) -> None:
        if not self._is_told:
            self._is_told = True
            self.rpc.on_cancel(self.cancel)

    def _call_otherwise(self, call: StepCall[Any], gate: HookState[Call]) -> bool:
        self._tell_when_cancelled()
        return super()._call_otherwise(call, gate)

    def metadata(self) -> Metadata:
        return self.rpc.metadata()

    def time_allowed_s(self) -> float | None:
        return self.rpc.time_allowed_s()

    def in_thread(self, task: Callable[[], None]) -> None:
        service = self._service
        if self._waiting.put(service, self, task, wait_until_s(self.rpc, service.options.timeout_s)):
            # After it is in: where it was cancelled before, this says so.
            self._tell_when_cancelled()
        else:
            self.refuse(Overloaded("too many requests wait for a thread"))

    def may_block(self) -> None:
        self.rpc.may_block()

    def cancel(self) -> None:
        super().cancel()
        if self._waiting.take(self):
            self.stopped()

    def through(self, error: Exception | None) -> None:
        check = self._check
        try:
            if error is not None:
                raise error
            if check.asks_limits:
                check.traffic.answer_by_limits(self.rpc, None)
            else:
                self.rpc.respond(check.reply())
        except Exception as raised:  # noqa: BLE001 - nobody else would answer
            self.rpc.respond(closed(self._service, raised))
        self.stopped()

    def stopped(self) -> None:
        if self._is_cancelled:
            self.rpc.fail(Status.CANCELLED, "the client gave up")
        self._on_end(self)


class WaitingChecks:
    """Those that wait for a thread of the service's own: bounded, and each with an end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: In their order: what each does in its thread, and until when it may wait.
        self._waiting: dict[CheckChain, tuple[Callable[[], None], float]] = {}
        #: Threads that were asked for, and have not come.
        self._threads_to_come = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, service: Service, check: CheckChain, task: Callable[[], None], until_s: float) -> bool:
        """Run `task` in a thread. False where too many wait."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting[check] = task, until_s
            # One that was ended early leaves its thread to the next.
            is_thread_wanted = self._threads_to_come < len(self._waiting)
            self._threads_to_come += is_thread_wanted
        if is_thread_wanted:
            service.in_thread(self._run_next)
        return True

    def take(self, check: CheckChain) -> bool:
        """Whether `check` waits no more only now: whoever takes it ends it."""
        with self._lock:
            return self._waiting.pop(check, None) is not None

    def _run_next(self) -> None:
        with self._lock:
            self._threads_to_come -= 1
            check = next(iter(self._waiting), None)
            if check is None:
                return
            task, _ = self._waiting.pop(check)
        try:
            task()
        except Exception as error:  # noqa: BLE001 - nobody else would answer
            check.refuse(error)

    def end_overdue(self, now_s: float) -> None:
        for check, (_, until_s) in list(self._waiting.items()):
            if now_s > until_s and self.take(check):
                check.refuse(TimedOut("no thread was free in time"))
