"""One request of Kong to the plugin server, until it is answered: an event, with the calls it makes back.

Kong waits for one answer at a time. It is owed by whoever takes the only item of `_owed`: the thread of the
plugin, which makes a PDK call of it or the end of the event, or the watchdog, which ends what takes too long.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn

from coprocess.api.context import current_call
from coprocess.bounded import form_of
from coprocess.errors import Status
from coprocess.gateways.kong import wire
from coprocess.gateways.kong.answers import UNSENDABLE, StepFailed, failure_data, unsendable
from coprocess.gateways.kong.connection import CHUNK_BYTES, Connection
from coprocess.gateways.kong.methods import Method
from coprocess.gateways.kong.turns import TURN_S, EventEnded, Turns
from coprocess.gateways.kong.wire import (
    HEAD,
    ID_ENDS,
    PACK_HEAD,
    PACK_TAIL,
    STEP_OF_NOTHING,
    STEP_OF_NOTHING_BYTES,
    TAIL,
    pack_head,
    pack_tail,
    shown,
)
from coprocess.transport.engine import Metadata, Rpc

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from coprocess.gateways.kong.engine import KongEngine

#: How long a step is waited for, where Kong may wait for a client.
CLIENT_WAIT_S: Final = 120.0
#: How long such a call is waited for where it was asked, before another thread watches for the step.
_MAY_WAIT_S: Final = 0.02

_VALUES: Final = wire.STEPS - {wire.STEP_ERROR}

_DATA: Final = b"\xc0\x82\xa4Data"

#: Held for a moment, where one of two threads is to be the first: seldom enough to be one for all events.
_lock: Final = threading.Lock()


class Event(Rpc):
    """`thread` is set by who runs it. `reader` has read the request, and goes on with the connection."""

    __slots__ = (
        "_head",
        "_is_released",
        "_owed",
        "_tail",
        "_turns",
        "argument",
        "connection",
        "detached",
        "engine",
        "id",
        "is_over",
        "phase",
        "reader",
        "reading",
        "thread",
        "waited_s",
        "waits_since_s",
    )

    def __init__(
        self,
        engine: KongEngine,
        connection: Connection,
        method: str,
        head: bytes,
        argument: Any,
        reader: int,
        event_id: int | None = None,
    ) -> None:
        """`head`: what the answer begins with. `event_id`: as Kong echoes it; None: it has no steps.

        `reader`: the thread.
        """
        self.phase = ""
        self.thread: int | None = None
        #: Of an async phase that has asked: its connection, for whoever reads the step. Empty: nobody does.
        self.reading: list[Connection] | None = None
        #: Nothing that its code does counts any more.
        self.is_over = False
        #: The connection is no longer this event's.
        self.detached = False
        #: How long Kong has let it wait for steps beyond the usual, and since when it does now.
        self.waited_s = 0.0
        self.waits_since_s: float | None = None
        self.engine = engine
        self.connection = connection
        self.method = method
        self._head = head
        self.argument = argument
        self.id = event_id
        #: What all answers of an event end with.
        if event_id is None:
            self._tail = b""
        else:
            self._tail = pack_tail(event_id) if event_id >> 32 else PACK_TAIL(TAIL, event_id)
        self.reader = reader
        self._owed = [True]
        #: Has what is owed, where it is there.
        self._turns: Turns | None = None
        #: For an event that its reader does not run: set by the reader when it leaves, or by who ends the
        #: event. Whoever comes second has the connection.
        self._is_released = False

    @property
    def payload(self) -> Any:
        return self  # The gateway opens calls from the event itself.

    # What plugins do.

    def ask(self, method: Method, arguments: tuple[Any, ...]) -> Any:
        """Have Kong run `method`: what it gives. Raises EventEnded where there is no event any more."""
        if get_ident() != self.thread:
            self._expect_own()
        owed = self._owed or self._shared_turns().wait(self)
        connection = self.connection
        try:
            packed = connection.pack(arguments)
        except UNSENDABLE as error:
            raise unsendable(method.name, arguments, error) from None
        try:
            owed.pop()
        except IndexError:  # Another thread was faster.
            return self.ask(method, arguments)
        # Another thread's call may have gone on elsewhere since it was packed.
        connection = self.connection
        try:
            frame = b"".join((self._head, method.head, packed, self._tail))
            if (sent := connection.write(frame)) != len(frame):
                connection.send_rest(frame, sent)
        except OSError as error:  # It is not sent, or in part alone: no step comes.
            return self.take_step(*self.engine.late.wait_after(self, error, may_wait=False))
        try:
            if method.is_usual:
                if connection.values or connection.is_within:
                    value = connection.receive()
                else:
                    data = connection.read(CHUNK_BYTES)
                    if len(data) <= STEP_OF_NOTHING_BYTES:
                        # Half of all calls give nothing, and to read a value takes long.
                        end = ID_ENDS.get(data[:3], 0)
                        if end and data[end:] == STEP_OF_NOTHING + self._tail:
                            self._head = b"\x94\x01" + data[2:end]
                            owed.append(True)
                            return self._refuse_step(owed) if self.is_over else None
                    value = connection.value_of(data)
            elif method.is_terminal:
                return self.end_by_call()
            elif not connection.has_something(_MAY_WAIT_S):
                return self.take_step(*self.engine.late.wait(self, may_wait=True))
            else:
                value = connection.receive()
        except BlockingIOError:
            return self.take_step(*self.engine.late.wait(self, may_wait=method.may_wait))
        except (OSError, wire.FrameError) as error:
            return self.take_step(*self.engine.late.wait_after(self, error, may_wait=method.may_wait))
        try:
            kind, message_id, step, (argument,) = value
            if argument["EventId"] == self.id and kind == 0 and type(message_id) is type(kind) is int:
                if step in _VALUES:
                    self._head = pack_head(message_id) if message_id >> 32 else PACK_HEAD(HEAD, message_id)
                    owed.append(True)
                    return self._refuse_step(owed) if self.is_over else argument.get("Data")
                if step.startswith(wire.STEP):
                    return self.take_step(connection, value)
        except (TypeError, ValueError, KeyError, AttributeError):
            pass
        return self.take_step(*self.engine.late.wait_after(self, value, may_wait=method.may_wait))

    def end_by_call(self) -> None:
        """Give the connection away after a call that ends the event: its code may go on, for long."""
        self.is_over = self.detached = True
        if self.id is not None:
            self.engine.events.pop(self.id, None)
        self.engine.resume_at_once(self.connection)

    async def ask_async(self, method: Method, arguments: tuple[Any, ...], *, is_last: bool = False) -> Any:
        """As `ask`, on an event loop. `is_last`: also where the event is closed to others."""
        self._expect_own()
        from coprocess.gateways.kong.async_steps import ask

        return await ask(self, method, arguments, is_last=is_last)

    def _expect_own(self) -> None:
        """Raises RuntimeError in the code of another event: what that asks for, its own request would lack.

        Threads of no event may be anybody's.
        """
        event = getattr(current_call.get(), "event", None)
        if event is not self and isinstance(event, Event):
            raise RuntimeError(
                "the kong of another request was asked. Expected: the kong that the phase is called with, "
                "and not one that was kept"
            )

    @property
    def is_asking(self) -> bool:
        """Whether Kong is asked now, so that nobody may ask, or answer."""
        return not self._all_owed and not self.is_over

    @property
    def _all_owed(self) -> list[bool]:
        return self._owed if self._turns is None else self._turns.owed

    def _shared_turns(self) -> Turns:
        with _lock:
            if self._turns is None:
                self._turns, self._owed = Turns(self._owed), []
            return self._turns

    @property
    def turns_of_tasks(self) -> asyncio.Lock | None:
        """To be held by who asks; None: nobody else does."""
        if self._turns is None and not self.is_asking:
            return None
        return self._shared_turns().of_tasks

    @property
    def is_closed_to_others(self) -> bool:
        return self._turns is not None and self._turns.is_closed

    def close_to_others(self) -> None:
        """Have its end wait for no more than the call that is on its way: those after it raise EventEnded.

        For the thread, or the task, of the phase itself, which may ask still.
        """
        self._shared_turns().is_closed = True

    def begin_asking(self, method: Method, arguments: tuple[Any, ...]) -> bytes:
        """Take over the answer that is owed: the frame to be sent for it. Raises TypeError, EventEnded."""
        if self.reading is None:
            self.reading = []
        owed = self._all_owed
        if not owed:
            raise EventEnded  # The connection is another's by now.
        try:
            packed = self.connection.pack(arguments)
        except UNSENDABLE as error:
            raise unsendable(method.name, arguments, error) from None
        try:
            owed.pop()
        except IndexError:
            raise EventEnded from None
        return b"".join((self._head, method.head, packed, self._tail))

    def is_own_step(self, value: Any) -> bool:
        try:
            return bool(value[3][0]["EventId"] == self.id and wire.parts_of(value)[1].startswith(wire.STEP))
        except (TypeError, KeyError, IndexError, wire.FrameError):
            return False

    def take_step(self, connection: Connection, value: Any) -> Any:
        """Go on with the step that came, on `connection`."""
        request = wire.request_of(value)
        self.connection, self._head, self.detached = connection, pack_head(request.id), False
        owed = self._all_owed
        owed.append(True)
        if self.is_over:
            self._refuse_step(owed)
        data = request.argument.get("Data")
        if request.method == wire.STEP_ERROR:
            raise StepFailed(data if isinstance(data, str) else form_of(data))
        return data

    def _refuse_now(self, connection: Connection) -> None:
        """Answer the step that is owed, without waiting for Kong to read."""
        connection.send_now(b"".join((self._head, _DATA, failure_data(self.phase), self._tail)))

    def _refuse_step(self, owed: list[bool]) -> NoReturn:
        """Answer a step that came when the event was over. Raises EventEnded.

        Asked for once it is owed: so this sees the end, or who ends it sees what is owed.
        """
        try:
            owed.pop()
        except IndexError:  # Who has ended it answers.
            raise EventEnded from None
        connection = self.connection
        self._refuse_now(connection)
        self.detached = True
        if self.id is not None:
            self.engine.events.pop(self.id, None)
        self.engine.resume(connection)
        raise EventEnded

    # What the service does.

    def respond(self, reply: bytes) -> None:
        try:
            self._owed.pop()
        except IndexError:
            if not self._take_last():
                self._end_unasked()
                return
            if self.is_over:
                reply = failure_data(self.phase)
        self._send(b"".join((self._head, b"\xc0" if self.id is None else _DATA, reply, self._tail)))
        if self.id is not None and self.thread == self.reader == get_ident():
            # As below, for nearly all.
            self.is_over = True
            self.engine.events.pop(self.id, None)
        else:
            self._finish()

    def _take_last(self) -> bool:
        """Take the answer that is owed where others of its threads ask, or its phase is at its end."""
        waits = self.reading is None and not self.is_over and get_ident() == self.thread
        if waits:
            self.close_to_others()
        while True:
            try:
                self._all_owed.pop()
            except IndexError:
                if not waits or self.is_over:
                    return False
                time.sleep(TURN_S)
            else:
                return True

    def fail(self, status: Status, message: str) -> None:
        if self.method != wire.HANDLE_EVENT:
            self._answer_error(message)
            return
        self.respond(failure_data(self.phase))

    def refuse_instance(self, instance_id: object) -> None:
        """Have Kong start its instances anew, and ask again."""
        self._answer_error(f"no plugin instance #{shown(instance_id)}")

    def _answer_error(self, message: str) -> None:
        try:
            self._owed.pop()
        except IndexError:
            return
        self._send(self._head + wire.pack(message) + b"\xc0")
        self._finish()

    def _send(self, frame: bytes) -> None:
        connection = self.connection
        if get_ident() != self.thread:
            # Of who answers in its place, as the watchdog, for which others wait.
            connection.send_now(frame)
            return
        try:
            connection.send(frame)
        except OSError:
            # Who holds it finds out.
            connection.end()

    def _finish(self) -> None:
        """The last answer is sent: give the connection to who goes on with it."""
        self.is_over = True
        if self.id is not None:
            self.engine.events.pop(self.id, None)
        thread = self.thread
        if thread is not None and get_ident() != thread:
            # The watchdog has answered for code that goes on.
            self.detached = True
            if thread == self.reader:
                self.engine.resume(self.connection)
                return
        elif thread == self.reader:
            return
        if self._is_second():
            self.engine.resume(self.connection)

    def _is_second(self) -> bool:
        with _lock:
            was_released, self._is_released = self._is_released, True
            return was_released

    def _end_unasked(self) -> None:
        """End an event that owes no answer now: it has exited, is lost, or waits for a step."""
        was_over, self.is_over = self.is_over, True
        if self.id is None:
            return
        if not was_over:
            try:
                self._all_owed.pop()
            except IndexError:
                pass
            else:  # Its step came at this moment.
                self._refuse_now(self.connection)
                self._finish()
                return
        # Where the loop reads, it may be blocked, or end: the step is another's to answer.
        held: Connection | None = None
        if self.reading:
            with suppress(IndexError):
                held = self.reading.pop()
        if held is not None or get_ident() == self.thread:
            # Who waits for the step goes on with the connection.
            self.detached = True
        self.engine.late.wake(self.id)
        if held is not None:  # `connection` is another by now, where the step came by that at this moment.
            with suppress(OSError):  # Its loop may have made it another kind, and be blocked for long.
                held.socket.setblocking(True)
            self.engine.resume(held)
        if get_ident() == self.thread:
            self.engine.events.pop(self.id, None)

    def release(self) -> Connection | None:
        """For its reader, when the handler has returned: the connection, where it is to go on with that."""
        if self.thread == self.reader:
            return None if self.detached else self.connection
        return self.connection if self._is_second() else None

    def may_block(self) -> None:
        """After the last answer, the connection goes to another thread: Kong's next event is not held up.

        Before it there is nothing to do, as each event has a thread of its own.
        """
        if self.is_over and not self.detached and get_ident() == self.thread == self.reader:
            self.detached = True
            self.engine.resume(self.connection)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        pass

    def metadata(self) -> Metadata:
        return ()

    def time_allowed_s(self) -> float | None:
        return None

    def held_up_s(self) -> float:
        since_s = self.waits_since_s
        if since_s is None:
            return self.waited_s
        # Who waits ends that itself, unless its loop is blocked.
        return self.waited_s + min(time.monotonic() - since_s, CLIENT_WAIT_S)
