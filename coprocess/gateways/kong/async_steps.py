"""How an async phase asks Kong: the event loop reads the step, and runs other events meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import Any, Final

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.connection import Connection
from coprocess.gateways.kong.event import CLIENT_WAIT_S, Event
from coprocess.gateways.kong.late_steps import Came
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
    asked = _Asked(event, method, loop)
    if len(frame) > _LARGE_BYTES:
        try:
            # Not one of the loop's own: the plugin's code may have them all, for long.
            threading.Thread(target=asked.send_apart, args=(frame,), name="kong-send", daemon=True).start()
        except RuntimeError as error:  # There can be no more.
            asked.is_sent(error)
            asked.go_on(error)
    else:
        asked.go_on(asked.send(frame))
    return await asked.outcome


async def settled(event: Event) -> None:
    """Until no other task of the event asks Kong."""
    while event.is_asking:  # noqa: ASYNC110 - it is set by threads, and seldom waited for
        await asyncio.sleep(TURN_S)


class _Asked:
    """What Kong is asked for a task. Its step is taken as it comes, also where the task was cancelled.

    Else nobody would answer Kong: a step that has been read is nobody else's. All of it runs on the loop,
    but for `put`, and what sends.
    """

    def __init__(self, event: Event, method: Method, loop: asyncio.AbstractEventLoop) -> None:
        self._event = event
        self._method = method
        self._loop = loop
        #: What Kong gives. Who waits for it may leave.
        self.outcome: asyncio.Future[Any] = loop.create_future()
        self._connection = event.connection
        #: By way of other threads, and not taken.
        self._came: deque[Came] = deque()
        # Taken by whoever reads next: this loop, or who ends the event, as the loop may be blocked.
        self._held: list[Connection] = []
        event.reading = self._held
        self._is_reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._since_s = 0.0
        self._is_done = False
        if not method.is_terminal:
            event.engine.late.expect(event, self.put, may_wait=method.may_wait)

    # From any thread.

    def send_apart(self, frame: bytes) -> None:
        failed = self.send(frame)
        with contextlib.suppress(RuntimeError):  # The loop is closed: its events are ended.
            self._loop.call_soon_threadsafe(self.go_on, failed)

    def send(self, frame: bytes) -> OSError | None:
        """Where it is not sent, or in part alone: why."""
        failed: OSError | None = None
        try:
            self._connection.send(frame)
        except OSError as error:
            failed = error
        self.is_sent(failed)
        return failed

    def is_sent(self, failed: Exception | None) -> None:
        """Let others have the connection from now on, as the loop may be blocked."""
        event = self._event
        if failed is not None:  # No step comes.
            event.engine.close(self._connection)
        elif self._method.is_terminal:
            event.end_by_call()
        else:
            self._held.append(self._connection)
            if event.is_over or self._is_done:  # Who ended it, or took its step, may not have seen that.
                with contextlib.suppress(IndexError):
                    self._held.pop()
                    event.engine.resume(self._connection)

    # On the loop.

    def go_on(self, failed: Exception | None) -> None:
        """After `is_sent`."""
        event = self._event
        if self._is_done:  # The step has come by another connection, or the event is over.
            return
        if failed is not None:
            event.detached = True
            self._give_up()
            return
        if self._method.is_terminal:
            self._end(None)
            return
        if event.is_over:
            self._give_up()
            return
        if self._method.may_wait:
            self._since_s = event.waits_since_s = time.monotonic()
            self._timer = self._loop.call_later(CLIENT_WAIT_S, self._give_up)
        try:
            self._loop.add_reader(self._connection.socket, self._read)
            self._is_reading = True
        except (OSError, ValueError):  # It is closed.
            with contextlib.suppress(IndexError):  # Who has ended the event finds that, too.
                self._held.pop()
                self._go_on_without(OSError("closed"))
            return
        if self._connection.values:
            self._read()

    def put(self, came: Came | None) -> None:
        """From any thread: a step that came by another way; None: none will."""
        if came is not None:
            self._came.append(came)
        try:
            self._loop.call_soon_threadsafe(self._give_up if came is None else self._arrived)
        except RuntimeError:  # The loop is closed.
            self._event.engine.late.lose(self._event)
        if self._event.is_over:
            # The loop may be blocked, for long: what it has not taken is answered here.
            with contextlib.suppress(IndexError, EventEnded):
                self._event.take_step(*self._came.popleft())

    def _arrived(self) -> None:
        try:
            came = self._came.popleft()
        except IndexError:  # Answered by another thread, as the event is over.
            self._give_up()
            return
        self._let_go(but=came[0])
        self._take(*came)

    def _read(self) -> None:
        try:
            self._held.pop()
        except IndexError:
            self._stop_reading()
            return
        try:
            value = self._connection.receive_now()
        except BlockingIOError:
            self._held.append(self._connection)
            if self._event.is_over:  # Who ended it has not seen that.
                self._let_go()
                self._give_up()
            return
        except (OSError, wire.FrameError) as error:
            self._go_on_without(error)
            return
        self._stop_reading()
        if self._event.is_own_step(value):
            self._take(self._connection, value)
        else:
            self._go_on_without(value)

    def _go_on_without(self, came: Any) -> None:
        """Without the connection, on which something else came: a value, or an error."""
        self._stop_reading()
        self._event.engine.late.let_go(self._event, came)
        if not self._method.may_wait:
            # Kong has ended this event, for an error in Lua.
            self._give_up()

    def _let_go(self, but: Connection | None = None) -> None:
        """Give the connection to others, where it is held still, and is not the one that goes on."""
        try:
            self._held.pop()
        except IndexError:
            return
        self._stop_reading()
        if self._connection is not but:
            self._event.engine.resume(self._connection)

    def _stop_reading(self) -> None:
        if not self._is_reading:
            return
        self._is_reading = False
        with contextlib.suppress(OSError, ValueError):
            self._loop.remove_reader(self._connection.socket)
            # Loops take it that they are not; threads wait on theirs.
            self._connection.socket.setblocking(True)

    def _take(self, connection: Connection, value: Any) -> None:
        if self._is_done:
            self._event.engine.resume_at_once(connection, value)
            return
        self._forget()
        try:
            given = self._event.take_step(connection, value)
        except BaseException as error:  # noqa: BLE001 - for who asked
            self._end(error)
        else:
            self._end(None, given)

    def _give_up(self) -> None:
        """No step will come, or its time is over: unless one has come at this moment."""
        if self._is_done or self._came:
            return
        self._let_go()
        self._forget()
        self._event.engine.late.lose(self._event)
        self._end(EventEnded())

    def _forget(self) -> None:
        self._is_done = True
        if self._held:  # It has been sent at this moment.
            self._let_go()
        event = self._event
        event.engine.late.forget(event)
        self._stop_reading()
        if self._timer is not None:
            self._timer.cancel()
            event.waited_s += time.monotonic() - self._since_s
            event.waits_since_s = None

    def _end(self, error: BaseException | None, given: Any = None) -> None:
        if self.outcome.done():  # Who asked has left.
            return
        if error is None:
            self.outcome.set_result(given)
        else:
            self.outcome.set_exception(error)
