"""What `AsyncCalls` runs as tasks of the loop: coroutines as Python makes them, also where it is compiled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from coprocess.errors import HandlerFailed
from coprocess.runtime import prints

if TYPE_CHECKING:
    from coprocess.runtime.async_calls import AsyncCalls
    from coprocess.runtime.call import Call
    from coprocess.runtime.loop import LoopThread
    from coprocess.runtime.spare_task import SpareTask


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
