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
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from coprocess.api import context
from coprocess.error_text import format_error
from coprocess.errors import CoprocessError, HandlerFailed, Overloaded, ShuttingDown, Status
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime import prints
from coprocess.runtime.async_calls import AsyncCalls
from coprocess.runtime.call import Call
from coprocess.runtime.computing import ComputingLine
from coprocess.runtime.failures import Failures, safe_text
from coprocess.runtime.gateway import Gateway
from coprocess.runtime.hook_state import (
    ApiLabels,
    CallLabel,
    HookCounts,
    HookState,
    add_up,
    label_of,
)
from coprocess.runtime.idle import wait_until_idle
from coprocess.runtime.local_event import LocalEvent
from coprocess.runtime.log_limit import LimitedLog
from coprocess.runtime.pace import QUICK_S, Used, computed
from coprocess.runtime.streaming import NO_STREAMS, Streaming
from coprocess.transport.engine import Methods, NotingHandler, Rpc
from coprocess.transport.workers import WorkerThreads, start_missing

if TYPE_CHECKING:
    from coprocess.runtime.tracing import CallTracing

log = structlog.get_logger("coprocess")


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """The defaults for hooks that say nothing themselves, and what failure means."""

    timeout_s: float = 30.0
    #: Calls of one sync hook that run at one time.
    concurrency: int = 64
    #: Calls of one async hook that run at one time.
    async_concurrency: int = 4096
    #: Calls of one hook that wait.
    queue_size: int = 256
    #: What a client sees when a hook fails closed; None: the gateway's own error.
    failure_status: int | None = None
    failure_headers: tuple[tuple[str, str], ...] = ()
    #: Whether this is the process's own service, which takes events that no call of another's triggers.
    owns_process: bool = True


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
        self._limited_log = LimitedLog(logger)
        self._failures = Failures(self._limited_log, options.failure_status, options.failure_headers)
        #: What traces the calls; None: nothing does. Set by `use_tracing`.
        self.tracing: CallTracing | None = None
        self.async_calls = AsyncCalls(
            self._failures, self._limited_log, tick_s=_WATCH_INTERVAL_S, timeout_s=options.timeout_s
        )
        #: The gates of hooks that have been called. For reading; `state_of` makes those that lack.
        self.gates: dict[Hook, HookState[Call]] = {}
        #: Counts of hooks that a reload has replaced.
        self._dropped: dict[CallLabel, HookCounts] = {}
        self._api_labels = ApiLabels()
        self._states_lock = threading.Lock()
        #: Calls of sync hooks, by the thread that runs them.
        self._running: dict[int, Call] = {}
        #: Whether new calls are refused.
        self.is_draining = False
        self._stopped = threading.Event()
        # Threads for calls that no engine's thread runs: local events, and what waited behind a call
        # that hangs.
        self._own_tasks: queue.SimpleQueue[Call | Callable[[], None] | None] = queue.SimpleQueue()
        self._own_threads: WorkerThreads[Call | Callable[[], None]] = WorkerThreads(
            "service", self._own_tasks.get, self._run_own, minimum=1, maximum=_OWN_THREADS
        )
        #: Calls of sync hooks that compute.
        self._line: ComputingLine[Call] = ComputingLine(
            self._start_in_turn, owns_process=options.owns_process
        )
        self._local_events: set[Rpc] = set()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        if self.options.owns_process:
            context.set_event_sink(self.trigger_event)
        self._own_threads.start()
        self._line.start()
        self._watchdog.start()

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
        since_s = time.monotonic()
        try:
            if self.is_draining:
                raise ShuttingDown("the service is shutting down")
            call = self._openers[rpc.method](rpc.payload)
        except Exception as error:  # noqa: BLE001 - an engine's thread must not end
            self.refuse(rpc, error)
            return
        state = self.gates.get(call.hook) or self._new_state(call.hook)
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
        state = self.gates.get(call.hook) or self._new_state(call.hook)
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
        self._failures.tell_failed(self.state_of(hook), api_id, error)

    @staticmethod
    def drop(call: Call) -> None:
        """End a call that waits, as nobody waits for it."""
        if call.gate.drop(call):
            call.rpc.fail(Status.CANCELLED, "the client gave up")

    def _run_own(self, task: Call | Callable[[], None]) -> None:
        if isinstance(task, Call):
            self._begin(task, time.monotonic())
        else:
            task()

    def in_thread(self, task: Callable[[], None]) -> None:
        """Run `task`, which never raises, in a thread of the service's own."""
        self._own_tasks.put(task)

    def run_here(self, call: Call) -> None:
        """Run an admitted call of a sync hook in this thread. What waited for its place begins elsewhere."""
        state = call.gate
        pace = state.pace
        if is_apart := pace.apart > 0:
            pace.apart -= 1
            call.rpc.may_block()
        before = pace.look() if pace.doubt and not is_apart else None
        began_s = time.monotonic()
        call.deadline_s = began_s + state.timeout_s
        me = threading.get_ident()
        self._running[me] = call
        ran_s = Context().run(self._run, call) - began_s
        self._running.pop(me, None)
        now_s = time.monotonic()
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
        me = threading.get_ident()
        self._running[me] = first
        # In a context of its own: what a handler sets there is no other call's.
        ran_s = Context().run(self._run, first) - now_s
        self._running.pop(me, None)
        now_s = time.monotonic()
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
        me = threading.get_ident()
        while call is not None:
            state, began_s = call.gate, now_s
            computed_before = computed() if (is_apart or in_turn) and state.pace.asks_clocks() else None
            call.deadline_s = now_s + state.timeout_s
            self._running[me] = call
            ran_s = Context().run(self._run, call) - began_s
            self._running.pop(me, None)
            is_given_up = in_turn and not state.holds(call)
            now_s = time.monotonic()
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
        me = threading.get_ident()
        call: Call | None = first
        while call is not None:
            state = call.gate
            call.deadline_s = now_s + state.timeout_s
            self._running[me] = call
            now_s = Context().run(self._run, call)
            self._running.pop(me, None)
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
        self._own_tasks.put(lambda: self._begin(call, time.monotonic(), in_turn=True))

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
                ran_s = time.monotonic()
                call.rpc.respond(reply)
        except Exception as error:  # noqa: BLE001 - else its place would stay taken for ever
            self._failures.fail_within(call, error)
        if prints.has_printed:
            prints.end_line()
        return ran_s or time.monotonic()

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

    def state_of(self, hook: Hook) -> HookState[Call]:
        return self.gates.get(hook) or self._new_state(hook)

    def _new_state(self, hook: Hook) -> HookState[Call]:
        limits, options = hook.limits, self.options
        default = options.async_concurrency if hook.is_async else options.concurrency
        state: HookState[Call] = HookState(
            hook,
            self._api_labels,
            concurrency=limits.concurrency or default,
            queue_size=options.queue_size,
            timeout_s=limits.timeout_s or options.timeout_s,
            on_error=limits.on_error or "closed",
            takes_turns=not self._is_asked_meanwhile,
        )
        with self._states_lock:
            return self.gates.setdefault(hook, state)

    def _watch(self) -> None:
        """What must be looked after at all times."""
        while not self._stopped.wait(_WATCH_INTERVAL_S):
            try:
                self._end_overdue()
                if self.gateway.most_queued_s is not None:
                    self._refuse_queued(time.monotonic() - self.gateway.most_queued_s)
                self._limited_log.end_window()
                self.async_calls.tick()
                self.streaming.end_overdue(time.monotonic())
                start_missing()
            except Exception as error:  # noqa: BLE001 - without this thread, no call would be ended any more
                log.error("the watchdog failed", exception=format_error(error))

    def _refuse_queued(self, since_s: float) -> None:
        """Refuse what has waited for a place since then, or longer."""
        for state in self.states:
            for call in list(state.queue):
                if call.since_s > since_s or not state.drop(call):
                    break  # Those behind it came later, or it runs at this moment.
                call.counts.shed += 1
                self._failures.shed(call)

    def _end_overdue(self) -> None:
        """End sync calls that take too long: their thread is given up, and another takes its place."""
        now_s = time.monotonic()
        for thread_id, call in list(self._running.items()):
            # Asked for here, and not when each call begins: few have a handler that is still running.
            allowed_s = call.rpc.time_allowed_s()
            if allowed_s is not None:
                call.deadline_s = min(call.deadline_s, call.since_s + allowed_s)
            if now_s > call.deadline_s and now_s > call.deadline_s + call.rpc.held_up_s():
                try:
                    self._abandon(thread_id, call)
                except Exception as error:  # noqa: BLE001 - the others' time is over, too
                    log.error("a call that takes too long could not be ended", exception=format_error(error))

    def _abandon(self, thread_id: int, call: Call) -> None:
        if not call.gate.holds(call):
            return
        following: Call | None = None
        # Where as many hang as may, the call is answered, but its place in the hook stays taken.
        if self._own_threads.replace(thread_id) or self.replace_thread(thread_id):
            # It stays in `_running` until its thread takes it out, which may run another call by now.
            ended, following = call.gate.cut_off(call, time.monotonic() - call.since_s)
            if not ended:
                return  # At this moment, in time. Another thread in the place of its own does no harm.
        elif not call.timed_out:  # Told once, though it is tried again and again.
            self._limited_log.write(
                "error",
                ("not replaced",),
                "a thread that hangs cannot be replaced: as many hang as may, or none can be started",
            )
        try:
            self._failures.time_out(call)
        finally:
            # It has its place, whatever becomes of the answer.
            if following is not None:
                self._own_tasks.put(following)

    # Events of this service's own handlers.

    def trigger_event(self, name: str, payload: str) -> None:
        """Run the `@Event` function `name`, apart from the caller. What goes wrong is logged."""
        caller = context.current_call.get()
        try:
            call = self.gateway.open_local_event(name, payload, caller)
        except CoprocessError as error:
            reason = safe_text(error)
            log.error("an event was triggered that no handler takes", triggered=name, reason=reason)
            return
        if not self._start_event(call):
            self._limited_log.write(
                "error",
                ("lost event", label_of(call.hook)),
                "too many events wait for their handler: one is lost",
                triggered=name,
            )

    def take_event(self, open_call: Callable[[], Call]) -> None:
        """Run the event that `open_call` opens, apart from the caller, who comes by no engine.

        Raises CoprocessError where it is refused; the service counts and logs that.
        """
        try:
            if self.is_draining:
                raise ShuttingDown("the service is shutting down")
            call = open_call()
            if not self._start_event(call):
                raise Overloaded(f'{call.hook.type.name} hook "{call.hook.name}" is overloaded')
        except CoprocessError as error:
            self._failures.refuse(self._event_rpc(), error)
            raise

    def _event_rpc(self) -> Rpc:
        rpc = LocalEvent(self._local_events)
        return rpc if self.tracing is None else self.tracing.local_event(rpc)

    def _start_event(self, call: Call) -> bool:
        """False where too many wait for the handler already."""
        state = self.state_of(call.hook)
        rpc = self._event_rpc()
        call.arrive(rpc, state, time.monotonic())
        admitted = state.enter(call) or state.wait(call)
        if admitted is None:
            rpc.fail(Overloaded.status, "too many events wait for their handler")
            return False
        if admitted:
            self.begin_elsewhere(call)
        return True

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
        table = set(self.gateway.table)
        with self._states_lock:
            for hook in set(self.gates) - table:
                state = self.gates[hook]
                if not state.has_calls:
                    del self.gates[hook]
                    for label, counts in state.counted:
                        self._dropped.setdefault(label, HookCounts()).add(counts)

    def totals(self) -> dict[CallLabel, HookCounts]:
        """What was counted since the start, also for hooks that are gone."""
        with self._states_lock:
            states = self.gates.values()
            return add_up([*self._dropped.items(), *(each for state in states for each in state.counted)])

    @property
    def refused_calls(self) -> int:
        """Calls that reached no handler."""
        return self._failures.refused

    @property
    def abandoned_threads(self) -> int:
        """Threads of its own, not of the engine, that were given up and hang still."""
        return self._own_threads.abandoned

    @property
    def states(self) -> list[HookState[Call]]:
        with self._states_lock:
            return list(self.gates.values())

    @property
    def in_flight(self) -> int:
        """Calls that run or wait, and streams that are between two of them."""
        calls = sum(state.in_flight for state in self.states)
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
        self._stopped.set()
        self._line.stop()
        if self.options.owns_process:
            context.set_event_sink(None)
        until_s = time.monotonic() + timeout_s
        while self._local_events and time.monotonic() < until_s:
            time.sleep(0.005)
        for _ in range(self._own_threads.count):
            self._own_tasks.put(None)
        self.async_calls.stop(max(0.0, until_s - time.monotonic()))
        self._limited_log.end_window(now=True)


_WATCH_INTERVAL_S = 0.05
_OWN_THREADS = 64
