"""Calls whose caller is in this process: the gate, limits, failures and counts are the service's.

`begin` is for callers on an event loop of their own: async handlers run on it, in place; sync ones in
threads of the service. `call` is for callers in threads: sync handlers run in place; async ones on the
service's loop. What runs in place cannot be given up: where it overruns, its answer is the time-out's.

Most calls have their turn at once, wait for nothing and end well: `runtime.at_once` has these.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from coprocess.errors import HandlerFailed, ShuttingDown
from coprocess.runtime import at_once, awaited
from coprocess.runtime.at_once import AtOnce
from coprocess.runtime.call import Call
from coprocess.runtime.in_process_rpc import HereRpc, InProcessRpc, LoopRpc, ThreadRpc
from coprocess.runtime.service import Service
from coprocess.transport.engine import Rpc

# Beyond its limit, in which the service ends a call that it runs itself.
_GRACE_S = 5.0


class InProcess(AtOnce):
    """Calls handlers of `service` for callers in this process."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        #: What handlers still do after their time was over.
        self._left: set[asyncio.Task[Any]] = set()

    def end_left(self) -> None:
        """Refuse calls from now on, and cancel what handlers still do after their time was over."""
        self.is_closed = True
        for task in list(self._left):
            with contextlib.suppress(RuntimeError):  # Its loop is closed.
                task.get_loop().call_soon_threadsafe(task.cancel)

    # For callers on a loop.

    def _not_at_once(
        self,
        call: Call,
        reply: bytes | None,
        took_s: float,
        context: Context,
        watching: AbstractContextManager[object],
    ) -> Coroutine[Any, Any, None] | None:
        """A call has begun here, and waits, or has taken long."""
        if took_s > at_once.BLOCKS_S:
            self._tell_blocked(call, took_s)
        if reply is not None:
            self._ended_here(call, reply, took_s)
            return None
        rpc = InProcessRpc()
        self._needs_rpc(call, rpc)
        return self._run(call, rpc, awaited.rest(call), context, watching)

    def _begin_otherwise(
        self, call: Call, watching: AbstractContextManager[object]
    ) -> Coroutine[Any, Any, None] | None:
        if self.is_closed:
            _refuse(call)
            return None
        if not call.hook.is_async:
            return self._in_thread(call)
        rpc = HereRpc()
        admitted = self._enter(call, rpc, rpc.start)
        if admitted is None:
            _take(call, rpc)
            return None
        if not admitted:
            return self._when_admitted(call, rpc, watching)
        call.deadline_s = call.since_s + call.gate.timeout_s
        return self._run(call, rpc, self._running(call), copy_context(), watching)

    def _enter(self, call: Call, rpc: Rpc, start: Callable[[], object] | None = None) -> bool | None:
        """True: run it now. False: it waits. None: it was shed, and has ended."""
        service = self._service
        tracing = service.tracing
        call.arrive(rpc if tracing is None else tracing.within(rpc, call), call.gate, time.monotonic())
        call.start = start
        admitted = call.gate.enter(call) or call.gate.wait(call)
        if admitted is None:
            service.failures.shed(call)
        return admitted

    def _running(self, call: Call) -> Coroutine[Any, Any, bytes]:
        tracing = self._service.tracing
        return call.run_async() if tracing is None else tracing.run_async(call)

    def _ended_here(self, call: Call, reply: bytes, took_s: float) -> None:
        """A call that ran here has ended well, if it was in time."""
        call.replied = reply
        state = call.gate
        if took_s > state.timeout_s:
            self._end_badly(call, None)
        following = state.leave(call, took_s)
        if following is not None:
            self._service.begin_elsewhere(following)

    def _failed_here(self, call: Call, error: BaseException) -> None:
        """A call that ran here was ended by `error`: raised where that is no failure of the handler."""
        try:
            if not isinstance(error, HandlerFailed):
                raise error
            self._end_badly(call, error)
        finally:
            self._leave(call)

    def _end_badly(self, call: Call, error: HandlerFailed | None) -> None:
        """End a call that ran here with `error`, or with a time-out, where it took too long for that."""
        rpc = InProcessRpc()
        self._needs_rpc(call, rpc)
        if error is not None:
            self._fail(call, error)
        elif time.monotonic() > call.deadline_s:
            self._service.failures.time_out(call)
        else:
            return
        _take(call, rpc)

    def _needs_rpc(self, call: Call, rpc: InProcessRpc) -> None:
        """A call that began at once ends badly, or waits."""
        # One that somebody debugs has no limit.
        deadline_s = getattr(call, "deadline_s", call.since_s + call.gate.timeout_s)
        call.arrive(rpc, call.gate, call.since_s)
        call.deadline_s = deadline_s

    async def _when_admitted(
        self, call: Call, rpc: HereRpc, watching: AbstractContextManager[object]
    ) -> None:
        try:
            with watching:
                await rpc.turn()
        except CancelledError:
            if not call.gate.drop(call):
                self._leave(call)
            call.rpc.fail(ShuttingDown.status, "cancelled")
            raise
        call.deadline_s = time.monotonic() + call.gate.timeout_s
        await self._run(call, rpc, self._running(call), copy_context(), watching)

    async def _run(
        self,
        call: Call,
        rpc: InProcessRpc,
        coroutine: Coroutine[Any, Any, bytes],
        context: Context,
        watching: AbstractContextManager[object],
    ) -> None:
        """Run an admitted call, as `coroutine` does, in its context and for its time."""
        try:
            try:
                first = _advance(context, coroutine.send, None, partial(self._tell_blocked, call))
            except StopIteration as done:
                self._answer(call, done.value)
            except HandlerFailed as error:
                self._fail(call, error)
            except CancelledError:
                call.rpc.fail(ShuttingDown.status, "cancelled")
                raise
            else:
                with watching:
                    await self._go_on(call, coroutine, context, first)
        finally:
            self._leave(call)
        _take(call, rpc)

    def _tell_blocked(self, call: Call, took_s: float) -> None:
        self._service.async_calls.tell_blocked_elsewhere(call, took_s)

    def _fail(self, call: Call, error: HandlerFailed) -> None:
        if time.monotonic() > call.deadline_s:
            self._service.failures.time_out(call)
        else:
            self._service.failures.fail(call, error)

    def _answer(self, call: Call, reply: bytes) -> None:
        if time.monotonic() > call.deadline_s:
            self._service.failures.time_out(call)
        else:
            call.rpc.respond(reply)

    async def _go_on(
        self, call: Call, coroutine: Coroutine[Any, Any, bytes], context: Context, first: Any
    ) -> None:
        """Run what is left of `coroutine`, which waits, in its context and for its time."""
        failures = self._service.failures
        limit = asyncio.timeout(call.gate.timeout_s)
        rest = _Rest(coroutine, context, first, limit, self._left, partial(self._tell_blocked, call))
        try:
            async with limit:
                reply = await rest
        except HandlerFailed as error:
            self._fail(call, error)
        except TimeoutError:  # The limit's: one of the handler's own is a HandlerFailed.
            failures.time_out(call)
        except CancelledError:
            task = asyncio.current_task()
            if rest.has_cancelled_itself and task is not None and task.uncancel() == 0:
                # Not the server: to it, the request has gone on, and it waits for an answer.
                text = f'{call.hook_type} hook "{call.hook_name}" cancelled the task that it runs in'
                self._fail(call, HandlerFailed(text))
                return
            call.rpc.fail(ShuttingDown.status, "cancelled")
            raise
        else:
            self._answer(call, reply)

    async def _in_thread(self, call: Call) -> None:
        rpc = LoopRpc(asyncio.get_running_loop())
        if self._is_taken_elsewhere(call, rpc):
            try:
                await rpc.ended
            except CancelledError:
                # Else it would run, some time, for a client that is gone.
                if call.gate.drop(call):
                    call.rpc.fail(ShuttingDown.status, "cancelled")
                raise
        _take(call, rpc)

    # For callers in threads.

    def _call_otherwise(self, call: Call) -> None:
        if self.is_closed:
            _refuse(call)
        elif call.hook.is_async:
            self._on_loop(call)
        else:
            self._run_in_turn(call)

    def _run_in_turn(self, call: Call) -> None:
        rpc = HereRpc()
        admitted, timeout_s = self._enter(call, rpc, rpc.start), call.gate.timeout_s
        if admitted or (admitted is not None and rpc.wait_for_turn(timeout_s)):
            call.deadline_s = time.monotonic() + timeout_s
            tracing = self._service.tracing
            try:
                try:
                    reply = copy_context().run(call.run if tracing is None else partial(tracing.run, call))
                except HandlerFailed as error:
                    self._fail(call, error)
                else:
                    self._answer(call, reply)
            finally:
                self._leave(call)
        elif admitted is not None:
            if not call.gate.drop(call):
                self._leave(call)  # Its turn has come at this moment.
            self._service.failures.time_out(call)
        _take(call, rpc)

    def _on_loop(self, call: Call) -> None:
        rpc = ThreadRpc()
        if self._is_taken_elsewhere(call, rpc):
            while not rpc.wait(2 * call.gate.timeout_s + _GRACE_S):
                # It has no limit while somebody debugs it.
                if call.deadline_s != math.inf:
                    call.gate.drop(call)
                    self._service.failures.time_out(call)
                    break
        _take(call, rpc)

    def _is_taken_elsewhere(self, call: Call, rpc: Rpc) -> bool:
        """Have `call` run elsewhere, now or when it is its turn. False where it is shed, and has ended."""
        admitted = self._enter(call, rpc)
        if admitted:
            self._service.begin_elsewhere(call)
        return admitted is not None

    def _leave(self, call: Call) -> None:
        following = call.gate.leave(call, time.monotonic() - call.since_s)
        if following is not None:
            self._service.begin_elsewhere(following)


def _take(call: Call, rpc: InProcessRpc) -> None:
    """Keep how `call` ended with it."""
    call.failure, call.replied = rpc.failure, rpc.reply


def _refuse(call: Call) -> None:
    call.failure = ShuttingDown.status, "the handlers are closed"


def _advance(
    context: Context, advance: Callable[[Any], Any], value: Any, tell_blocked: Callable[[float], None]
) -> Any:
    """Run a coroutine in its context, up to where it waits."""
    began_s = time.monotonic()
    try:
        return context.run(advance, value)
    finally:
        if (took_s := time.monotonic() - began_s) > at_once.BLOCKS_S:
            tell_blocked(took_s)


def _is_asked_to_end() -> bool:
    """Whether this task was cancelled since it went on last: by what runs in it, then.

    Private, and the only way to tell that from who cancels it from without. Without it, all do.
    """
    return getattr(asyncio.current_task(), "_must_cancel", False)


class _Rest:
    """What is left of a coroutine that has begun to wait, in its context.

    Where its time is over and it waits once more, it goes on in a task of its own, and its caller does not
    wait for that.
    """

    __slots__ = (
        "_context",
        "_coroutine",
        "_first",
        "_left",
        "_limit",
        "_tell_blocked",
        "has_cancelled_itself",
    )

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, bytes],
        context: Context,
        first: Any,
        limit: asyncio.Timeout,
        left: set[asyncio.Task[Any]],
        tell_blocked: Callable[[float], None],
    ) -> None:
        self._coroutine = coroutine
        self._context = context
        self._first = first
        self._limit = limit
        self._left = left
        self._tell_blocked = tell_blocked
        #: Whether its code has cancelled the task that it runs in.
        self.has_cancelled_itself = _is_asked_to_end()

    def _run(self, advance: Callable[[Any], Any], value: Any) -> Any:
        try:
            return _advance(self._context, advance, value, self._tell_blocked)
        finally:
            self.has_cancelled_itself = self.has_cancelled_itself or _is_asked_to_end()

    def __await__(self) -> Generator[Any, Any, bytes]:
        run, coroutine, waits_for = self._run, self._coroutine, self._first
        while True:
            try:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = run(coroutine.throw, error)
                    if isinstance(error, CancelledError) and self._limit.expired():
                        self._go_on_alone(waits_for)
                        raise
                else:
                    waits_for = run(coroutine.send, sent)
            except StopIteration as done:
                reply: bytes = done.value
                return reply

    def _go_on_alone(self, waits_for: Any) -> None:
        async def go_on() -> None:
            with contextlib.suppress(HandlerFailed):
                rest = (self._coroutine, self._context, waits_for, self._limit, self._left)
                await _Rest(*rest, self._tell_blocked)

        task = asyncio.ensure_future(go_on())
        self._left.add(task)
        task.add_done_callback(self._left.discard)
