"""Calls over a socket between the front process and a worker process: the frames, and the worker's engine.

To a worker, the kind of a frame is the index of the method, or CANCEL; WITH_DEADLINE and WITH_METADATA are
added where the seconds that the client still waits, and metadata, stand before the message, in this order;
COMES_LATER, where before all of it stands which line it waits in, as its connection asks for much.
From it, the kind is the gRPC status, 0 with a reply, else with a message; or one of these: READY, when it can
take calls, and after each load, with READY_BODY; LISTENS before the first READY, with the address at which
it takes calls itself, where it does; BEAT, each `BEAT_S` seconds, with the longest time limit of its hooks,
and for how long a call has waited for a thread: it comes as long as the worker's interpreter runs Python
code.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial

from coprocess.errors import Status
from coprocess.transport.cancellations import Cancellations
from coprocess.transport.engine import Engine, EngineOptions, Metadata, Methods, Rpc
from coprocess.transport.frame_link import Frame, FrameLink
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.turns import Turns
from coprocess.transport.message_limit import too_large
from coprocess.transport.workers import WorkerThreads

SECONDS = struct.Struct("<d")
#: Of BEAT.
BEAT_BODY = struct.Struct("<dd")
_LENGTH = struct.Struct("<H")
CANCEL = 255
READY = 254
#: How many hooks serve; and what is wrong with the handlers, as a number of problems.
READY_BODY = struct.Struct("<II")
BEAT = 253
LISTENS = 252
WITH_METADATA = 0x40
WITH_DEADLINE = 0x20
#: The least of what is added: a gateway has fewer methods.
COMES_LATER = 0x10
#: The lines of connections: so many.
LINES = 256
OK = 0

BEAT_S = 0.5


def pack_metadata(metadata: Sequence[tuple[str, str]]) -> bytes:
    """Metadata as it stands before a message: its length, `<H`, and names and values, each ended by a NUL.

    It has 65,535 bytes at most, as an engine lets in less.
    """
    packed = "".join(f"{name}\0{value}\0" for name, value in metadata).encode()
    return _LENGTH.pack(len(packed)) + packed


def unpack_metadata(body: bytes) -> tuple[Metadata, bytes]:
    """The metadata, and the message after it: the inverse of `pack_metadata`."""
    (length,) = _LENGTH.unpack_from(body)
    end = _LENGTH.size + length
    words = body[_LENGTH.size : end].decode().split("\0")
    return list(zip(words[0::2], words[1::2], strict=False)), body[end:]


def pack_call(
    method: int, allowed_s: float | None, metadata: Sequence[tuple[str, str]], line: int | None = None
) -> tuple[int, bytes]:
    """The kind of a call's frame, and what stands before its message. `line` None: it waits in none."""
    kind, before = method, b""
    if line is not None:
        kind |= COMES_LATER
        before = bytes((line,))
    if allowed_s is not None:
        kind |= WITH_DEADLINE
        before += SECONDS.pack(allowed_s)
    if metadata:
        kind |= WITH_METADATA
        before += pack_metadata(metadata)
    return kind, before


class _PipeRpc(Rpc):
    __slots__ = ("_allowed_s", "_call_id", "_engine", "_metadata", "_open")

    def __init__(
        self,
        engine: PipeEngine,
        call_id: int,
        method: str,
        payload: bytes,
        metadata: Metadata,
        allowed_s: float | None,
    ) -> None:
        self._engine = engine
        self._call_id = call_id
        self._open = True
        self._metadata = metadata
        self._allowed_s = allowed_s
        self.method = method
        self.payload = payload

    def respond(self, reply: bytes) -> None:
        engine = self._engine
        if len(reply) > engine.max_message_bytes:
            self.fail(Status.RESOURCE_EXHAUSTED, too_large("reply", len(reply), engine.max_message_bytes))
        elif self._open:
            self._open = False
            engine.answer(self._call_id, OK, reply)

    def fail(self, status: Status, message: str) -> None:
        if self._open:
            self._open = False
            self._engine.answer(self._call_id, status, message.encode("utf-8", "replace"))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._engine.cancels.when_over(self._call_id, callback)

    def may_block(self) -> None:
        self._engine.may_block()

    def metadata(self) -> Metadata:
        # What the front passes on, and no more.
        return self._metadata

    def time_allowed_s(self) -> float | None:
        # At the deadline, the front also ends the call, and cancels it here.
        return self._allowed_s


class PipeEngine(Engine):
    """The engine of a worker process: calls come from the front, and not from a port.

    As in the http2 engine, the thread that reads them runs the quick ones.
    """

    name = "worker"

    def __init__(self, connected: socket.socket, paths: Sequence[str], options: EngineOptions) -> None:
        """`paths` are the unary methods that the front passes on, in its order."""
        self.max_message_bytes = options.max_message_bytes
        self.cancels = Cancellations()
        self._paths = paths
        self._methods = Methods()
        self._options = options
        self._server = Server({}, Limits())
        self._server.open()
        self._turns: Turns[_PipeRpc] = Turns(self._server, self._run, _no_call(self))
        self._tasks = self._turns.tasks
        self._later = self._turns.later
        #: Of calls that come later: those of each line, which they stand in for their connections.
        self._lines: defaultdict[int, deque[_PipeRpc]] = defaultdict(deque)
        self.may_block = self._turns.may_block
        self._link = FrameLink(self._server, connected, self._receive, self._front_is_gone)
        self._send = self._link.send
        self._threads: WorkerThreads[_PipeRpc] | None = None
        self._on_end: Callable[[], None] = lambda: None
        self._is_announced = False
        #: Calls, perhaps among those that wait for a thread.
        self._given_up = 0
        self._stopped = threading.Event()
        #: The longest time limit of the hooks, for the front.
        self.longest_limit_s: Callable[[], float] = lambda: 0.0

    def listen(self, address: str) -> str:
        return address

    @property
    def is_left(self) -> bool:
        """Whether the front is gone, or wants no more of this worker."""
        return self._stopped.is_set()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back when the front is gone, or wants no more of this worker."""
        self._on_end = callback

    def start(self, methods: Methods) -> None:
        self.use(methods)
        self._threads = WorkerThreads(
            "worker",
            self._turns.take,
            self._run,
            minimum=self._options.min_threads,
            maximum=self._options.max_threads,
            spare=1,  # The one that reads.
        )
        self._turns.start(self._threads)
        self._threads.start()

    def use(self, methods: Methods) -> None:
        self._methods = methods

    def announce_ready(self, hooks: int, problems: int = 0, addresses: Sequence[str] = ()) -> None:
        """Tell the front that calls can come, and how many `hooks` serve them; again after each load.

        `problems`: so much is wrong with the handlers that serve.

        From the first time on, the front hears that this process is alive. `addresses` are those that it
        listens on itself.
        """
        for address in addresses:
            self._link.send(0, LISTENS, address.encode(), keep=True)
        self._link.send(0, READY, READY_BODY.pack(hooks, problems), keep=True)
        if not self._is_announced:
            self._is_announced = True
            # A thread of its own: all others may wait in handlers, and that is nothing to end a process for.
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        waits: _PipeRpc | None = None
        since_s = time.monotonic()
        while not self._stopped.is_set():
            try:
                first = (self._tasks or self._later.lines[0])[0]
            except IndexError:
                first = None
            if first is not waits or first is None:
                waits, since_s = first, time.monotonic()
            waited_s = time.monotonic() - since_s
            self._link.send(0, BEAT, BEAT_BODY.pack(self.longest_limit_s(), waited_s), keep=True)
            self._stopped.wait(BEAT_S)

    def _receive(self, frames: list[Frame]) -> None:
        paths, tasks = self._paths, self._tasks
        for call_id, kind, body in frames:
            if kind < COMES_LATER:
                tasks.append(_PipeRpc(self, call_id, paths[kind], body, (), None))
                continue
            if kind == CANCEL:
                # It calls back, and the server's lock is held here.
                self._server.callbacks.append(partial(self._give_up, call_id))
                continue
            metadata: Metadata = ()
            allowed_s: float | None = None
            line: deque[_PipeRpc] | None = None
            if kind & COMES_LATER:
                kind -= COMES_LATER
                line, body = self._lines[body[0]], body[1:]
            if kind & WITH_DEADLINE:
                kind -= WITH_DEADLINE
                (allowed_s,) = SECONDS.unpack_from(body)
                body = body[SECONDS.size :]
            if kind & WITH_METADATA:
                kind -= WITH_METADATA
                metadata, body = unpack_metadata(body)
            rpc = _PipeRpc(self, call_id, paths[kind], body, metadata, allowed_s)
            if line is None:
                tasks.append(rpc)
            else:
                self._later.put(line, rpc)

    def _give_up(self, call_id: int) -> None:
        """Nobody waits for a call any more. Those that wait for a thread do not become too many."""
        self.cancels.is_over(call_id)
        self._given_up += 1
        if self._given_up < _MOST_GIVEN_UP:
            return
        self._given_up = 0
        over = self.cancels.over
        with self._server.lock:
            dropped = self._turns.drop(lambda rpc: rpc._call_id in over)
        for rpc in dropped:
            self._refuse_given_up(rpc)

    @staticmethod
    def _refuse_given_up(rpc: _PipeRpc) -> None:
        rpc.fail(Status.CANCELLED, "the client gave up")

    def _front_is_gone(self) -> None:
        self._stopped.set()
        # Its clients are, too: nothing is left to drain for, but where it wants no more of this worker.
        self.cancels.all_are_over()
        self._on_end()

    def _run(self, rpc: _PipeRpc) -> None:
        if not rpc.method:
            return
        if rpc._call_id in self.cancels.over:
            self._refuse_given_up(rpc)  # While it waited for a thread.
            return
        self._methods.unary[rpc.method](rpc)

    def answer(self, call_id: int, kind: int, body: bytes) -> None:
        if self.cancels:
            self.cancels.pop(call_id, None)
        # Where no more calls came with it, it waits for nothing else.
        self._send(call_id, kind, body, keep=True, at_once=not (self._tasks or self._later.lines))

    def replace_thread(self, thread_id: int) -> bool:
        return self._threads is not None and self._threads.replace(thread_id)

    def stop(self) -> None:
        self._stopped.set()
        if self._turns.stop(_FLUSH_S):
            self._link.close()
            self._server.close()
        else:
            self._link.end()  # Somebody polls it still, and lets it go when the process ends.

    @property
    def thread_count(self) -> int:
        return 0 if self._threads is None else min(self._threads.count, self._options.max_threads)

    @property
    def abandoned_thread_count(self) -> int:
        return 0 if self._threads is None else self._threads.abandoned


def _no_call(engine: PipeEngine) -> _PipeRpc:
    return _PipeRpc(engine, 0, "", b"", (), None)


#: Each may have a large message.
_MOST_GIVEN_UP = 16
_FLUSH_S = 1.0
