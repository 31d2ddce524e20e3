"""How an async phase asks Kong: the event loop reads the step, and runs other events meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.connection import Connection
from coprocess.gateways.kong.event import CLIENT_WAIT_S, Event
from coprocess.gateways.kong.methods import Method
from coprocess.gateways.kong.turns import TURN_S, EventEnded

#: What is larger is sent by a thread: Kong may be slow to take it.
_LARGE_BYTES: Final = 32 * 1024


async def ask(event: Event, method: Method, arguments: tuple[Any, ...], *, is_last: bool) -> Any:
    """As `Event.ask_async`."""
    turns = event.turns_of_tasks
    if turns is None:
        return await _ask(event, method, arguments)
    async with turns:
        await settled(event)
        if event.is_closed_to_others and not is_last:
            raise EventEnded
        return await _ask(event, method, arguments)


async def _ask(event: Event, method: Method, arguments: tuple[Any, ...]) -> Any:
    frame = event.begin_asking(method, arguments)
    loop = asyncio.get_running_loop()
    steps = _Steps(loop, event.engine.resume_at_once)
    with event.engine.late.expecting(event, steps.put):
        connection = event.connection
        try:
            if len(frame) > _LARGE_BYTES:
                await loop.run_in_executor(None, connection.send, frame)
            else:
                connection.send(frame)
            if method.is_terminal:
                event.end_by_call()
                return None
            came = await _read(event, steps, loop, may_wait=method.may_wait)
        except (OSError, wire.FrameError) as error:
            came = error
        if came is not None and not isinstance(came, tuple):
            event.engine.late.let_go(event, came)
            came = await _wait(event, steps.came) if method.may_wait else None
        if came is None:
            event.engine.late.lose(event)
            raise EventEnded
        return event.take_step(*came)


async def settled(event: Event) -> None:
    """Until no other task of the event asks Kong."""
    while event.is_asking:  # noqa: ASYNC110 - it is set by threads, and seldom waited for
        await asyncio.sleep(TURN_S)


class _Steps:
    """What comes for a task: a connection and the step that came on it; None: nothing will."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pass_on: Callable[[Connection, Any], None]) -> None:
        self._loop = loop
        self._pass_on = pass_on
        self.came: asyncio.Future[Any] = loop.create_future()

    def put(self, came: Any) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            self._loop.call_soon_threadsafe(self.set, came)

    def set(self, came: Any) -> None:
        if not self.came.done():
            self.came.set_result(came)
        elif isinstance(came, tuple):
            self._pass_on(*came)


async def _wait(event: Event, came: asyncio.Future[Any]) -> Any:
    """What comes in the time that a client may take, which is not the event's own; else None."""
    event.waits_since_s = since_s = time.monotonic()
    try:
        async with asyncio.timeout(CLIENT_WAIT_S):
            return await asyncio.shield(came)
    except TimeoutError:
        return None
    finally:
        event.waited_s += time.monotonic() - since_s
        event.waits_since_s = None


async def _read(event: Event, steps: _Steps, loop: asyncio.AbstractEventLoop, *, may_wait: bool) -> Any:
    """The step and its connection; or what came instead, a value or an error; None: the event is over."""
    connection = event.connection
    # Taken by whoever reads next: this loop, or the watchdog, when the loop is blocked.
    event.reading = reading = [True]
    came: asyncio.Future[Any] = loop.create_future()

    def read() -> None:
        try:
            reading.pop()
        except IndexError:
            loop.remove_reader(connection.socket)
            return
        try:
            value = connection.receive_now()
        except BlockingIOError:
            reading.append(True)
            return
        except (OSError, wire.FrameError) as error:
            value = error
        loop.remove_reader(connection.socket)
        if not came.done():
            came.set_result((connection, value) if event.is_own_step(value) else value)

    def put(done: asyncio.Future[Any]) -> None:
        if not came.done() and not done.cancelled():
            came.set_result(done.result())

    # By another thread, where Kong took another connection.
    steps.came.add_done_callback(put)
    loop.add_reader(connection.socket, read)
    if connection.values:
        read()
    try:
        return await (_wait(event, came) if may_wait else came)
    finally:
        with contextlib.suppress(OSError, ValueError):
            loop.remove_reader(connection.socket)
            # Loops take it that they are not; threads wait on theirs.
            connection.socket.setblocking(True)
