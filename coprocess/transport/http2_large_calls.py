"""Calls with large messages, one at a time: to read such a message, and to write one, takes all others' time.

It needs the interpreter for milliseconds, and memory that the next one could have: new memory takes the
system longer than all else. So many at one time would take more than one after the other, and hold up calls
that are quick at each of their steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from coprocess.transport.http2.server import Server
from coprocess.transport.http2.waiting import FairQueue
from coprocess.transport.http2_calls import Http2Rpc


class LargeCalls:
    """Each has its turn from unpacking to its reply, and no longer than its size explains.

    One that takes longer has a handler that waits for something: the next begins beside it.
    """

    def __init__(
        self,
        server: Server,
        handle: Callable[[Http2Rpc], None],
        put_task: Callable[[Callable[[], None]], None],
        may_block: Callable[[], None],
    ) -> None:
        """`handle` runs a call, `put_task` something in another thread; `may_block`: this takes long."""
        self._server = server
        self._handle = handle
        self._put_task = put_task
        self._may_block = may_block
        self._waiting: FairQueue[Http2Rpc] = FairQueue()
        self._turn = threading.Semaphore(1)

    def add(self, rpc: Http2Rpc) -> None:
        """Run it in its turn, which may be now."""
        self._waiting.put(rpc.protocol.large_line, rpc)
        self._run_next()

    def drop(self, is_over: Callable[[Http2Rpc], bool]) -> None:
        """Take out what need not be run any more. With the server's lock."""
        for rpc in self._waiting.drop(is_over):
            rpc.protocol.read_on()

    def _run_next(self) -> None:
        """Run those that wait, in this thread: another for each would take more than they do."""
        while self._waiting.lines and self._turn.acquire(blocking=False):
            turn = [self._turn]
            try:
                rpc = self._take()
                if rpc is not None and self._is_ready(rpc):
                    self._bound(turn, len(rpc.payload))
                    self._handle(rpc)
                    if not self._end(turn):  # Another goes on with them.
                        return
            finally:
                self._end(turn)

    def _take(self) -> Http2Rpc | None:
        rpc = self._waiting.take_one()
        if rpc is not None and rpc.protocol.is_held_up:
            with self._server.lock:
                rpc.protocol.read_on()
        return rpc

    def _is_ready(self, rpc: Http2Rpc) -> bool:
        """Whether it is to be run, once it is unpacked where it must be."""
        if rpc.is_over:
            return False
        self._may_block()
        return not rpc.is_compressed or rpc.unpack()

    def _bound(self, turn: list[threading.Semaphore], size_bytes: int) -> None:
        """Have the turn end in time, also where the handler takes long."""
        if size_bytes <= LARGE_BYTES:
            self._end(turn)
            if self._waiting.lines:
                self._put_task(self._run_next)
            return
        with self._server.lock:
            self._server.call_later(size_bytes * _BYTE_S, self._end_overdue, turn)
        self._server.wake()

    def _end(self, turn: list[threading.Semaphore]) -> bool:
        """False where it has ended before."""
        try:
            turn.pop().release()
        except IndexError:
            return False
        return True

    def _end_overdue(self, turn: list[threading.Semaphore]) -> None:
        """By who polls, with the server's lock."""
        if self._end(turn):
            self._server.callbacks.append(partial(self._put_task, self._run_next))


#: Reading a message of that size takes long already.
LARGE_BYTES = 128 * 1024
#: What a byte takes a quick handler, and all that reads it and writes its reply: a generous 2 ms a MiB.
_BYTE_S = 2e-9
