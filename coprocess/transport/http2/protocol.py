"""One connection on an event loop: reads, writes, and what must come in time."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, cast

import structlog

from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode
from coprocess.transport.http2.grpc_connection import GrpcConnection

if TYPE_CHECKING:
    from coprocess.transport.http2.server import Server

log = structlog.get_logger("coprocess")


class Http2Protocol(asyncio.Protocol):
    """All of its methods run on the server's loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.grpc = GrpcConnection(server.service, self, self._ping_acknowledged, self.write)
        # What answers are given with, on the loop.
        grpc = self.grpc
        self.respond, self.begin, self.send, self.end = grpc.respond, grpc.begin, grpc.send, grpc.end_with
        self._limits = server.service.limits
        self._sending = self.grpc.http.sending
        self._transport: asyncio.Transport | None = None
        #: In the server's list of those that have something to write.
        self.is_dirty = False
        self.is_reading = False
        #: More was read at once than one connection may take of the loop.
        self._is_catching_up = False
        now_s = time.monotonic()
        self._began_s = self._heard_s = self._idle_since_s = now_s
        #: Since when what must be read, or must come, did not.
        self._unread_since_s = self._awaits_since_s = 0.0
        self._pinged_s = 0.0
        #: When GOAWAY was announced, and when calls are given up for it.
        self._ending_s = self._give_up_s = 0.0
        self._is_ended = False

    # asyncio's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            transport.close()  # RFC 9113 §3.2
            return
        if not self._server.add(self):
            self._transport.abort()
            return
        bound = transport.get_extra_info("socket")
        if bound is not None and bound.family != socket.AF_UNIX:
            # asyncio's own loop does it only for sockets that it made itself.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self.write()

    def data_received(self, data: bytes) -> None:
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
        self.write()
        if failure is not None:
            self._close()
        elif self.grpc.http.is_behind:
            if not self._is_catching_up and self._transport is not None:
                self._is_catching_up = True
                self._transport.pause_reading()
            self._server.loop.call_soon(self.data_received, b"")
        elif self._is_catching_up and self._transport is not None:
            self._is_catching_up = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._unread_since_s = time.monotonic()
        self._sending.set_writable(False)

    def resume_writing(self) -> None:
        self._unread_since_s = 0.0
        self._sending.set_writable(True)
        self.write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.remove(self)
        self.grpc.lost()

    # The server's.

    def write(self) -> None:
        """Write what there is, in one go; not while more is read, as that ends with it."""
        self.is_dirty = False
        transport = self._transport
        if self.is_reading or transport is None or transport.is_closing():
            return
        data = self._sending.take()
        if data:
            transport.write(data)
        if self._sending.has_more:
            self._server.loop.call_soon(self._write_more)
        elif transport.get_write_buffer_size() > _MAX_BUFFER_BYTES:
            transport.abort()  # Answers without content, and frames of control, that nobody reads.

    def _write_more(self) -> None:
        self._sending.pump()
        self.write()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            # A peer that does not read would keep it open.
            self._server.loop.call_later(_LAST_WRITE_S, self.abort)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def fail(self, code: ErrorCode, reason: str) -> None:
        self.grpc.http.close(ConnectionFailure(code, reason))
        self.write()
        self._close()

    def begin_end(self, give_up_s: float) -> None:
        """GOAWAY in two steps, so that no call is lost that is on its way; then close (§6.8)."""
        if not self._ending_s and self._transport is not None:
            if not self.grpc.http.is_open:
                self.abort()
                return
            self._ending_s, self._give_up_s = time.monotonic(), give_up_s
            self.grpc.http.announce_end()
            self.grpc.http.ping(_END_PING)
            self.write()

    def _ping_acknowledged(self, payload: bytes) -> None:
        if payload == _END_PING:
            self.second_step()

    def second_step(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            self.grpc.http.end()
            self.write()
            self.close_if_done()

    def close_if_done(self) -> None:
        if self._is_ended and not self.grpc.http.streams:
            self.write()
            self._close()

    def give_up(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            self.grpc.http.end()
        self.grpc.give_up("the service is shutting down")
        self.write()
        self._close()

    def look(self, now_s: float) -> None:
        """See that nothing takes too long; called each second or so."""
        limits, http = self._limits, self.grpc.http
        if not http.awaits_rest:
            self._awaits_since_s = 0.0
        elif not self._awaits_since_s:
            self._awaits_since_s = now_s
        elif _is_over(now_s, self._awaits_since_s, limits.frame_timeout_s):
            self.fail(ErrorCode.PROTOCOL_ERROR, "a frame did not end in time")
            return
        if self._unread_since_s and _is_over(now_s, self._unread_since_s, limits.unread_timeout_s):
            self.abort()
            return
        if http.streams:
            self._idle_since_s = now_s
            if limits.request_timeout_s and self.grpc.drop_overdue(now_s):
                self.write()
        elif _is_over(now_s, self._idle_since_s, limits.idle_s):
            self.begin_end(now_s + limits.age_grace_s)
        if _is_over(now_s, self._began_s, limits.max_age_s):
            self.begin_end(now_s + limits.age_grace_s)
        self._look_at_life(now_s)
        if self._ending_s:
            if now_s - self._ending_s > _END_PING_S:
                self.second_step()
            self.close_if_done()
            if now_s > self._give_up_s:
                self.give_up()

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


_END_PING = b"the end?"
_LIFE_PING = b"alive?  "
_END_PING_S = 1.0
_LAST_WRITE_S = 1.0
_WRITE_BUFFER_BYTES = 1024 * 1024
_MAX_BUFFER_BYTES = 16 * 1024 * 1024
