"""Calls with many messages each way, on grpcio: a thread reads each, as grpcio has no other way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import grpc
import structlog

from coprocess.errors import Status
from coprocess.transport.engine import BidiHandler, BidiRpc, FailedReply, Metadata
from coprocess.transport.message_limit import too_large

log = structlog.get_logger("coprocess")
_MAX_UNREAD = 256

CODES = {code.value[0]: code for code in grpc.StatusCode}
#: grpcio gives the largest number there is where the client set no deadline.
_FOREVER_S = 10.0 * 365 * 86400


class GrpcioBidi(BidiRpc):
    """A call with many messages each way."""

    def __init__(
        self,
        method: str,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        send: Callable[[bytes | None], None],
        max_reply_bytes: int,
        submit: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(method)
        self._messages = messages
        self._context = context
        self._send_now = send
        self._max_reply_bytes = max_reply_bytes
        self._submit = submit
        self._came_s = time.monotonic()
        self._lock = threading.Lock()
        #: Held by whoever calls back.
        self._telling = threading.RLock()
        #: None: the end.
        self._outgoing: deque[bytes | None] = deque()
        self._is_sending = False
        self._is_ended = False
        #: That of its method.
        self.failed: FailedReply | None = None

    def start(self, handler: BidiHandler) -> None:
        """Call the handler, and read."""
        threading.Thread(target=self._read, args=(handler,), name="grpcio-bidi", daemon=True).start()

    def _read(self, handler: BidiHandler) -> None:
        try:
            handler(self)
            for message in self._messages:
                with self._telling:
                    self.on_message(message)
            with self._telling:
                self.on_half_close()
        except grpc.RpcError:
            return  # It was cancelled: `on_cancel` tells of it.
        except Exception:
            if self._context.is_active():
                log.exception("a stream's callback failed", method=self.method)
                self.fail(Status.INTERNAL, "internal error")

    def on_loop(self, task: Callable[[], None]) -> None:
        with self._telling:
            task()

    def in_thread(self, task: Callable[[], None]) -> None:
        self._submit(task)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        def ended() -> None:
            if not self._is_ended:
                callback()

        if not self._context.add_callback(ended):
            ended()

    def begin(self, metadata: Metadata) -> None:
        self._context.send_initial_metadata(tuple(metadata))

    def send(self, message: bytes) -> bool:
        if len(message) > self._max_reply_bytes:
            self.fail(Status.RESOURCE_EXHAUSTED, too_large("reply", len(message), self._max_reply_bytes))
            return False
        if self._is_ended or not self._context.is_active() or len(self._outgoing) >= _MAX_UNREAD:
            return False
        self._put(message)
        return True

    def end(
        self,
        status: Status | None = None,
        message: str = "",
        details: bytes = b"",
        metadata: Metadata = (),
    ) -> None:
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
        if status is not None:
            self._context.set_code(CODES[status])
            self._context.set_details(message)
        trailing = [*metadata, *([("grpc-status-details-bin", details)] if details else [])]
        if trailing:
            self._context.set_trailing_metadata(tuple(trailing))
        self._put(None)

    def failed_reply(self) -> FailedReply | None:
        return self.failed

    def _put(self, message: bytes | None) -> None:
        with self._lock:
            self._outgoing.append(message)
            if self._is_sending:
                return
            self._is_sending = True
        # grpcio waits for readers that are slow, and whoever sends must not.
        self._submit(self._send_all)

    def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._outgoing:
                    self._is_sending = False
                    return
                message = self._outgoing.popleft()
            self._send_now(message)

    def metadata(self) -> Metadata:
        return metadata_of(self._context)

    def time_allowed_s(self) -> float | None:
        return time_allowed_s(self._context, self._came_s)


def metadata_of(context: grpc.ServicerContext) -> Metadata:
    return [(key, value) for key, value in context.invocation_metadata()]


def time_allowed_s(context: grpc.ServicerContext, came_s: float) -> float | None:
    """Of a call that came at `came_s`, as time.monotonic()."""
    remaining_s = context.time_remaining()
    if remaining_s is None or remaining_s > _FOREVER_S:
        return None
    return remaining_s + time.monotonic() - came_s
