"""Calls over a socket between the front process and a worker process: the frames, and the worker's engine.

A frame is a head, `<IQB`: length of the body, call id, kind; and the body. To a worker, the kind is the
index of the method, or CANCEL; WITH_DEADLINE and WITH_METADATA are added where the seconds that the client
still waits, and metadata, stand before the message, in this order. From it, the kind is the gRPC status, 0
with a reply, else with a message; READY, when it can take calls, and when its health changes; LISTENS before
the first READY, with the address at which it takes calls itself, where it does; or BEAT, each `BEAT_S`
seconds, with the longest time limit of its hooks: it comes as long as the worker's interpreter runs Python
code.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from coprocess.errors import Status
from coprocess.transport.cancellations import Cancellations
from coprocess.transport.engine import Engine, EngineOptions, Metadata, Methods, Rpc, too_large
from coprocess.transport.workers import WorkerThreads

HEAD = struct.Struct("<IQB")
SECONDS = struct.Struct("<d")
_LENGTH = struct.Struct("<H")
CANCEL = 255
READY = 254
#: The body of READY, where the worker has hooks.
SERVING = b"1"
BEAT = 253
LISTENS = 252
WITH_METADATA = 0x40
WITH_DEADLINE = 0x20
OK = 0

BEAT_S = 0.5

_CHUNK_BYTES = 256 * 1024

Frame = tuple[int, int, bytes]


class FrameSocket:
    """Frames over a connected stream socket. Sending may be done from any thread, receiving by one."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._send_lock = threading.Lock()
        self._received = bytearray()

    def send(self, call_id: int, kind: int, *body: bytes) -> None:
        """`body` may be in parts. Raises OSError where the other side is gone."""
        frame = b"".join((HEAD.pack(sum(map(len, body)), call_id, kind), *body))
        with self._send_lock:
            self._socket.sendall(frame)

    def receive(self) -> Frame | None:
        """The next frame: call id, kind, body. None where there will be no more."""
        received = self._received
        while True:
            if len(received) >= HEAD.size:
                length, call_id, kind = HEAD.unpack_from(received)
                end = HEAD.size + length
                if len(received) >= end:
                    body = bytes(memoryview(received)[HEAD.size : end])
                    del received[:end]
                    return call_id, kind, body
            try:
                chunk = self._socket.recv(_CHUNK_BYTES)
            except OSError:
                return None
            if not chunk:
                return None
            received += chunk

    @property
    def has_next(self) -> bool:
        """Whether `receive` has a frame without waiting for the other side."""
        received = self._received
        return len(received) >= HEAD.size and len(received) >= HEAD.size + HEAD.unpack_from(received)[0]

    def end(self) -> None:
        """End both directions; `receive` gives what has come, and then None."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """As `end`, for the last who uses it."""
        self.end()
        self._socket.close()


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
        limit = self._engine.max_message_bytes
        if len(reply) > limit:
            self._answer(Status.RESOURCE_EXHAUSTED, too_large("reply", len(reply), limit).encode())
        else:
            self._answer(OK, reply)

    def fail(self, status: Status, message: str) -> None:
        self._answer(status, message.encode("utf-8", "replace"))

    def _answer(self, kind: int, body: bytes) -> None:
        if self._open:
            self._open = False
            self._engine.answer(self._call_id, kind, body)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._engine.cancels.when_over(self._call_id, callback)

    def metadata(self) -> Metadata:
        # What the front passes on, and no more.
        return self._metadata

    def time_allowed_s(self) -> float | None:
        # At the deadline, the front also ends the call, and cancels it here.
        return self._allowed_s


class PipeEngine(Engine):
    """The engine of a worker process: calls come from the front, and not from a port."""

    name = "worker"

    def __init__(self, connected: socket.socket, paths: Sequence[str], options: EngineOptions) -> None:
        """`paths` are the unary methods that the front passes on, in its order."""
        self.max_message_bytes = options.max_message_bytes
        self.cancels = Cancellations()
        self._frames = FrameSocket(connected)
        self._paths = paths
        self._methods = Methods()
        self._options = options
        self._receive_lock = threading.Lock()
        self._on_end: Callable[[], None] = lambda: None
        self._is_announced = False
        self._stopped = threading.Event()
        #: The longest time limit of the hooks, for the front.
        self.longest_limit_s: Callable[[], float] = lambda: 0.0

    def listen(self, address: str) -> str:
        return address

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back when the front is gone, or wants no more of this worker."""
        self._on_end = callback

    def start(self, methods: Methods) -> None:
        self.use(methods)
        self._threads: WorkerThreads[_PipeRpc] = WorkerThreads(
            "worker",
            self._take,
            lambda rpc: self._methods.unary[rpc.method](rpc),
            minimum=self._options.min_threads,
            maximum=self._options.max_threads,
        )
        self._threads.start()

    def use(self, methods: Methods) -> None:
        self._methods = methods

    def announce_ready(self, serving: bool, addresses: Sequence[str] = ()) -> None:
        """Tell the front that calls can come, and whether there are hooks for them; again upon a change.

        From the first time on, the front hears that this process is alive. `addresses` are those that it
        listens on itself.
        """
        for address in addresses:
            self._frames.send(0, LISTENS, address.encode())
        self._frames.send(0, READY, SERVING if serving else b"")
        if not self._is_announced:
            self._is_announced = True
            # A thread of its own: all others may wait in handlers, and that is nothing to end a process for.
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # The front is gone.
            while True:
                self._frames.send(0, BEAT, SECONDS.pack(self.longest_limit_s()))
                if self._stopped.wait(BEAT_S):
                    return

    def _take(self) -> _PipeRpc | None:
        while True:
            # Whoever waits for a call reads it itself: no hand-over between threads.
            with self._receive_lock:
                frame = self._frames.receive()
            if frame is None:
                self._on_end()
                return None
            call_id, kind, body = frame
            if kind != CANCEL:
                metadata: Metadata = ()
                allowed_s: float | None = None
                if kind & WITH_DEADLINE:
                    kind -= WITH_DEADLINE
                    (allowed_s,) = SECONDS.unpack_from(body)
                    body = body[SECONDS.size :]
                if kind & WITH_METADATA:
                    kind -= WITH_METADATA
                    metadata, body = unpack_metadata(body)
                return _PipeRpc(self, call_id, self._paths[kind], body, metadata, allowed_s)
            self.cancels.is_over(call_id)

    def answer(self, call_id: int, kind: int, body: bytes) -> None:
        self.cancels.pop(call_id, None)
        try:
            self._frames.send(call_id, kind, body)
        except OSError:
            # The front is gone, and its clients with it.
            return

    def replace_thread(self, thread_id: int) -> bool:
        return self._threads.replace(thread_id)

    def stop(self) -> None:
        self._stopped.set()
        self._frames.close()

    @property
    def thread_count(self) -> int:
        return self._threads.count

    @property
    def abandoned_thread_count(self) -> int:
        return self._threads.abandoned
