"""The service between engine and dispatcher: runs each call within its limits, and sees that it ends.

A sync handler runs in the engine's thread that took the call; an async one on the event loop. Each hook
has a gate (`HookState`), so that a slow one holds up no other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from coprocess import context
from coprocess.errors import CoprocessError, HandlerFailed, Overloaded, ShuttingDown, TimedOut, UnknownHook
from coprocess.hooks import Hook, HookTable
from coprocess.server.engine import Rpc
from coprocess.server.hook_state import HookState, Waiting
from coprocess.server.loop import LoopThread
from coprocess.tyk.call import RunnableCall, TykCall
from coprocess.tyk.dispatcher import Dispatcher
from coprocess.tyk.event import local_event_payload, parse_event

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


class Service:
    """Takes calls from an engine (`handle`). `replace_thread` is the engine's, for handlers that hang."""

    def __init__(self, dispatcher: Dispatcher, options: ServiceOptions) -> None:
        self.dispatcher = dispatcher
        self.options = options
        self.replace_thread: Callable[[int], bool] = lambda thread_id: False
        self.refused_calls = 0
        self._loop = LoopThread()
        self._states: dict[Hook, HookState] = {}
        self._states_lock = threading.Lock()
        self._running: dict[int, tuple[HookState, Waiting]] = {}
        self._draining = False
        self._stopped = threading.Event()
        self._events = ThreadPoolExecutor(max_workers=4, thread_name_prefix="local-events")
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        context.set_event_sink(self.trigger_event)
        self._watchdog.start()

    # What the engine calls.

    def handle(self, rpc: Rpc) -> None:
        """Run the call that `rpc` asks for; answer it now or, where it must wait, later."""
        since_s = time.perf_counter()
        try:
            if self._draining:
                raise ShuttingDown("the service is shutting down")
            call = self.dispatcher.open(rpc.method, rpc.payload)
        except CoprocessError as error:
            self._refuse(rpc, error)
            return
        except Exception as error:
            log.exception("a message could not be opened")
            self._refuse(rpc, CoprocessError(f"internal error: {type(error).__name__}"))
            return
        state = self._states.get(call.hook) or self._new_state(call.hook)
        waiting = Waiting(call, rpc, since_s)
        admitted = state.enter(waiting)
        if admitted is None:
            self._refuse(rpc, Overloaded(f'{call.hook.type.name} hook "{call.hook.name}" is overloaded'))
        elif admitted:
            self._begin(state, waiting)

    def _begin(self, state: HookState, first: Waiting) -> None:
        """Run an admitted call and, in its place, those that waited."""
        if state.hook.is_async:
            self._begin_async(state, first)
            return
        me = threading.get_ident()
        waiting: Waiting | None = first
        while waiting is not None:
            waiting.deadline_s = time.monotonic() + state.timeout_s
            self._running[me] = (state, waiting)
            try:
                reply = waiting.call.run()
            except HandlerFailed as error:
                self._fail(state, waiting, error)
            else:
                waiting.rpc.respond(reply)
            self._running.pop(me, None)
            waiting = state.leave(waiting, time.perf_counter() - waiting.since_s)

    def _begin_async(self, state: HookState, waiting: Waiting) -> None:
        def started(task: asyncio.Task[None]) -> None:
            waiting.rpc.on_cancel(lambda: self._loop.call_soon(task.cancel))

        self._loop.submit(lambda: self._run_async(state, waiting), started)

    async def _run_async(self, state: HookState, waiting: Waiting) -> None:
        try:
            async with asyncio.timeout(state.timeout_s):
                reply = await waiting.call.run_async()
        except TimeoutError:
            self._time_out(state, waiting)
        except HandlerFailed as error:
            self._fail(state, waiting, error)
        except asyncio.CancelledError:
            # The client gave up, or the service stops: in both cases an answer does no harm.
            waiting.rpc.fail(ShuttingDown.status, "cancelled")
        else:
            waiting.rpc.respond(reply)
        following = state.leave(waiting, time.perf_counter() - waiting.since_s)
        if following is not None:
            self._begin_async(state, following)

    def _new_state(self, hook: Hook) -> HookState:
        limits, options = hook.limits, self.options
        default = options.async_concurrency if hook.is_async else options.concurrency
        state = HookState(
            hook,
            concurrency=limits.concurrency or default,
            queue_size=options.queue_size,
            timeout_s=limits.timeout_s or options.timeout_s,
            on_error=limits.on_error or "closed",
        )
        with self._states_lock:
            return self._states.setdefault(hook, state)

    # How calls end badly.

    def _refuse(self, rpc: Rpc, error: CoprocessError) -> None:
        self.refused_calls += 1
        rpc.fail(error.status, str(error))
        if not isinstance(error, ShuttingDown):
            log.warning("refused", reason=str(error), status=error.status.name)

    def _fail(self, state: HookState, waiting: Waiting, error: HandlerFailed) -> None:
        state.counts.failed += 1
        cause = error.__cause__
        log.error(str(error), **_tags(waiting.call), exc_info=_own_traceback(cause))
        self._answer_failure(state, waiting, error)

    def _time_out(self, state: HookState, waiting: Waiting) -> None:
        state.counts.timed_out += 1
        call = waiting.call
        error = TimedOut(f'{call.hook_type} hook "{call.hook_name}" took longer than {state.timeout_s:g} s')
        log.error(str(error), **_tags(call))
        self._answer_failure(state, waiting, error)

    def _answer_failure(self, state: HookState, waiting: Waiting, error: CoprocessError) -> None:
        call = waiting.call
        if isinstance(call, TykCall):
            if state.on_error == "open":
                waiting.rpc.respond(call.unchanged())
                return
            if self.options.failure_status is not None:
                headers = self.options.failure_headers
                waiting.rpc.respond(call.refused(self.options.failure_status, "Service unavailable", headers))
                return
        waiting.rpc.fail(error.status, str(error))

    def _watch(self) -> None:
        """End sync calls that take too long: their thread is given up, and another takes its place."""
        while not self._stopped.wait(_WATCH_INTERVAL_S):
            now_s = time.monotonic()
            for thread_id, (state, waiting) in list(self._running.items()):
                if now_s > waiting.deadline_s:
                    self._abandon(thread_id, state, waiting)

    def _abandon(self, thread_id: int, state: HookState, waiting: Waiting) -> None:
        following = None
        with state.lock:
            if waiting.ended:
                return
            if not self.replace_thread(thread_id):
                # As many hang as may: the call is answered, but its place in the hook stays taken.
                return
            waiting.ended = True
            if state.queue:
                following = state.queue.popleft()
            else:
                state.running -= 1
        self._running.pop(thread_id, None)
        self._time_out(state, waiting)
        if following is not None:
            threading.Thread(target=self._begin, args=(state, following), daemon=True).start()

    # Events of this service's own handlers.

    def trigger_event(self, name: str, payload: str) -> None:
        """Run the `@Event` function `name`, apart from the caller. What goes wrong is logged."""
        caller = context.current_call.get()
        spec = {"APIID": caller.api_id, "OrgID": ""} if caller is not None else {}
        text = local_event_payload(name, payload, spec, datetime.now(UTC))
        try:
            call = self.dispatcher.open_parsed_event(parse_event(text))
        except UnknownHook as error:
            log.error("an event was triggered that no handler takes", triggered=name, reason=str(error))
            return
        self._events.submit(self._run_event, call)

    def _run_event(self, call: RunnableCall) -> None:
        try:
            if call.hook.is_async:
                asyncio.run(_discard(call))
            else:
                call.run()
        except HandlerFailed as error:
            log.error(str(error), **_tags(call), exc_info=_own_traceback(error.__cause__))

    # Reload and shutdown.

    def use(self, table: HookTable) -> None:
        """Swap the handlers. Calls that run, or wait, end on those they came for."""
        self.dispatcher.table = table
        with self._states_lock:
            for hook in set(self._states) - set(table):
                if not self._states[hook].running:
                    del self._states[hook]

    @property
    def states(self) -> list[HookState]:
        with self._states_lock:
            return list(self._states.values())

    @property
    def in_flight(self) -> int:
        """Calls that run or wait."""
        return sum(state.running + len(state.queue) for state in self.states)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and wait for those in flight. False where some still run after `timeout_s`."""
        self._draining = True
        until_s = time.monotonic() + timeout_s
        while self.in_flight and time.monotonic() < until_s:
            time.sleep(0.005)
        return not self.in_flight

    def stop(self, timeout_s: float) -> None:
        """End the service's own threads, once the events that handlers triggered have run."""
        self._stopped.set()
        context.set_event_sink(None)
        waiter = threading.Thread(target=self._events.shutdown, daemon=True)
        waiter.start()
        waiter.join(timeout_s)
        self._loop.stop(timeout_s)


_WATCH_INTERVAL_S = 0.05


async def _discard(call: RunnableCall) -> None:
    await call.run_async()


def _tags(call: RunnableCall) -> dict[str, str]:
    return {"hook": call.hook_name, "hook_type": call.hook_type, "api_id": call.api_id}


def _own_traceback(error: BaseException | None) -> BaseException | None:
    """`error`, unless its text says it all."""
    return None if isinstance(error, HandlerFailed) else error
