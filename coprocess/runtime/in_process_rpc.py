"""Who waits for the end of a call in this process: in a thread, on a loop, or running it itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import ClassVar

from mypy_extensions import mypyc_attr

from coprocess.errors import Status
from coprocess.transport.engine import Metadata, Rpc


@mypyc_attr(allow_interpreted_subclasses=True)
class InProcessRpc(Rpc):
    """Keeps how a call ended: with `failure`, or where that is None, with `reply`."""

    __slots__ = ("failure", "is_over", "reply")

    #: One for all: it is held for a moment, and each call would make one. A forked process has its own, as
    #: that of its parent may be held for ever there; and a collection within it may end another call.
    _lock: ClassVar[threading.RLock] = threading.RLock()

    failure: tuple[Status, str] | None

    def __init__(self) -> None:
        self.method, self.payload, self.reply = "", b"", b""
        self.is_over, self.failure = False, None

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


def _renew_lock() -> None:
    InProcessRpc._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


@mypyc_attr(allow_interpreted_subclasses=True)
class ThreadRpc(InProcessRpc):
    """For a caller in a thread: `wait` ends when the call does."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        super().__init__()
        self._ended = threading.Event()

    def _wake(self) -> None:
        self._ended.set()

    def wait(self, timeout_s: float) -> bool:
        return self._ended.wait(timeout_s)


class LoopRpc(InProcessRpc):
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


class HereRpc(InProcessRpc):
    """For a caller that runs the call itself, when it is its turn."""

    __slots__ = ("_has_turn", "_tell")

    def __init__(self) -> None:
        super().__init__()
        self._has_turn = False
        self._tell: Callable[[], object] | None = None

    def start(self) -> None:
        """It is its turn. For any thread."""
        with self._lock:
            self._has_turn, tell = True, self._tell
        if tell is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                tell()

    def _has_to_wait(self, tell: Callable[[], object]) -> bool:
        with self._lock:
            self._tell = tell
            return not self._has_turn

    async def turn(self) -> None:
        """Wait for it on a loop."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if self._has_to_wait(lambda: loop.call_soon_threadsafe(_done, turn)):
            await turn

    def wait_for_turn(self, timeout_s: float) -> bool:
        """Wait for it in a thread. False where it has not come."""
        turn = threading.Lock()
        turn.acquire()  # Given back from another thread: a semaphore, and cheaper than an Event.
        return not self._has_to_wait(turn.release) or turn.acquire(timeout=timeout_s)
