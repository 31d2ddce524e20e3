"""What of an async call waits: its coroutines, as Python makes them, also where calls are compiled.

asyncio, and who looks at a coroutine that waits, ask for more than a compiled one has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from coprocess.api.context import current_call
from coprocess.runtime import unawaited
from coprocess.runtime.forked import end_child, origin

if TYPE_CHECKING:
    from coprocess.runtime.call import Call


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
