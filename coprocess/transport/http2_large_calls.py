"""Calls with large messages, one at a time: to read such a message, and to write one, takes all others' time.

It needs the interpreter for milliseconds, and memory that the next one could have: new memory takes the
system longer than all else. So many at one time would take more than one after the other, and hold up calls
that are quick at each of their steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.waiting import FairQueue
from coprocess.transport.http2_calls import Http2Rpc

#: What the call that runs keeps from others. Whoever empties it gives that back.
_Turn = list[threading.Semaphore]
#: A call, and how many bytes its connection's window is smaller by until it is taken.
_Waiting = tuple[Http2Rpc, int]


class LargeCalls:
    """Each has its turn until its handler returns, and no longer than its size explains.

    One that takes longer has a handler that waits for something: the next begins beside it. Those that are
    large as they come wait for the handlers of others, and not for what is unpacked.
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
        self._waiting: FairQueue[_Waiting] = FairQueue()
        self._turn = threading.Semaphore(1)
        #: Those that are to be unpacked.
        self._packed: FairQueue[_Waiting] = FairQueue()
        self._unpacking = threading.Semaphore(1)

    def add(self, rpc: Http2Rpc) -> None:
        """Run it in its turn, which may be now. Until then its client may send so much less."""
        protocol, size_bytes = rpc.protocol, len(rpc.payload)
        with self._server.lock:
            protocol.keep_back(size_bytes)
        if rpc.is_compressed:
            self._packed.put(protocol.packed_line, (rpc, size_bytes))
            self._unpack_next()
        else:
            self._waiting.put(protocol.large_line, (rpc, size_bytes))
            self._run_next()

    def drop(self, is_over: Callable[[Http2Rpc], bool]) -> None:
        """Take out what need not be run any more. With the server's lock."""
        for queue in (self._packed, self._waiting):
            for rpc, kept_back_bytes in queue.drop(lambda waiting: is_over(waiting[0])):
                rpc.protocol.keep_back(-kept_back_bytes)
                self._server.write_later(rpc.protocol)

    def _take(self, queue: FairQueue[_Waiting]) -> Http2Rpc | None:
        """The next that is to be run."""
        waiting = queue.take_one()
        if waiting is None:
            return None
        rpc, kept_back_bytes = waiting
        if kept_back_bytes:
            protocol = rpc.protocol
            self._server.answer(protocol, Http2Protocol.keep_back, protocol, -kept_back_bytes)
        if rpc.is_over:
            return None
        self._may_block()
        return rpc

    def _run_next(self) -> None:
        """Run those that wait, in this thread: another for each would take more than they do."""
        while self._waiting.lines and self._turn.acquire(blocking=False):
            turn = [self._turn]
            try:
                rpc = self._take(self._waiting)
                goes_on = rpc is None or self._run(rpc, turn)
            except BaseException:
                self._pass_on(turn)
                raise
            self._end(turn)
            if not goes_on:
                return

    def _unpack_next(self) -> None:
        """Unpack those that wait for it, and run each where it can be run now: not beside the next."""
        while self._packed.lines and self._unpacking.acquire(blocking=False):
            turn = [self._unpacking]
            try:
                rpc = self._take(self._packed)
                goes_on = rpc is None or not rpc.unpack() or self._run_unpacked(rpc, turn)
            except BaseException:
                self._pass_on(turn)
                raise
            self._end(turn)
            self._run_next()
            if not goes_on:
                return

    def _run_unpacked(self, rpc: Http2Rpc, turn: _Turn) -> bool:
        """As `_run`, where it is large: now, or after the one that runs. Else others go on beside it."""
        if len(rpc.payload) <= LARGE_BYTES:
            self._pass_on(turn)
            self._handle(rpc)
            return False
        if not self._turn.acquire(blocking=False):
            self._waiting.put(rpc.protocol.large_line, (rpc, 0))
            return True
        turn.append(self._turn)
        return self._run(rpc, turn)

    def _run(self, rpc: Http2Rpc, turn: _Turn) -> bool:
        """False where its turn was over before it was, as the handler took long."""
        with self._server.lock:
            self._server.call_later(len(rpc.payload) * _BYTE_S, self._end_overdue, turn)
        self._server.wake()
        self._handle(rpc)
        return self._end(turn)

    def _pass_on(self, turn: _Turn) -> None:
        """End it here, and have other threads go on, whatever this one does."""
        self._end(turn)
        self._go_on()

    def _end_overdue(self, turn: _Turn) -> None:
        """By who polls, with the server's lock."""
        if self._end(turn):
            self._server.callbacks.append(self._go_on)

    def _end(self, turn: _Turn) -> bool:
        """False where it has ended before."""
        has_turn = False
        while turn:
            try:
                kept = turn.pop()
            except IndexError:  # By another thread, at this moment.
                break
            kept.release()
            has_turn = True
        return has_turn

    def _go_on(self) -> None:
        """Have other threads run those that wait."""
        if self._packed.lines:
            self._put_task(self._unpack_next)
        if self._waiting.lines:
            self._put_task(self._run_next)


#: Reading a message of that size takes long already.
LARGE_BYTES = 128 * 1024
#: What a byte takes a quick handler, and all that reads it and writes its reply: a generous 2 ms a MiB.
_BYTE_S = 2e-9
