"""Events of this service's own handlers, as the service runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from coprocess.api import context
from coprocess.errors import CoprocessError, Overloaded, ShuttingDown, Status
from coprocess.runtime.failures import safe_text
from coprocess.runtime.hook_state import label_of
from coprocess.transport.engine import Metadata, Rpc

if TYPE_CHECKING:
    from coprocess.runtime.call import Call
    from coprocess.runtime.service import Service

log = structlog.get_logger("coprocess")


class LocalEvent(Rpc):
    """The call of an event that a handler triggered: nobody waits for its answer."""

    __slots__ = ("_unfinished",)

    def __init__(self, unfinished: set[Rpc]) -> None:
        self.method, self.payload = "", b""
        self._unfinished = unfinished
        unfinished.add(self)

    def respond(self, reply: bytes) -> None:
        self._unfinished.discard(self)

    def fail(self, status: Status, message: str) -> None:
        self._unfinished.discard(self)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        pass

    def metadata(self) -> Metadata:
        return ()

    def time_allowed_s(self) -> float | None:
        return None


class LocalEvents:
    """Runs events that handlers of a service trigger, or that come by no engine."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._unfinished: set[Rpc] = set()

    def trigger(self, name: str, payload: str) -> None:
        """Run the `@Event` function `name`, apart from the caller. What goes wrong is logged."""
        caller = context.current_call.get()
        try:
            call = self._service.gateway.open_local_event(name, payload, caller)
        except CoprocessError as error:
            reason = safe_text(error)
            log.error("an event was triggered that no handler takes", triggered=name, reason=reason)
            return
        if not self._start(call):
            self._service.limited_log.write(
                "error",
                ("lost event", label_of(call.hook)),
                "too many events wait for their handler: one is lost",
                triggered=name,
            )

    def take(self, open_call: Callable[[], Call]) -> None:
        """Run the event that `open_call` opens, apart from the caller, who comes by no engine.

        Raises CoprocessError where it is refused; the service counts and logs that.
        """
        try:
            if self._service.is_draining:
                raise ShuttingDown("the service is shutting down")
            call = open_call()
            if not self._start(call):
                raise Overloaded(f'{call.hook.type.name} hook "{call.hook.name}" is overloaded')
        except CoprocessError as error:
            self._service.failures.refuse(self._rpc(), error)
            raise

    def _rpc(self) -> Rpc:
        rpc = LocalEvent(self._unfinished)
        tracing = self._service.tracing
        return rpc if tracing is None else tracing.local_event(rpc)

    def _start(self, call: Call) -> bool:
        """False where too many wait for the handler already."""
        state = self._service.gates[call.hook]
        rpc = self._rpc()
        call.arrive(rpc, state, time.monotonic())
        admitted = state.enter(call) or state.wait(call)
        if admitted is None:
            rpc.fail(Overloaded.status, "too many events wait for their handler")
            return False
        if admitted:
            self._service.begin_elsewhere(call)
        return True

    def wait(self, until_s: float) -> None:
        """Until all have run, or until then by time.monotonic()."""
        while self._unfinished and time.monotonic() < until_s:
            time.sleep(0.005)
