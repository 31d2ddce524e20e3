"""Several calls for one message: a gateway's steps ask for them, one after the other, and no thread waits.

The steps are a generator that does no I/O. A sync handler runs in the thread that has come to it. Where
a call goes on elsewhere, on the event loop or in the queue of its hook, that thread is free, and whoever ends
it goes on with the steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import structlog

from coprocess.errors import Status
from coprocess.runtime.call import Call
from coprocess.runtime.in_process_rpc import InProcessRpc
from coprocess.runtime.service import Service
from coprocess.transport.engine import Metadata, Rpc

log = structlog.get_logger("coprocess")

#: Something that blocks, other than a handler. What it returns is sent to the steps; it never raises.
Work = Callable[[], Any]
#: Of a call, the steps are sent its `InProcessRpc`.
Steps = Generator[Call | Work, Any, Any]


class Caller:
    """For whom calls are made. A gateway's stream, or its unary call, is one."""

    __slots__ = ()

    #: As an Rpc's.
    method: str

    def metadata(self) -> Metadata:
        raise NotImplementedError

    def time_allowed_s(self) -> float | None:
        """Until nobody waits for the call any more; None: that is not known."""
        return None

    def held_up_s(self) -> float:
        """As an Rpc's."""
        return 0.0

    def in_thread(self, task: Callable[[], None]) -> None:
        """Run `task` in a thread that runs handlers."""
        raise NotImplementedError

    def may_block(self) -> None:
        """As an Rpc's, in the thread that runs the steps."""

    def ended(self, result: Any, error: Exception | None) -> None:
        """The steps are through, or raised. Called from any thread; never raises."""
        raise NotImplementedError

    def stopped(self) -> None:
        """The steps were cancelled, and no call of theirs runs any more. As `ended`."""


class StepRpc(InProcessRpc):
    """One call of a chain."""

    __slots__ = ("_chain", "_on_cancel", "_owner", "is_cancelled", "is_here")

    def __init__(self, chain: Chain) -> None:
        self.method, self.payload = chain.caller.method, b""
        self.is_over = False
        self.failure = None
        self._chain = chain
        # The thread that runs the call, and goes on itself.
        self._owner = 0
        #: Whether the call was ended by that thread.
        self.is_here = False
        self.is_cancelled = False
        self._on_cancel: Callable[[], None] | None = None

    def own(self) -> None:
        self._owner = threading.get_ident()

    def _end(self, failure: tuple[Status, str] | None, reply: bytes) -> None:
        # With what `_wake` would do: each call of a chain comes by.
        self._lock.acquire()
        try:
            if self.is_over:
                return
            self.is_over, self.failure, self.reply = True, failure, reply
        finally:
            self._lock.release()
        if self._owner == threading.get_ident():
            self.is_here = True
        else:
            self._chain.go_on(self, may_block=False)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._on_cancel = callback
        # After it is in, so that of two threads, at least one sees what the other did.
        if self.is_cancelled:
            callback()

    def cancel(self) -> None:
        self.is_cancelled = True
        if self._on_cancel is not None and not self.is_over:
            self._on_cancel()

    def metadata(self) -> Metadata:
        return self._chain.caller.metadata()

    def time_allowed_s(self) -> float | None:
        return self._chain.caller.time_allowed_s()

    def held_up_s(self) -> float:
        return self._chain.caller.held_up_s()

    def may_block(self) -> None:
        self._chain.caller.may_block()


class Chain:
    """Runs the steps of one message."""

    __slots__ = ("_current", "_is_cancelled", "_service", "_steps", "caller")

    def __init__(self, service: Service, steps: Steps, caller: Caller) -> None:
        self._service = service
        self._steps = steps
        self.caller = caller
        self._current: StepRpc | None = None
        self._is_cancelled = False

    def go_on(self, value: Any = None, *, may_block: bool = True) -> None:
        """Run the steps, sent `value`, as far as they go; then tell the caller, or whoever goes on does."""
        steps, caller = self._steps, self.caller
        try:
            while True:
                if self._is_cancelled:
                    steps.close()
                    self._current = None
                    caller.stopped()
                    return
                need = steps.send(value)
                if isinstance(need, Call):
                    if not may_block and not need.hook.is_async:
                        caller.in_thread(lambda need=need: self._go_on_with(need))  # type: ignore[misc]  # its default
                        return
                    done = self._call(need)
                    if done is None:
                        return
                    value = done
                elif may_block:
                    caller.may_block()
                    value = need()
                else:
                    caller.in_thread(lambda need=need: self._go_on_after(need))  # type: ignore[misc]  # as above
                    return
        except StopIteration as end:
            result, error = end.value, None
        except Exception as raised:  # noqa: BLE001 - passed on
            result, error = None, raised
        self._current = None  # It knows this chain: a cycle for each message would be the collector's.
        caller.ended(result, error)

    def _go_on_with(self, call: Call) -> None:
        done = self._call(call)
        if done is not None:
            self.go_on(done)

    def _go_on_after(self, work: Work) -> None:
        self.caller.may_block()
        self.go_on(work())

    def _call(self, call: Call) -> StepRpc | None:
        """Run `call`. None: another thread ends it, and goes on."""
        service = self._service
        rpc = self._current = StepRpc(self)
        if self._is_cancelled:
            rpc.is_cancelled = True
        state = service.state_of(call.hook)
        call.arrive(service.traced(rpc), state, time.monotonic())
        admitted = state.enter(call) or state.wait(call)
        if admitted is None:
            rpc.own()
            service.failures.shed(call)
            return rpc
        if not admitted:
            # Else it would run, some time, for nobody.
            rpc.on_cancel(lambda: service.drop(call))
            return None
        if call.hook.is_async:
            service.async_calls.begin(call)
            return None
        rpc._owner = threading.get_ident()  # As `own` does: each call comes by.
        service.run_here(call)
        # Where the watchdog has ended it, its thread has gone on.
        return rpc if rpc.is_here else None

    def cancel(self) -> None:
        """Nobody waits any more: end the call that runs, or waits."""
        self._is_cancelled = True
        current = self._current
        if current is not None:
            current.cancel()


class UnaryCaller(Caller):
    """A unary Rpc, whose answer is what the steps return."""

    __slots__ = ("_on_end", "_service", "chain", "method", "rpc")

    def __init__(self, service: Service, rpc: Rpc, on_end: Callable[[], None] | None = None) -> None:
        """`on_end` is called when the steps are through, or were cancelled, from any thread."""
        self._service = service
        self._on_end = on_end
        self.rpc = rpc
        self.method = rpc.method
        self.chain: Chain | None = None

    def run(self, steps: Steps) -> None:
        chain = self.chain = Chain(self._service, steps, self)
        self.rpc.on_cancel(chain.cancel)
        chain.go_on()

    def metadata(self) -> Metadata:
        return self.rpc.metadata()

    def time_allowed_s(self) -> float | None:
        return self.rpc.time_allowed_s()

    def in_thread(self, task: Callable[[], None]) -> None:
        self._service.in_thread(task)

    def may_block(self) -> None:
        self.rpc.may_block()

    def ended(self, result: Any, error: Exception | None) -> None:
        self.chain = None  # As its last call.
        if error is None:
            self.rpc.respond(result)
        else:
            self._service.refuse(self.rpc, error)
        if self._on_end is not None:
            self._on_end()

    def stopped(self) -> None:
        self.chain = None
        if self._on_end is not None:
            self._on_end()
