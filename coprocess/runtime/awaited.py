"""What of an async call waits: its coroutines, as Python makes them, also where calls are compiled.

asyncio, and who looks at a coroutine that waits, ask for more than a compiled one has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from concurrent.futures import Future
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from coprocess.api.context import current_call
from coprocess.errors import HandlerFailed
from coprocess.runtime import prints, unawaited
from coprocess.runtime.forked import end_child, origin

if TYPE_CHECKING:
    from coprocess.runtime.async_calls import AsyncCalls
    from coprocess.runtime.call import Call
    from coprocess.runtime.loop import LoopThread
    from coprocess.runtime.spare_task import SpareTask


class Begun:
    """A coroutine that has begun, and waits for `waits_for`: what comes of it, to be awaited."""

    __slots__ = ("_coroutine", "_waits_for", "is_closed")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        #: Whoever waited for it was closed, and not what it raised: its loop runs no more.
        self.is_closed = False

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waits_for = self._coroutine, self._waits_for
        while True:
            try:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    self.is_closed = True
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - passed on
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(sent)
            except StopIteration as done:
                return done.value


def is_cancelled() -> bool:
    """Whether somebody ends this task: else a CancelledError is of the handler's making, and fails it."""
    return (task := asyncio.current_task()) is not None and bool(task.cancelling())


async def any_awaitable(awaitable: Any) -> Any:
    return await awaitable


def begin(call: Call) -> bytes | None:
    """Run an async handler as far as it goes without waiting, in this context, which is the call's own.

    None where it waits: then `rest` has what is left.
    """
    # In Python, as an exception ends each coroutine: what is compiled would write a traceback for that.
    current_call.set(call)
    try:
        hook = call.hook
        result = hook.function(*hook.plan.arguments(call))
        if type(result) is CoroutineType or hasattr(result, "__await__"):
            if type(result) is not CoroutineType:
                result = any_awaitable(result)
            try:
                waits_for = result.send(None)
            except StopIteration as done:
                result = done.value
            else:
                call.begun = Begun(result, waits_for)
                return None
        if result is not None:
            hook.plan.accept(call, result)
        if unawaited.has_any:
            unawaited.expect_awaited(call)
        return call.finish()
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        return call.ended_by(error)
    except BaseException as error:  # noqa: BLE001 - as in `Call.run`
        return call.ended_by(error)
    finally:
        if origin.call is call:
            end_child()


async def rest(call: Call) -> bytes:
    """What is left of a call that has begun, and waits."""
    begun = call.begun
    try:
        result = await begun
        if result is not None:
            call.hook.plan.accept(call, result)
        if unawaited.has_any:
            unawaited.expect_awaited(call)
        return call.finish()
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        return call.ended_by(error)
    except BaseException as error:
        if begun.is_closed:
            raise  # Of a loop that was given up: nobody waits.
        return call.ended_by(error)
    finally:
        if origin.call is call:
            end_child()


async def run(call: Call) -> bytes:
    """Begin, and go on until it has ended."""
    reply = begin(call)
    return await rest(call) if reply is None else reply


async def run_admitted(calls: AsyncCalls, call: Call, rest: Awaitable[bytes] | None = None) -> None:
    """Run and answer an admitted call. `rest`: what is left of one that has begun."""
    if rest is None and not call.gate.holds(call):
        return  # Its time was over before the loop came to it.
    try:
        try:
            reply = await (calls.running(call) if rest is None else rest)
        except (HandlerFailed, asyncio.CancelledError) as error:
            calls.end_badly(call, error)
        else:
            call.rpc.respond(reply)
    except Exception as error:  # noqa: BLE001 - else its place would stay taken for ever
        calls.failures.fail_within(call, error)
    finally:
        if prints.has_printed:
            prints.end_line()
    calls.leave(call)


async def go_on(calls: AsyncCalls, spare: SpareTask) -> None:
    """As a task that is no more spare."""
    rest, spare.rest = spare.rest, None
    if rest is not None:
        await run_admitted(calls, spare.owner, rest)


async def run_spawned(loop: LoopThread, coroutine: Coroutine[Any, Any, Any], outcome: Future[Any]) -> None:
    """Run `coroutine` in a task of `loop`. Who cancels `outcome` cancels it."""
    task = asyncio.current_task()
    outcome.add_done_callback(lambda done: _cancel_with(done, loop, task))
    try:
        result = await coroutine
    except BaseException as error:  # noqa: BLE001 - passed on
        if outcome.set_running_or_notify_cancel():
            outcome.set_exception(error)
    else:
        if outcome.set_running_or_notify_cancel():
            outcome.set_result(result)


def _cancel_with(outcome: Future[Any], loop: LoopThread, task: asyncio.Task[Any] | None) -> None:
    if outcome.cancelled() and task is not None:
        loop.cancel(task)
