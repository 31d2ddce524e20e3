"""The service between engine and dispatcher: runs each call within its limits, and sees that it ends.

A sync handler runs in the engine's thread that took the call; an async one on the event loop. Each hook
has a gate (`HookState`), so that a slow one holds up no other.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import structlog

from coprocess.api import context
from coprocess.error_text import format_error
from coprocess.errors import CoprocessError, HandlerFailed, ShuttingDown, Status
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime import prints
from coprocess.runtime.async_calls import AsyncCalls
from coprocess.runtime.call import Call
from coprocess.runtime.computing import ComputingLine
from coprocess.runtime.failures import Failures
from coprocess.runtime.gates import Gates
from coprocess.runtime.gateway import Gateway
from coprocess.runtime.idle import wait_until_idle
from coprocess.runtime.local_events import LocalEvents
from coprocess.runtime.log_limit import LimitedLog
from coprocess.runtime.pace import QUICK_S, Used, computed
from coprocess.runtime.service_options import ServiceOptions
from coprocess.runtime.streaming import NO_STREAMS, Streaming
from coprocess.runtime.unawaited import note_unawaited
from coprocess.runtime.watchdog import WATCH_INTERVAL_S, Watchdog
from coprocess.switching import ShortSwitches
from coprocess.transport.engine import Methods, NotingHandler, Rpc
from coprocess.transport.workers import WorkerThreads

if TYPE_CHECKING:
    from coprocess.runtime.tracing import CallTracing

log = structlog.get_logger("coprocess")
# Of this module: each call looks for them.
_now_s: Final = time.monotonic
_get_ident: Final = threading.get_ident
_new_context: Final = Context
#: By its name: some engines make it when it is asked for, which what is compiled would not see.
_payload_of: Final = attrgetter("payload")


class Service:
    """Takes calls from an engine (`methods`). `replace_thread` is the engine's, for handlers that hang."""

    def __init__(self, gateway: Gateway, options: ServiceOptions, *, logger: Any = log) -> None:
        """`logger` takes what is told of calls; a tool that shows it otherwise gives one that drops it."""
        self.gateway = gateway
        self._openers = gateway.methods
        self._is_asked_meanwhile = gateway.is_asked_meanwhile
        self.streaming = gateway if isinstance(gateway, Streaming) else NO_STREAMS
        self.options = options
        self.replace_thread: Callable[[int], bool] = lambda thread_id: False
        # For what callers can cause by the thousand.
        self.limited_log = LimitedLog(logger)
        self._failures = Failures(self.limited_log, options.failure_status, options.failure_headers)
        #: What traces the calls; None: nothing does. Set by `use_tracing`.
        self.tracing: CallTracing | None = None
        switches = ShortSwitches(owns_process=options.owns_process)
        self.async_calls = AsyncCalls(
            self._failures,
            self.limited_log,
            switches,
            tick_s=WATCH_INTERVAL_S,
            timeout_s=options.timeout_s,
        )
        self.gates = Gates(options, takes_turns=not gateway.is_asked_meanwhile)
        #: Calls of sync hooks, by the thread that runs them.
        self.running: dict[int, Call] = {}
        #: Whether new calls are refused.
        self.is_draining = False
        # Threads for calls that no engine's thread runs: local events, and what waited behind a call
        # that hangs.
        self._own_tasks: queue.SimpleQueue[Call | Callable[[], None] | None] = queue.SimpleQueue()
        self._own_threads: WorkerThreads[Call | Callable[[], None]] = WorkerThreads(
            "service", self._own_tasks.get, self._run_own, minimum=1, maximum=_OWN_THREADS
        )
        #: Calls of sync hooks that compute.
        self._line: ComputingLine[Call] = ComputingLine(self._start_in_turn, switches)
        #: Events of this service's own handlers.
        self.events = LocalEvents(self)
        self.watchdog = Watchdog(self)

    def start(self) -> None:
        note_unawaited()
        if self.options.owns_process:
            context.set_event_sink(self.events.trigger)
        self._own_threads.start()
        self._line.start()
        self.watchdog.start()

    def use_tracing(self, tracing: CallTracing) -> None:
        """Trace the calls from now on. Each Rpc must come through its `traced` then."""
        self.tracing = self._failures.tracing = tracing

    def longest_limit_s(self) -> float:
        """How long a handler may run, at most."""
        own = [hook.limits.timeout_s for hook in self.gateway.table if hook.limits.timeout_s is not None]
        return max([self.options.timeout_s, *own])

    # What the engine calls.

    @property
    def methods(self) -> Methods:
        """The gateway's methods, with this service behind them."""
        chained, bidi = self.streaming.chained_methods, self.streaming.bidi_methods
        return Methods(
            unary={
                **dict.fromkeys(self._openers, self.handle),
                **{path: partial(handler, self) for path, handler in chained.items()},
            },
            bidi={path: NotingHandler(partial(handler, self)) for path, handler in bidi.items()},
            failed=self.streaming.failed_replies,
        )

    def handle(self, rpc: Rpc) -> None:
        """Run the call that `rpc` asks for; answer it now or, where it must wait, later."""
        since_s = _now_s()
        try:
            if self.is_draining:
                raise ShuttingDown("the service is shutting down")
            call = self._openers[rpc.method](_payload_of(rpc))
        except Exception as error:  # noqa: BLE001 - an engine's thread must not end
            self.refuse(rpc, error)
            return
        state = self.gates[call.hook]
        call.arrive(rpc, state, since_s)
        admitted = state.enter(call) or state.wait(call)
        if admitted:
            if self._is_asked_meanwhile and not call.hook.is_async:
                self._run_alone(call, since_s)
            else:
                self._begin(call, since_s)
            return
        self._not_admitted(call, is_shed=admitted is None)

    def take(self, call: Call, rpc: Rpc, since_s: float) -> None:
        """Run the call that `rpc`, which came at `since_s`, asks for: now or, where it must wait, later."""
        # As `handle`, in place: it is what all calls of other gateways come by.
        state = self.gates[call.hook]
        call.arrive(rpc, state, since_s)
        admitted = state.enter(call) or state.wait(call)
        if admitted:
            self._begin(call, since_s)
        else:
            self._not_admitted(call, is_shed=admitted is None)

    def _not_admitted(self, call: Call, *, is_shed: bool) -> None:
        rpc = call.rpc
        if self.tracing is not None:
            self.tracing.know_hook(rpc, call)
        if is_shed:
            self._failures.shed(call)
        else:
            # Else it would run, some time, for a client that is gone.
            rpc.on_cancel(lambda: self.drop(call))

    def refuse(self, rpc: Rpc, error: Exception) -> None:
        """Answer a call that reaches no handler."""
        if not isinstance(error, CoprocessError):
            log.error("a message could not be opened", exception=format_error(error))
            error = CoprocessError(f"internal error: {type(error).__name__}")
        self._failures.refuse(rpc, error)

    def tell_refused(self, error: Exception) -> None:
        """Log, and count, that a message reaches no handler, or was refused on its way."""
        if not isinstance(error, CoprocessError):
            log.error("a message could not be taken", exception=format_error(error))
            error = CoprocessError(f"internal error: {type(error).__name__}")
        self._failures.tell_refused(error)

    def tell_failed(self, hook: Hook, api_id: str, error: HandlerFailed) -> None:
        """Log, and count, that what a handler left cannot go out, as is seen only after its call."""
        self._failures.tell_failed(self.gates[hook], api_id, error)

    @staticmethod
    def drop(call: Call) -> None:
        """End a call that waits, as nobody waits for it."""
        if call.gate.drop(call):
            call.rpc.fail(Status.CANCELLED, "the client gave up")

    def _run_own(self, task: Call | Callable[[], None]) -> None:
        if isinstance(task, Call):
            self._begin(task, _now_s())
        else:
            task()

    def in_thread(self, task: Call | Callable[[], None]) -> None:
        """Run an admitted call, or a task, which never raises, in a thread of the service's own."""
        self._own_tasks.put(task)

    def replace(self, thread_id: int) -> bool:
        """Have another thread in the place of one that hangs. False where that cannot be."""
        return self._own_threads.replace(thread_id) or self.replace_thread(thread_id)

    def run_here(self, call: Call) -> None:
        """Run an admitted call of a sync hook in this thread. What waited for its place begins elsewhere."""
        state = call.gate
        pace = state.pace
        if is_apart := pace.apart > 0:
            pace.apart -= 1
            call.rpc.may_block()
        before = pace.look() if pace.doubt and not is_apart else None
        began_s = _now_s()
        call.deadline_s = began_s + state.timeout_s
        me = _get_ident()
        self.running[me] = call
        ran_s = _new_context().run(self._run, call) - began_s
        self.running.pop(me, None)
        now_s = _now_s()
        if not is_apart and (pace.doubt or ran_s > QUICK_S):
            pace.took(ran_s, before)
        following = state.leave(call, now_s - call.since_s)
        if following is not None:
            self.begin_elsewhere(following)

    def traced(self, rpc: Rpc) -> Rpc:
        """`rpc`, which came by no engine, such that its call is traced where calls are."""
        return rpc if self.tracing is None else self.tracing.of(rpc)

    def _begin(self, first: Call, now_s: float, *, in_turn: bool = False) -> None:
        """Run an admitted call and, after it, those that waited for its place, or its turn.

        `now_s` is time.monotonic(). `in_turn`: it computes, and has the turn for that.
        """
        state = first.gate
        if state.hook.is_async:
            loop = self.async_calls.begin(first, now_s)
            if loop is not None:
                first.rpc.runs_on(loop)
            return
        pace = state.pace
        loop = self.async_calls.loop
        if loop is not None and loop.is_reading and self.async_calls.is_read_here():
            # Else all async handlers would wait for it.
            first.rpc.may_block()
            self.begin_elsewhere(first)
            return
        if in_turn or pace.doubt or pace.apart > 0 or pace.computes:
            self._begin_watched(first, now_s, in_turn)
            return
        # As `_run_in_row`, of one that needs no watching: nearly all calls come by.
        first.deadline_s = now_s + state.timeout_s
        me = _get_ident()
        self.running[me] = first
        # In a context of its own: what a handler sets there is no other call's.
        ran_s = _new_context().run(self._run, first) - now_s
        self.running.pop(me, None)
        now_s = _now_s()
        if ran_s > QUICK_S:
            pace.took(ran_s, None)
        following = state.leave(first, now_s - first.since_s)
        if following is not None:
            call, in_turn = self._following(first, following, False)
            self._run_in_row(call, now_s, in_turn=in_turn)

    def _begin_watched(self, first: Call, now_s: float, in_turn: bool) -> None:
        """The same for a call of a hook that may compute, or wait, or has done so."""
        pace = first.gate.pace
        if pace.computes and not in_turn:
            in_turn = self._has_turn(first)
            if not in_turn:
                return
        if in_turn or pace.apart > 0:
            pace.apart -= pace.apart > 0
            first.rpc.may_block()
            self._run_in_row(first, now_s, in_turn=in_turn, is_apart=True)
        else:
            self._run_in_row(first, now_s, judged=first, before=pace.look() if pace.doubt else None)

    def _run_in_row(
        self,
        call: Call | None,
        now_s: float,
        *,
        in_turn: bool = False,
        is_apart: bool = False,
        judged: Call | None = None,
        before: Used | None = None,
    ) -> None:
        """Run an admitted call and, after it, those that waited for its place, or its turn.

        `is_apart`: not where calls are read. Of `judged`, its pace is told how long it took since `before`.
        """
        me = _get_ident()
        while call is not None:
            state, began_s = call.gate, now_s
            computed_before = computed() if (is_apart or in_turn) and state.pace.asks_clocks() else None
            call.deadline_s = now_s + state.timeout_s
            self.running[me] = call
            ran_s = _new_context().run(self._run, call) - began_s
            self.running.pop(me, None)
            is_given_up = in_turn and not state.holds(call)
            now_s = _now_s()
            if computed_before is not None:
                state.pace.computed(computed_before, now_s - began_s)
            elif call is judged and (state.pace.doubt or ran_s > QUICK_S):
                state.pace.took(ran_s, before)
            following = state.leave(call, now_s - call.since_s)
            if following is None and not in_turn:
                return
            call, in_turn = self._following(call, following, in_turn)
            if call is not None and is_given_up:
                self._start_in_turn(call) if in_turn else self.begin_elsewhere(call)
                return

    def _run_alone(self, first: Call, now_s: float) -> None:
        """As `run_here`, where each call has a thread of its own, so that its pace does not matter.

        After it run those that waited for its place.
        """
        me = _get_ident()
        call: Call | None = first
        while call is not None:
            state = call.gate
            call.deadline_s = now_s + state.timeout_s
            self.running[me] = call
            now_s = _new_context().run(self._run, call)
            self.running.pop(me, None)
            following = state.leave(call, now_s - call.since_s)
            if following is not None:
                call.rpc.may_block()  # What came by is read on meanwhile.
            call = following

    def _has_turn(self, call: Call) -> bool:
        """Whether a call that computes may do so now. Else it waits for its turn."""
        if self._line.enter(call):
            return True
        # Else it would run, some time, for a client that is gone.
        call.rpc.on_cancel(lambda: self._leave_line(call))
        return False

    def _leave_line(self, call: Call) -> None:
        """End a call that waits for its turn, as nobody waits for it."""
        if self._line.drop(call):
            _, following = call.gate.release(call)
            call.rpc.fail(Status.CANCELLED, "the client gave up")
            if following is not None:
                self.begin_elsewhere(following)

    def _start_in_turn(self, call: Call) -> None:
        self._own_tasks.put(lambda: self._begin(call, _now_s(), in_turn=True))

    def _following(self, call: Call, in_place: Call | None, had_turn: bool) -> tuple[Call | None, bool]:
        """Who is to run after `call`, and whether in turn. `in_place` has its place in its hook."""
        may_run = in_place is not None and (not in_place.gate.pace.computes or self._has_turn(in_place))
        in_turn = self._line.next_after(call) if had_turn else None
        if in_turn is None:
            return (
                (in_place, in_place.gate.pace.computes) if in_place is not None and may_run else (None, False)
            )
        in_turn.rpc.may_block()
        if in_place is not None and may_run:
            self.begin_elsewhere(in_place)
        return in_turn, True

    def _run(self, call: Call) -> float:
        """Run and answer a call of a sync handler. Its end, by time.monotonic(), before it was answered.

        Writing the answer lets go of the interpreter, which others may keep for long then.
        """
        ran_s = 0.0
        try:
            try:
                tracing = self.tracing
                reply = call.run() if tracing is None else tracing.run(call)
            except HandlerFailed as error:
                self._failures.fail(call, error)
            else:
                ran_s = _now_s()
                call._rpc.respond(reply)  # Not by the property: each call comes by, and has arrived.
        except Exception as error:  # noqa: BLE001 - else its place would stay taken for ever
            self._failures.fail_within(call, error)
        if prints.has_printed:
            prints.end_line()
        return ran_s or _now_s()

    def begin_elsewhere(self, call: Call) -> None:
        """Run an admitted call on the loop, or in a thread of the service's own."""
        if call.start is not None:
            call.start()
        elif call.gate.hook.is_async:
            self.async_calls.begin(call)
        else:
            self._own_tasks.put(call)

    @property
    def failures(self) -> Failures:
        return self._failures

    # Reload and shutdown.

    def use(self, table: HookTable) -> None:
        """Swap the handlers. Calls that run, or wait, end on those they came for."""
        self.gateway.table = table
        self.drop_idle_states()

    def has_calls(self, hook: Hook) -> bool:
        """Whether calls of `hook` run, or wait, or are to come of what is under way."""
        state = self.gates.get(hook)
        runs = state is not None and state.has_calls
        return runs or self.streaming.holds(hook) or self.gateway.holds(hook)

    def cancel_left_tasks(self) -> None:
        """Cancel what calls left on the loop whose hooks are gone: in no table, and with no call."""
        serving = set(self.gateway.table)
        self.async_calls.cancel_left(lambda hook: hook not in serving and hook not in self.gates)

    def drop_idle_states(self) -> None:
        """Let go of hooks that are no longer in the table, but for those that have calls.

        To be repeated after a swap, until the old hooks are gone: their last calls end, and may begin, later.
        """
        self.gates.drop_idle(set(self.gateway.table))

    @property
    def refused_calls(self) -> int:
        """Calls that reached no handler."""
        return self._failures.refused

    @property
    def abandoned_threads(self) -> int:
        """Threads of its own, not of the engine, that were given up and hang still."""
        return self._own_threads.abandoned

    @property
    def in_flight(self) -> int:
        """Calls that run or wait, and streams that are between two of them."""
        calls = sum(state.in_flight for state in self.gates.states)
        return max(calls, self.streaming.open_streams)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and wait for those in flight. False where some still run after `timeout_s`."""
        self.is_draining = True
        is_idle = wait_until_idle(lambda: self.in_flight, timeout_s)
        if not is_idle:
            self.streaming.give_up()
        return is_idle

    def stop(self, timeout_s: float) -> None:
        """End the service's own threads, once the events that handlers triggered have run."""
        self.watchdog.stop()
        self._line.stop()
        if self.options.owns_process:
            context.set_event_sink(None)
        until_s = _now_s() + timeout_s
        self.events.wait(until_s)
        for _ in range(self._own_threads.count):
            self._own_tasks.put(None)
        self.async_calls.stop(max(0.0, until_s - _now_s()))
        self.limited_log.end_window(now=True)


_OWN_THREADS = 64
