"""Calls whose caller is in this process: the gate, limits, failures and counts are the service's.

`call_async` is for callers on an event loop of their own: async handlers run on it, in place; sync ones in
threads of the service. `call` is for callers in threads: sync handlers run in place; async ones on the
service's loop. What runs in place cannot be given up: where it overruns, its answer is the time-out's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from coprocess.errors import HandlerFailed, ShuttingDown, Status
from coprocess.runtime.call import Call
from coprocess.runtime.service import Service
from coprocess.transport.engine import Metadata, Rpc

if TYPE_CHECKING:
    from coprocess.runtime.hook_state import HookState
    from coprocess.runtime.tracing import CallTracing

_NOBODY = contextlib.nullcontext()

# Beyond its limit, in which the service ends a call that it runs itself.
_GRACE_S = 5.0


class InProcessRpc(Rpc):
    """Keeps how a call ended: with `failure`, or where that is None, with `reply`."""

    __slots__ = ("_lock", "failure", "is_over", "reply")

    def __init__(self) -> None:
        self.method, self.payload = "", b""
        self._lock = threading.Lock()
        self.is_over = False
        self.failure: tuple[Status, str] | None = None
        self.reply = b""

    def respond(self, reply: bytes) -> None:
        self._end(None, reply)

    def fail(self, status: Status, message: str) -> None:
        self._end((status, message), b"")

    def _end(self, failure: tuple[Status, str] | None, reply: bytes) -> None:
        with self._lock:
            if self.is_over:
                return
            self.is_over, self.failure, self.reply = True, failure, reply
        self._wake()

    def _wake(self) -> None:
        """Tell who waits for the end, from any thread."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        pass

    def metadata(self) -> Metadata:
        return ()

    def time_allowed_s(self) -> float | None:
        return None


class _ThreadRpc(InProcessRpc):
    """For a caller in a thread: `wait` ends when the call does."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        super().__init__()
        self._ended = threading.Event()

    def _wake(self) -> None:
        self._ended.set()

    def wait(self, timeout_s: float) -> bool:
        return self._ended.wait(timeout_s)


class _LoopRpc(InProcessRpc):
    """For a caller on a loop: `ended` is done when the call is."""

    __slots__ = ("_loop", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
            self._loop.call_soon_threadsafe(_done, self.ended)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _InPlaceRpc(InProcessRpc):
    """For a caller on a loop that runs the call itself: `turn` is done when it may begin."""

    __slots__ = ("_has_turn", "_turn")

    def __init__(self) -> None:
        # All in one place, as each call makes one.
        self.method, self.payload, self.reply = "", b"", b""
        self._lock = threading.Lock()
        self.is_over = self._has_turn = False
        self.failure = None
        self._turn: asyncio.Future[None] | None = None

    def answer(self, reply: bytes) -> None:
        """As `respond`, where nobody else knows of the call."""
        self.is_over, self.reply = True, reply

    def start(self) -> None:
        with self._lock:
            self._has_turn = True
            turn = self._turn
        if turn is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                turn.get_loop().call_soon_threadsafe(_done, turn)

    async def turn(self) -> None:
        with self._lock:
            if self._has_turn:
                return
            self._turn = asyncio.get_running_loop().create_future()
        await self._turn


class InProcess:
    """Calls handlers of `service` for callers in this process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        #: What handlers still do after their time was over.
        self._left: set[asyncio.Task[Any]] = set()
        self.is_closed = False

    def end_left(self) -> None:
        """Refuse calls from now on, and cancel what handlers still do after their time was over."""
        self.is_closed = True
        for task in list(self._left):
            with contextlib.suppress(RuntimeError):  # Its loop is closed.
                task.get_loop().call_soon_threadsafe(task.cancel)

    # For callers on a loop.

    async def call_async(
        self, call: Call, watching: AbstractContextManager[object] = _NOBODY
    ) -> InProcessRpc:
        """Run `call`. Cancelling this cancels an async handler, while which waits `watching` is entered."""
        if self.is_closed:
            return self._refused(InProcessRpc())
        if not call.hook.is_async:
            return await self._in_thread(call)
        state = self._service.state_of(call.hook)
        rpc = _InPlaceRpc()
        tracing = self._service.tracing
        now_s = time.monotonic()
        call.arrive(rpc if tracing is None else tracing.within(rpc, call), state, now_s)
        call.start = rpc.start
        admitted = state.enter(call)
        if admitted is None:
            self._service.failures.shed(call)
            return rpc
        if not admitted:
            try:
                with watching:
                    await rpc.turn()
            except CancelledError:
                if not state.drop(call):
                    self._leave(call)
                raise
            now_s = time.monotonic()
        try:
            call.deadline_s = now_s + state.timeout_s
            context = copy_context()
            coroutine = call.run_async() if tracing is None else tracing.run_async(call)
            try:
                first = context.run(coroutine.send, None)
            except StopIteration as done:
                # The most frequent case: nothing was waited for, and no timer is needed.
                if time.monotonic() > call.deadline_s:
                    self._service.failures.time_out(call)
                elif tracing is None:
                    rpc.answer(done.value)
                else:
                    call.rpc.respond(done.value)
            except HandlerFailed as error:
                self._fail(call, error)
            else:
                with watching:
                    await self._go_on(call, coroutine, context, first)
        finally:
            self._leave(call)
        return rpc

    def _fail(self, call: Call, error: HandlerFailed) -> None:
        if time.monotonic() > call.deadline_s:
            self._service.failures.time_out(call)
        else:
            self._service.failures.fail(call, error)

    async def _go_on(
        self, call: Call, coroutine: Coroutine[Any, Any, bytes], context: Context, first: Any
    ) -> None:
        """Run what is left of `coroutine`, which waits, in its context and for its time."""
        failures = self._service.failures
        limit = asyncio.timeout(call.gate.timeout_s)
        try:
            async with limit:
                reply = await _Rest(coroutine, context, first, limit, self._left)
        except HandlerFailed as error:
            self._fail(call, error)
        except TimeoutError:  # The limit's: one of the handler's own is a HandlerFailed.
            failures.time_out(call)
        except CancelledError:
            call.rpc.fail(ShuttingDown.status, "cancelled")
            raise
        else:
            if time.monotonic() > call.deadline_s:
                failures.time_out(call)
            else:
                call.rpc.respond(reply)

    async def _in_thread(self, call: Call) -> InProcessRpc:
        state = self._service.state_of(call.hook)
        rpc = _LoopRpc(asyncio.get_running_loop())
        self._arrive(call, rpc, state)
        admitted = state.enter(call)
        if admitted is None:
            self._service.failures.shed(call)
            return rpc
        if admitted:
            self._service.begin_elsewhere(call)
        try:
            await rpc.ended
        except CancelledError:
            state.drop(call)  # Else it would run, some time, for a client that is gone.
            raise
        return rpc

    # For callers in threads.

    def call(self, call: Call) -> InProcessRpc:
        """Run `call`, and return when it has ended."""
        if self.is_closed:
            return self._refused(InProcessRpc())
        state = self._service.state_of(call.hook)
        if call.hook.is_async:
            rpc = _ThreadRpc()
            self._arrive(call, rpc, state)
            admitted = state.enter(call)
            if admitted is None:
                self._service.failures.shed(call)
                return rpc
            if admitted:
                self._service.begin_elsewhere(call)
            while not rpc.wait(2 * state.timeout_s + _GRACE_S):
                # It has no limit while somebody debugs it.
                if call.deadline_s != math.inf:
                    state.drop(call)
                    self._service.failures.time_out(call)
                    break
            return rpc
        return self._in_this_thread(call)

    def _in_this_thread(self, call: Call) -> InProcessRpc:
        state, failures = self._service.state_of(call.hook), self._service.failures
        rpc = InProcessRpc()
        tracing = self._arrive(call, rpc, state)
        turn = threading.Lock()
        turn.acquire()  # Given back by `start`, from another thread: a semaphore, and cheaper than an Event.
        call.start = turn.release
        admitted = state.enter(call)
        if admitted is None:
            failures.shed(call)
            return rpc
        if not admitted and not turn.acquire(timeout=state.timeout_s):
            if not state.drop(call):
                self._leave(call)  # Its turn has come at this moment.
            failures.time_out(call)
            return rpc
        call.deadline_s = time.monotonic() + state.timeout_s
        try:
            # In a context of its own: what a handler sets there is no other call's.
            context = copy_context()
            reply = context.run(call.run) if tracing is None else context.run(tracing.run, call)
        except HandlerFailed as error:
            self._fail(call, error)
        else:
            if time.monotonic() > call.deadline_s:
                failures.time_out(call)
            else:
                call.rpc.respond(reply)
        finally:
            self._leave(call)
        return rpc

    def _arrive(self, call: Call, rpc: Rpc, state: HookState[Call]) -> CallTracing | None:
        """Bring `call` to its gate. Gives what traces it."""
        tracing = self._service.tracing
        call.arrive(rpc if tracing is None else tracing.within(rpc, call), state, time.monotonic())
        return tracing

    def _leave(self, call: Call) -> None:
        following = call.gate.leave(call, time.monotonic() - call.since_s)
        if following is not None:
            self._service.begin_elsewhere(following)

    @staticmethod
    def _refused(rpc: InProcessRpc) -> InProcessRpc:
        rpc.fail(ShuttingDown.status, "the handlers are closed")
        return rpc


class _Rest:
    """What is left of a coroutine that has begun to wait, in its context.

    Where its time is over and it waits once more, it goes on in a task of its own, and its caller does not
    wait for that.
    """

    __slots__ = ("_context", "_coroutine", "_first", "_left", "_limit")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, bytes],
        context: Context,
        first: Any,
        limit: asyncio.Timeout,
        left: set[asyncio.Task[Any]],
    ) -> None:
        self._coroutine = coroutine
        self._context = context
        self._first = first
        self._limit = limit
        self._left = left

    def __await__(self) -> Generator[Any, Any, bytes]:
        run, coroutine, waits_for = self._context.run, self._coroutine, self._first
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
                await _Rest(self._coroutine, self._context, waits_for, self._limit, self._left)

        task = asyncio.ensure_future(go_on())
        self._left.add(task)
        task.add_done_callback(self._left.discard)
