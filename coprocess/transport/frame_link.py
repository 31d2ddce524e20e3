"""Frames between the front process and a worker process: read by the thread that polls, and sent in batches.

All that one read brings is handed over at once, and all that is sent before the next poll goes by one write.
So neither side needs a thread more for them, and sending waits for nothing, whatever the other side does.

A frame is a head, `<IQB`: length of the body, call id, kind; and the body. See `pipe` for the kinds.
"""

from __future__ import annotations

import contextlib
import fcntl
import selectors
import socket
import struct
import termios
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import islice

import structlog

from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.waiting import FairQueue

log = structlog.get_logger("coprocess")

HEAD = struct.Struct("<IQB")
#: Call id, kind, body.
Frame = tuple[int, int, bytes]

#: What may be kept for a side that does not keep up. They are the messages of calls that are held anyway.
MAX_UNSENT_BYTES = 64 * 2**20


class FrameLink:
    """One side's end of a connected stream socket."""

    def __init__(
        self,
        server: Server,
        connected: socket.socket,
        received: Callable[[list[Frame]], None],
        ended: Callable[[], None],
    ) -> None:
        """The thread that polls `server` calls both: `received` with its lock; last, `ended` without it."""
        self._server = server
        self._socket = connected
        self._received = received
        self._ended = ended
        #: What has come of a frame, and how long it is to be, as far as that is known.
        self._rest = bytearray()
        self._missing_until = 0
        self._unsent: list[bytes | memoryview] = []
        #: Frames of those that come later, whose turn comes when the socket has taken all others.
        self._later: FairQueue[tuple[bytes, bytes]] = FairQueue()
        self._lines: defaultdict[int, deque[tuple[bytes, bytes]]] = defaultdict(deque)
        self._later_bytes = 0
        #: Of what waits since the socket took no more.
        self._unsent_bytes = 0
        self._sent_bytes = 0
        self._is_full = self._is_over = False
        #: Either of the two: each frame looks for it.
        self._is_blocked = False
        #: In the server's list of those that have something to write.
        self.is_dirty = False
        connected.setblocking(False)
        server.watch_other(connected, self.ready)

    def send(
        self, call_id: int, kind: int, body: bytes, *, keep: bool = False, at_once: bool = False
    ) -> bool:
        """Send a frame, now or later, from any thread. False where too much waits already, or all is over.

        A frame is taken, whatever its size, where nothing waits; with `keep`, in any case. `at_once`: also by
        the thread that polls, which else sends it with what comes before its next poll.
        """
        server = self._server
        server.lock.acquire()  # As in Server.answer.
        try:
            taken = self.put(call_id, kind, body, b"", keep)
            if at_once or _get_ident() != server.polling_thread:
                server.flush_answers()
        finally:
            server.lock.release()
        return taken

    def end(self) -> None:
        """End both directions: what has come is handed over, and then `ended` is called."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket. Nothing is handed over any more."""
        self.end()
        with self._server.lock:
            self._finish()
            self._socket.close()

    def read_and_unread_bytes(self) -> tuple[int, int]:
        """What the other side has read since the start, and what is still to be read."""
        with self._server.lock:
            in_kernel = 0
            # Not every platform tells.
            with contextlib.suppress(OSError):
                (in_kernel,) = _INT.unpack(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(_INT.size)))
            unsent_bytes = sum(map(len, self._unsent)) + self._later_bytes
            return self._sent_bytes - in_kernel, in_kernel + unsent_bytes

    # With the server's lock.

    def put(self, call_id: int, kind: int, body: bytes, before: bytes = b"", keep: bool = False) -> bool:
        """As `send`, without writing. `before` is the body's start, where that is in two parts."""
        size = len(before) + len(body)
        if self._is_blocked and not self._may_wait(HEAD.size + size, keep):
            return False
        head = _PACK_HEAD(size, call_id, kind)
        self._unsent += (head + before if before else head, body)
        if not self.is_dirty:
            self._server.write_later(self)
        return True

    def put_later(self, line: int, call_id: int, kind: int, body: bytes, before: bytes) -> bool:
        """As `put`: where the socket takes no more, after others' frames, and of each `line` in turn."""
        if not self._is_full:
            return self.put(call_id, kind, body, before)
        size = len(before) + len(body)
        if not self._may_wait(HEAD.size + size, False):
            return False
        self._later_bytes += HEAD.size + size
        frame = _PACK_HEAD(size, call_id, kind) + before, body
        self._later.put(self._lines[line], frame)
        return True

    def _may_wait(self, size_bytes: int, keep: bool) -> bool:
        """Whether so much more is kept for a side that does not keep up."""
        if self._is_over or (self._unsent_bytes + size_bytes > MAX_UNSENT_BYTES and not keep):
            return False
        self._unsent_bytes += size_bytes
        return True

    def ready(self, events: int) -> None:
        if self._is_over:
            return  # It was closed while this was on its way.
        try:
            if events & selectors.EVENT_WRITE and self._is_full:
                self._send_all()
            if events & selectors.EVENT_READ:
                self._read()
        except Exception:  # noqa: BLE001 - it is logged there
            self._server.end_failed(self)

    def write(self) -> None:
        self.is_dirty = False
        if self._unsent and not self._is_full:
            self._send_all()

    def close_if_done(self) -> None:
        """Only its owner closes it."""

    def abort(self) -> None:
        """Nothing is handed over any more, and whoever has calls on it is told, as after a fault of ours."""
        if not self._is_over:
            self._finish()
            self._server.callbacks.append(self._ended)

    def _send_all(self) -> None:
        self._send_unsent()
        while self._later.lines and not self._unsent and not self._is_over:
            for frame in self._later.take(_LATER_TOGETHER):
                self._unsent += frame
                self._later_bytes -= len(frame[0]) + len(frame[1])
            self._send_unsent()
        if self._is_full and not self._unsent:
            self._wait_for_room(False)

    def _send_unsent(self) -> None:
        unsent = self._unsent
        unsent_bytes = sum(map(len, unsent))
        while unsent:
            try:
                if unsent_bytes <= _COPIED_BYTES:
                    sent = self._socket.send(b"".join(unsent))
                else:
                    sent = self._socket.sendmsg(islice(unsent, _MOST_PARTS))
            except (BlockingIOError, InterruptedError):
                self._unsent_bytes = unsent_bytes + self._later_bytes
                self._wait_for_room(True)
                return
            except OSError:  # Reading finds that it is over.
                unsent.clear()
                return
            self._sent_bytes += sent
            unsent_bytes -= sent
            if not unsent_bytes:
                unsent.clear()
                break
            done = 0
            while sent >= len(unsent[done]):
                sent -= len(unsent[done])
                done += 1
            del unsent[:done]
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]

    def _wait_for_room(self, is_full: bool) -> None:
        if is_full != self._is_full:
            self._is_full = self._is_blocked = is_full
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_full else 0)
            self._server.watch_other(self._socket, self.ready, events)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            try:
                if frames := self._frames_of(data):
                    self._received(frames)
            except Exception:
                log.exception("frames could not be taken")
            else:
                return
        self.abort()

    def _frames_of(self, data: bytes) -> list[Frame]:
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._missing_until:
                return []
            data = bytes(rest)
            rest.clear()
        frames: list[Frame] = []
        append, unpack, head_bytes = frames.append, _UNPACK_HEAD, HEAD.size
        begin, start, length = 0, head_bytes, len(data)
        while start <= length:
            size, call_id, kind = unpack(data, begin)
            end = start + size
            if end > length:
                break
            append((call_id, kind, data[start:end]))
            begin, start = end, end + head_bytes
        if begin < length:
            rest += data[begin:]
            self._missing_until = (start if start > length else end) - begin
        return frames

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = self._is_blocked = True
            self._server.watch_other(self._socket, None)
            self._unsent.clear()
            self._later.drop(lambda frame: True)
            self._later_bytes = 0


def polling_server(name: str) -> tuple[Server, Callable[[], None]]:
    """A server for links where no engine has one, which a thread `name` polls; and what ends that."""
    server = Server({}, Limits())
    server.open()
    is_stopped = threading.Event()

    def poll() -> None:
        server.polling_thread = threading.get_ident()
        while not is_stopped.is_set():
            try:
                with server.lock:
                    timeout_s = server.prepare(wait=True)
                server.poll(timeout_s)
            except Exception:  # Nobody would read what workers answer.
                log.exception("polling the workers failed")
        server.close()

    threading.Thread(target=poll, name=name, daemon=True).start()

    def stop() -> None:
        is_stopped.set()
        server.wake()

    return server, stop


# Of this module: each frame looks for them.
_PACK_HEAD, _UNPACK_HEAD, _get_ident = HEAD.pack, HEAD.unpack_from, threading.get_ident
#: Up to here, one copy of it costs less than to send it in parts.
_COPIED_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
#: Frames of those that come later, at a time: others may come meanwhile.
_LATER_TOGETHER = 8
#: The system takes a limited number at once.
_MOST_PARTS = 64
_INT = struct.Struct("i")
