"""One connection on a socket: reads, writes, and what must come in time."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from coprocess.transport.http2 import sockets
from coprocess.transport.http2.control_frames import FEWER_FRAMES_AT_ONCE, FRAMES_AT_ONCE
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode
from coprocess.transport.http2.grpc_connection import GrpcConnection
from coprocess.transport.http2.sending import BATCH_BYTES
from coprocess.transport.http2.tls_filter import TlsFilter
from coprocess.transport.http2.use import Use
from coprocess.transport.http2.waiting import Line

if TYPE_CHECKING:
    from coprocess.transport.http2.server import Server

log = structlog.get_logger("coprocess")

_STOPPING = "the service is shutting down"


class Http2Protocol:
    """Whoever calls its methods holds the server's lock."""

    def __init__(self, server: Server, bound: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self.grpc = GrpcConnection(server.service, self, self._ping_acknowledged, self.write)
        # What answers are given with.
        grpc = self.grpc
        grpc.may_keep(server.share.each_bytes)
        self.respond, self.begin, self.send, self.end = grpc.respond, grpc.begin, grpc.send, grpc.end_with
        self.finish = grpc.finish
        self._limits = server.service.limits
        self._sending = self.grpc.http.sending
        self._socket = bound
        self._tls = None if tls is None else TlsFilter(tls, grpc.http.spend)
        #: What the socket did not take yet.
        self._unwritten: list[bytes | memoryview] = []
        self._unwritten_bytes = 0
        self._is_paused = False
        self._read_bytes = _READ_BYTES
        #: Nothing more is read, and what is left is written.
        self.is_closing = False
        self.is_gone = False
        #: In the server's list of those that have something to write.
        self.is_dirty = False
        self.is_reading = False
        #: More was read at once than one connection may take of the server.
        self.is_behind = False
        #: Its turns come after those of others: it is new, or has used more than its share, of late.
        self.comes_later = True
        #: Its calls that wait while it is so.
        self.line: Line[Any] = Line(server.later)
        #: Where its calls are put: that line, or among those of all others.
        # Any, as it is asked for `append` only, by each call.
        self.calls: Any = self.line
        #: Its calls whose messages are to be unpacked, and those with large ones, that wait for their turn.
        self.packed_line: deque[Any] = deque()
        self.large_line: deque[Any] = deque()
        self._bound_turns()
        now_s = time.monotonic()
        self._ids = grpc.http.ids
        self._use = Use(self._ids, now_s)
        self._began_s = self._heard_s = self._idle_since_s = now_s
        #: Of its own: those that came together do not go together.
        self._max_age_s = self._limits.max_age_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        #: Since when what must be read, or must come, did not.
        self._unread_since_s = self._awaits_since_s = 0.0
        #: What must come.
        self._awaits_rest_of: object = None
        #: Since when DATA waits for a window, and what of such had been sent then.
        self._windowless_since_s = now_s
        self._late_frames_before = 0
        self._pinged_s = 0.0
        #: When GOAWAY was announced, and when calls are given up for it.
        self._ending_s = self._give_up_s = 0.0
        #: Why, for the calls that are left then.
        self._why_ending = _STOPPING
        #: The peer knows which call was its last.
        self.is_ended = False

    @property
    def _is_secured(self) -> bool:
        return self._tls is None or self._tls.is_ready

    # The selector's.

    def ready(self, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and self._unwritten:
                self._write_rest()
            if events & selectors.EVENT_READ and not self.is_behind and not self.is_gone:
                server, use, before = self._server, self._use, self._ids.highest
                began_s = _now_s()
                self._read()
                use.read_s += _now_s() - began_s
                if not self.comes_later:
                    server.first_read_s = began_s
                elif use.is_new:
                    self._see_if_little(began_s)
                if len(server.waiting) > _MANY_WAITING and self._ids.highest - before > 2 * _FEW_CALLS:
                    self._set_later(True)
                if server.reader is not self:  # Else it is alone, as yet.
                    server.reader = self
                    server.switches += 1
                    self._see_use()
        except Exception:  # noqa: BLE001 - it is logged there
            self._server.end_failed(self)

    def keep_back(self, size_bytes: int) -> None:
        """Have the peer send so much less, as calls of such a size wait; less than 0: more again."""
        self.grpc.http.window -= size_bytes
        if size_bytes < 0 and not self.is_closing:
            self.grpc.http.restore_window()

    def _see_use(self) -> None:
        """Whether it has used much, and others want something, too."""
        if not self.comes_later and self._use.is_over_share and self._server.is_shared():
            self._set_later(True)

    def _see_if_little(self, now_s: float) -> None:
        """A new one that asks for little is made to wait for a moment only."""
        if self._use.is_little(now_s) and len(self.line.tasks) <= _FEW_CALLS:
            self._use.is_new = False
            self._set_later(False)

    def _wants_more(self) -> bool:
        """Whether it has sent more than it was served: what it used says little then."""
        return (
            self.is_behind
            or len(self.line.tasks) > _FEW_CALLS
            or sockets.unread_bytes(self._socket) > 0
            or self._use.is_over_share
        )

    def _set_later(self, comes_later: bool) -> None:
        if self.comes_later is comes_later:
            return
        self.comes_later = comes_later
        self.calls = self.line if comes_later else self._server.waiting
        if not comes_later:
            self._server.waiting.extend(self.line.leave())
        self._bound_turns()
        self._watch()

    def _bound_turns(self) -> None:
        """Where it is alone, nobody waits for its turns to end."""
        is_bound = self.comes_later and self._server.is_shared()
        self.grpc.http.frames_at_once = FEWER_FRAMES_AT_ONCE if is_bound else FRAMES_AT_ONCE
        self._sending.batch_bytes = _SMALLER_BATCH_BYTES if is_bound else BATCH_BYTES
        self._batches_at_once = 1 if is_bound else _BATCHES_AT_ONCE

    def _watch(self) -> None:
        if not self.is_gone:
            read = 0 if self.is_behind else selectors.EVENT_READ
            write = selectors.EVENT_WRITE if self._unwritten else 0
            self._server.watch(self._socket, self, read | write)

    def _read(self) -> None:
        tls = self._tls
        try:
            data = self._socket.recv(self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        if not data:
            self.abort()
            return
        # Where more comes than is read at once, as of a large body, fewer reads are enough.
        self._read_bytes = _READ_BYTES if len(data) < _READ_BYTES else _LONGER_READ_BYTES
        if self.is_closing:
            return  # Read all the same, that the peer's last bytes do not reset what it is told.
        if tls is not None:
            self._receive_secured(tls, data)
        else:
            self.receive(data)

    def _receive_secured(self, tls: TlsFilter, data: bytes) -> None:
        was_ready = tls.is_ready
        try:
            data = tls.receive(data)
        except (ssl.SSLError, OSError) as error:
            log.debug("a TLS connection failed", reason=str(error))
            self._write_raw(tls.take())  # The alert that says why.
            self.close()
            return
        except ConnectionFailure as failure:
            self.fail(failure.code, failure.reason)
            return
        if tls.is_in_splinters:
            self._read_bytes = _FEW_BYTES
        if tls.is_ready and not was_ready and tls.protocol != "h2":
            self.close()  # RFC 9113 §3.2
            return
        self._write_raw(tls.take())
        if tls.is_ready and not was_ready:
            self.write()
        if data:
            self.receive(data)
        if tls.is_ended:
            self.close()

    def receive(self, data: bytes) -> None:
        self._heard_s = self._server.now_s
        self.is_reading = True
        try:
            failure = self.grpc.receive(data)
        except Exception:  # A fault of ours ends one connection, and no other.
            log.exception("a connection failed")
            failure = ConnectionFailure(ErrorCode.INTERNAL_ERROR, "internal error")
            self.grpc.http.close(failure)
        finally:
            self.is_reading = False
        if failure is not None:
            self.write()
            self.close()
            return
        # With the answers of the calls that it brought, where they are quick: a write is dear.
        self._server.write_later(self)
        if self.grpc.http.is_behind and not self.is_closing:
            self._go_on_later()

    def _go_on_later(self) -> None:
        """Once others had their turn: by whoever polls."""
        if not self.is_behind:
            self.is_behind = True
            self._watch()
            self._server.behind.append(self)
            self._server.wake()

    def catch_up(self) -> None:
        """Go on with what was read before, or is to be written."""
        self.is_behind = False
        if self.is_gone:
            return
        if not self.is_closing:
            began_s = _now_s()
            self.receive(b"")
            self._use.read_s += _now_s() - began_s
            self._see_use()
        if not self.is_behind:
            self._watch()

    # The server's.

    def write(self) -> None:
        """Write what there is, in one go; not while more is read, as that ends with it."""
        self.is_dirty = False
        if self.is_reading or self.is_closing or (self._tls is not None and not self._tls.is_ready):
            return
        sending = self._sending
        batches = 1
        while data := sending.take():
            if self._tls is not None:
                try:
                    self._tls.encrypt(data)
                except ssl.SSLError:
                    self.abort()
                    return
                data = self._tls.take()
            self._write_raw(data)
            if not sending.ready:
                break
            sending.pump()
            if batches == self._batches_at_once:
                self._go_on_later()
                break
            batches += 1
        if self._unwritten_bytes > _MAX_BUFFER_BYTES:
            self.abort()  # Answers without content, and frames of control, that nobody reads.

    def _write_raw(self, data: bytes) -> None:
        if self._unwritten:
            if data:
                self._unwritten.append(data)
                self._unwritten_bytes += len(data)
                self._pause()
            return
        if not data:
            return
        try:
            written = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:
            self._break()
            return
        if written < len(data):
            self._unwritten.append(memoryview(data)[written:] if written else data)
            self._unwritten_bytes = len(data) - written
            self._unread_since_s = time.monotonic()
            self._watch()
            self._pause()

    def _pause(self) -> None:
        if not self._is_paused and self._unwritten_bytes > _WRITE_BUFFER_BYTES:
            self._is_paused = True
            self._sending.set_writable(False)

    def _write_rest(self) -> None:
        unwritten = self._unwritten
        while unwritten:
            data = unwritten[0]
            try:
                written = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._break()
                return
            self._unread_since_s = time.monotonic()
            self._unwritten_bytes -= written
            if written < len(data):
                unwritten[0] = memoryview(data)[written:]
                return
            del unwritten[0]
        self._unread_since_s = 0.0
        self._watch()
        if self.is_closing:
            self._say_end()
            return
        if self._is_paused:
            self._is_paused = False
            self._sending.set_writable(True)
        self.write()

    def _break(self) -> None:
        """Whoever polls finds that it is over: one that only answers must not end others' calls.

        Nothing more is written for those: each would be in vain.
        """
        self.is_closing = True
        self._unwritten.clear()
        self._unwritten_bytes = 0
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Once the peer has all that is written."""
        if self.is_gone or self.is_closing:
            return
        self.is_closing = True
        self.grpc.lost()  # Nothing more is written for calls, where any are left.
        if self._tls is not None:
            self._tls.end()
            self._write_raw(self._tls.take())
        if not self._unwritten:
            self._say_end()
        if not self.is_gone:
            self._look_at_end_later(self.left_bytes, time.monotonic() + _LONGEST_END_S)

    def _say_end(self) -> None:
        """All is written. It is read on until the peer has it: what that sends would reset the rest."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self.close_if_delivered()

    def close_if_delivered(self) -> None:
        if self.is_closing and not self.is_gone and not self.left_bytes:
            self.abort()

    def _look_at_end_later(self, left: int, until_s: float) -> None:
        when_s = time.monotonic() + _LAST_WRITE_S
        self._server.call_later(_LAST_WRITE_S, self._look_at_end, (left, until_s, when_s))

    def _look_at_end(self, before: tuple[int, float, float]) -> None:
        """A peer that does not read would keep it open.

        `before`: what was left, until when it may be, and when this was to be looked at. Where that is long
        ago, the machine stood still, and the peer had no time to read.
        """
        left, (left_before, until_s, when_s), now_s = self.left_bytes, before, time.monotonic()
        if not left or now_s > until_s or (left >= left_before and now_s < when_s + _LATE_S):
            self.abort()
        else:
            self._look_at_end_later(left, until_s)

    @property
    def left_bytes(self) -> int:
        """What the peer's system does not have yet."""
        if self.is_gone:
            return 0
        return self._unwritten_bytes + self._sending.unsent_bytes + sockets.undelivered_bytes(self._socket)

    def abort(self) -> None:
        if not self.is_gone:
            self.is_gone = self.is_closing = True
            self._unwritten.clear()
            self._server.remove(self, self._socket)
            self._socket.close()
            self.grpc.lost()

    def fail(self, code: ErrorCode, reason: str) -> None:
        self.grpc.http.close(ConnectionFailure(code, reason))
        self.write()
        self.close()

    def begin_end(self, give_up_s: float, why: str = _STOPPING) -> None:
        """GOAWAY in two steps, so that no call is lost that is on its way; then close (§6.8)."""
        if not self._ending_s and not self.is_closing:
            self._ending_s, self._give_up_s, self._why_ending = time.monotonic(), give_up_s, why
            self.grpc.http.announce_end()
            self.grpc.http.ping(_END_PING)
            self.write()

    def _ping_acknowledged(self, payload: bytes) -> None:
        if payload == _END_PING and self._ending_s:
            # After what was read with it: nothing is closed meanwhile.
            self._server.call_later(0.0, self._end_acknowledged, None)

    def _end_acknowledged(self, nothing: Any) -> None:
        self.second_step()

    def second_step(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            self.grpc.http.end()
            self.write()
            self.close_if_done()

    def close_if_done(self) -> None:
        # While it reads nothing is written, and an answer that was given just before would be lost. The next
        # flush calls again.
        if self.is_ended and not self.grpc.http.streams and not self.is_reading:
            self.write()
            self.close()

    def give_up(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            self.grpc.http.end()
        self.grpc.give_up(self._why_ending)
        self.write()
        self.close()

    def look(self, now_s: float) -> None:
        """See that nothing takes too long, or too much; called each second or so."""
        limits, http = self._limits, self.grpc.http
        self._server.share.count(self.grpc.kept_bytes)
        if not self._is_secured:
            if now_s - self._began_s > _HANDSHAKE_S:
                self.abort()
            return
        if self._server.is_shared():
            self._set_later(self._wants_more() if self.comes_later else self._use.is_over_share)
        else:
            self._set_later(len(self.line.tasks) > _MANY_WAITING)
        self._use.begin_again()
        self._bound_turns()
        rest_of = http.awaits_rest_of
        if rest_of is None or rest_of != self._awaits_rest_of:
            # Another than before: who sends without a pause is nearly always within a frame.
            self._awaits_rest_of, self._awaits_since_s = rest_of, now_s
        elif _is_over(now_s, self._awaits_since_s, limits.frame_timeout_s):
            self.fail(ErrorCode.PROTOCOL_ERROR, "a frame did not end in time")
            return
        if self._unread_since_s and _is_over(now_s, self._unread_since_s, limits.unread_timeout_s):
            self.abort()
            return
        self._look_at_windows(now_s)
        if http.streams:
            self._idle_since_s = now_s
            if limits.request_timeout_s and self.grpc.drop_overdue(now_s):
                self.write()
        elif _is_over(now_s, self._idle_since_s, limits.idle_s):
            self.begin_end(now_s + limits.age_grace_s)
        if _is_over(now_s, self._began_s, self._max_age_s):
            self.begin_end(now_s + limits.age_grace_s, "the connection is as old as one may be")
        self._look_at_life(now_s)
        if self._ending_s:
            if now_s - self._ending_s > _END_PING_S:
                self.second_step()
            self.close_if_done()
            if now_s > self._give_up_s:
                self.give_up()

    def _look_at_windows(self, now_s: float) -> None:
        """A peer may also read nothing by giving no window."""
        sending = self._sending
        is_waiting = sending.unsent_bytes and not self._unwritten
        if not is_waiting or sending.late_frames != self._late_frames_before:
            self._windowless_since_s, self._late_frames_before = now_s, sending.late_frames
        elif _is_over(now_s, self._windowless_since_s, self._limits.unread_timeout_s):
            self.grpc.drop_unread()
            self.write()

    def _look_at_life(self, now_s: float) -> None:
        limits = self._limits
        if self._pinged_s > self._heard_s:
            if _is_over(now_s, self._pinged_s, limits.keepalive_timeout_s):
                self.abort()
        elif _is_over(now_s, self._heard_s, limits.keepalive_s):
            self._pinged_s = now_s
            self.grpc.http.ping(_LIFE_PING)
            self.write()


def _is_over(now_s: float, since_s: float, limit_s: float) -> bool:
    return bool(limit_s) and now_s - since_s > limit_s


# Of this module: each read looks for it.
_now_s = time.monotonic
#: Calls that came before, of all: whoever brings many more now waits with them.
_MANY_WAITING = 128
#: That one read brings, or that wait, of a connection that asks for little.
_FEW_CALLS = 2
_END_PING = b"the end?"
_LIFE_PING = b"alive?  "
_END_PING_S = 1.0
_LAST_WRITE_S = 1.0
_LATE_S = 0.25
_LONGEST_END_S = 10.0
_HANDSHAKE_S = 10.0
_READ_BYTES = 64 * 1024
_FEW_BYTES = 4096
_LONGER_READ_BYTES = 256 * 1024
_WRITE_BUFFER_BYTES = 1024 * 1024
#: The same of a connection that comes after others.
_SMALLER_BATCH_BYTES = 128 * 1024
#: Of what waited for a window, before others have their turn.
_BATCHES_AT_ONCE = 4
_MAX_BUFFER_BYTES = 16 * 1024 * 1024
