"""Several calls for one message: a gateway's steps ask for them, one after the other, and no thread waits.

The steps are a generator that does no I/O. A sync handler runs in the thread that has come to it. Where
a call goes on elsewhere, on the event loop or in the queue of its hook, that thread is free, and whoever ends
it goes on with the steps.

Most calls run in place, and end well: for these no Rpc is made. What came of the steps stands with whoever
wrote them: to return it would cost an exception, which costs as much as a handler.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any, Final

import structlog
from mypy_extensions import mypyc_attr

from coprocess.errors import HandlerFailed, Status
from coprocess.runtime import prints
from coprocess.runtime.call import Call
from coprocess.runtime.held_call import HeldCall, Shared
from coprocess.runtime.hook_state import DURATION_BUCKETS_S, HookState
from coprocess.runtime.in_process_rpc import InProcessRpc
from coprocess.runtime.pace import QUICK_S
from coprocess.runtime.service import Service
from coprocess.transport.engine import HandlersLoop, Metadata, Rpc

log = structlog.get_logger("coprocess")


class _Pause:
    """The steps go on with a later message."""


PAUSE: Final = _Pause()
#: Something that blocks, other than a handler. It never raises, and keeps what it finds.
Work = Callable[[], None]

# Of this module: each call looks for them.
_now_s: Final = time.monotonic
_get_ident: Final = threading.get_ident
_new_context: Final = Context
_bisect: Final = bisect_left
_SHORTEST_S: Final = DURATION_BUCKETS_S[0]
#: No StepCall has one of its own.
_run: Final = Call.run


@mypyc_attr(allow_interpreted_subclasses=True)
class StepCall(HeldCall[Shared]):
    """A call of a chain. How it has ended, its `failure` says. Its Rpc is made when somebody asks for it."""

    __slots__ = ("chain", "owner")

    #: Who runs it; set when it begins.
    chain: Chain
    #: The thread that runs it, and goes on itself.
    owner: int

    @property
    def rpc(self) -> Rpc:
        try:
            return self._rpc
        except AttributeError:
            with StepRpc._lock:
                try:
                    rpc = self._rpc
                except AttributeError:
                    rpc = self._rpc = StepRpc(self)
            return rpc

    @rpc.setter
    def rpc(self, rpc: Rpc) -> None:
        self._rpc = rpc


#: They end without a value.
Steps = Iterator[StepCall[Any] | Work | _Pause]
NO_STEPS: Final[Steps] = iter(())


class StepRpc(InProcessRpc):
    """Who waits for one call of a chain."""

    __slots__ = ("_call", "_chain", "_on_cancel", "is_cancelled", "is_here")

    def __init__(self, call: StepCall[Any]) -> None:
        self._chain = call.chain
        #: None once it is over, as what is below: they know each other, and a cycle would be the collector's.
        self._call: StepCall[Any] | None = call
        self.method, self.payload, self.reply = self._chain.method, b"", b""
        self.is_over = False
        self.failure = None
        #: Whether the call was ended by the thread that runs it.
        self.is_here = False
        self.is_cancelled = False
        self._on_cancel: Callable[[], None] | None = None

    def _end(self, failure: tuple[Status, str] | None, reply: bytes) -> None:
        call = self._call
        if call is None or not self._chain.take(call):
            return
        self._call = self._on_cancel = None
        self.is_over, call.failure = True, failure
        if call.owner == threading.get_ident():
            self.is_here = True
        else:
            self._chain.go_on(False)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._on_cancel = callback
        # After it is in, so that of two threads, at least one sees what the other did.
        if self.is_cancelled:
            callback()

    def cancel(self) -> None:
        self.is_cancelled = True
        callback = self._on_cancel
        if callback is not None and not self.is_over:
            callback()

    def metadata(self) -> Metadata:
        return self._chain.metadata()

    def time_allowed_s(self) -> float | None:
        return self._chain.time_allowed_s()

    def held_up_s(self) -> float:
        return self._chain.held_up_s()

    def may_block(self) -> None:
        self._chain.may_block()


@mypyc_attr(allow_interpreted_subclasses=True)
class Chain:
    """Runs the steps of one message after the other. A gateway's stream, or its unary call, is one."""

    __slots__ = ("_begun", "_current", "_is_cancelled", "_service", "_steps", "method")

    #: As an Rpc's.
    method: str

    def __init__(self, service: Service, method: str) -> None:
        self._service = service
        self.method = method
        self._steps = NO_STEPS
        #: The call that is not over. Whoever takes it out ends it: that is one step, and needs no lock.
        self._begun: list[StepCall[Any]] = []
        #: Of a call that runs elsewhere, or waits.
        self._current: StepRpc | None = None
        self._is_cancelled = False

    # What a gateway's has.

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

    def runs_on(self, loop: HandlersLoop) -> None:
        """As an Rpc's, in the thread that runs the steps."""

    def through(self, error: Exception | None) -> None:
        """The steps are through, or pause, or raised. Called from any thread; never raises."""
        raise NotImplementedError

    def stopped(self) -> None:
        """The steps were cancelled, and no call of theirs runs any more. As `through`."""

    # Running.

    def run(self, steps: Steps) -> None:
        """Run `steps` as far as they go, and say so; or whoever goes on does."""
        self._steps = steps
        self.go_on()

    def go_on(self, may_block: bool = True) -> None:
        error = None
        try:
            for need in self._steps:
                if self._is_cancelled:
                    break
                if isinstance(need, StepCall):
                    if not may_block and not need.hook.is_async:
                        self.in_thread(lambda need=need: self._go_on_with(need))  # type: ignore[misc]  # its default
                        return
                    if not self._call(need):
                        return
                elif isinstance(need, _Pause):
                    break
                elif may_block:
                    self.may_block()
                    need()
                else:
                    self.in_thread(lambda need=need: self._go_on_after(need))  # type: ignore[misc]  # as above
                    return
        except Exception as raised:  # noqa: BLE001 - passed on
            error = raised
        # It knows this chain, and so do the steps: a cycle for each message would be the collector's.
        self._current = None
        self._steps = NO_STEPS
        if self._is_cancelled:
            self.stopped()
        else:
            self.through(error)

    def _go_on_with(self, call: StepCall[Any]) -> None:
        if self._is_cancelled:
            self._steps = NO_STEPS  # Else it would run for nobody.
        elif not self._call(call):
            return
        self.go_on()

    def _go_on_after(self, work: Work) -> None:
        if not self._is_cancelled:  # Else it would be done for nobody.
            self.may_block()
            work()
        self.go_on()

    def take(self, call: StepCall[Any]) -> bool:
        """Whether `call` is over only now."""
        try:
            self._begun.remove(call)
        except ValueError:
            return False
        return True

    def _call(self, call: StepCall[Any]) -> bool:
        """Run `call`. False: another thread ends it, and goes on."""
        service, hook = self._service, call.hook
        gate = service.gates[hook]
        call.chain = self
        call.failure = None
        begun = self._begun
        begun.append(call)
        pace = gate.pace
        if hook.is_async or pace.apart or pace.doubt or service.tracing is not None:
            return self._call_otherwise(call, gate)
        # As the gate's `enter`, and the service's `run_here`, in place: each handler of a request comes by.
        api_id, inside = call._api_id, gate.inside
        call.counts = counts = gate.counts.get(api_id) or gate.counts_of(api_id)
        inside.add(call)
        if len(inside) > gate.concurrency:
            inside.discard(call)
            return self._call_otherwise(call, gate)
        call.gate = gate
        call.since_s = began_s = _now_s()
        call.deadline_s = began_s + gate.timeout_s
        call.timed_out = False
        me = call.owner = _get_ident()
        service.running[me] = call
        # In a context of its own: what a handler sets there is no other call's.
        context = _new_context()
        is_over = True
        try:
            context.run(_run, call)
        except Exception as error:  # noqa: BLE001 - else its place would stay taken for ever
            is_over = False
            context.run(self._fail, call, error)
        if prints.has_printed:
            context.run(prints.end_line)
        service.running.pop(me, None)
        ran_s = _now_s() - began_s
        if ran_s > QUICK_S:
            pace.took(ran_s, None)
        # As the gate's `leave`.
        try:
            inside.remove(call)
        except KeyError:
            pass  # The watchdog has ended it, and counted it.
        else:
            counts.durations[0 if ran_s <= _SHORTEST_S else _bisect(DURATION_BUCKETS_S, ran_s)] += 1
            counts.duration_sum_s += ran_s
            if gate.queue:
                following = gate.following()
                if following is not None:
                    service.begin_elsewhere(following)
        if is_over:
            # As `take`.
            try:
                begun.remove(call)
            except ValueError:
                return False  # The watchdog has ended it, and gone on.
            return True
        rpc = call.rpc
        return isinstance(rpc, StepRpc) and rpc.is_here

    def _fail(self, call: StepCall[Any], error: Exception) -> None:
        failures = self._service.failures
        try:
            if isinstance(error, HandlerFailed):
                failures.fail(call, error)
            else:
                failures.fail_within(call, error)
        except Exception as failure:  # noqa: BLE001 - as in `_call`
            failures.fail_within(call, failure)

    def _call_otherwise(self, call: StepCall[Any], gate: HookState[Call]) -> bool:
        service = self._service
        call.owner = 0
        rpc = self._current = StepRpc(call)
        if self._is_cancelled:
            rpc.is_cancelled = True
        call.arrive(service.traced(rpc), gate, time.monotonic())
        admitted = gate.enter(call) or gate.wait(call)
        if admitted is None:
            call.owner = threading.get_ident()
            service.failures.shed(call)
            return rpc.is_here
        if not admitted:
            # Else it would run, some time, for nobody.
            rpc.on_cancel(lambda: service.drop(call))
            return False
        if call.hook.is_async:
            # Where calls are read on its loop, it begins here, and may end here.
            call.owner = threading.get_ident()
            loop = service.async_calls.begin(call)
            if rpc.is_here:
                return True
            call.owner = 0
            if loop is not None:
                self.runs_on(loop)
            return False
        call.owner = threading.get_ident()
        service.run_here(call)
        # Where the watchdog has ended it, its thread has gone on.
        return rpc.is_here

    def cancel(self) -> None:
        """Nobody waits any more: end the call that runs, or waits."""
        self._is_cancelled = True
        current = self._current
        if current is not None:
            current.cancel()
