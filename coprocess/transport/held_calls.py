"""Calls that come while handlers are being loaded: they wait, and are not refused.

The port is open before, because health is asked there; and a gateway that is started beside this service
sends its first requests at once.
"""

from __future__ import annotations

import threading

from coprocess.errors import Status
from coprocess.transport.engine import BidiHandler, BidiRpc, Handler, Rpc

_MAX_HELD = 256


class HeldCalls:
    """Holds calls (`take`) until it is told who takes them, or that nobody does."""

    def __init__(self) -> None:
        # Entered again where `on_cancel` calls back at once.
        self._lock = threading.RLock()
        #: In the order in which they came.
        self._held: dict[Rpc, None] = {}
        self._handler: Handler | None = None

    def __len__(self) -> int:
        """Calls that wait."""
        return len(self._held)

    def take(self, rpc: Rpc) -> None:
        with self._lock:
            handler = self._handler
            if handler is None and len(self._held) < _MAX_HELD:
                self._held[rpc] = None
                # Else a handler would run for a client that is gone. Within the lock: whoever takes the call
                # later asks for the same, and the last who asks is told.
                rpc.on_cancel(lambda: self._drop(rpc))
                return
        (handler or refuse_call)(rpc)

    def _drop(self, rpc: Rpc) -> None:
        with self._lock:
            was_held = rpc in self._held
            self._held.pop(rpc, None)
        if was_held:
            rpc.fail(Status.CANCELLED, "the client gave up")

    def pass_on(self, handler: Handler) -> None:
        """Give `handler` all that waits and all that comes."""
        with self._lock:
            self._handler = handler
            held, self._held = self._held, {}
        for rpc in held:
            # Each in a thread of its own: one that blocks holds up no other.
            try:
                threading.Thread(target=handler, args=(rpc,), name="held-call", daemon=True).start()
            except RuntimeError:
                rpc.fail(Status.UNAVAILABLE, "no thread can be started")

    def refuse(self) -> None:
        """End all that waits and all that comes, until `pass_on`."""
        self.pass_on(refuse_call)


class HeldStreams:
    """The same for calls with many messages: told on the engine's loop, and taken there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: With the messages that came, in their order; None: the client's last is among them.
        self._held: dict[BidiRpc, list[bytes | None]] = {}
        self._is_open = False
        #: Takes the calls. To be set before they come.
        self.serve: BidiHandler = refuse_stream

    def open(self, rpc: BidiRpc) -> None:
        """A BidiHandler."""
        with self._lock:
            if not self._is_open and len(self._held) < _MAX_HELD:
                came = self._held[rpc] = []
                rpc.on_message = came.append
                rpc.on_half_close = lambda: came.append(None)
                rpc.on_cancel(lambda: self._drop(rpc))
                return
        (self.serve if self._is_open else refuse_stream)(rpc)

    def _drop(self, rpc: BidiRpc) -> None:
        with self._lock:
            self._held.pop(rpc, None)

    def pass_on(self) -> None:
        """Serve all that waits and all that comes."""
        with self._lock:
            self._is_open = True
            held, self._held = self._held, {}
        for rpc, came in held.items():
            rpc.on_loop(lambda rpc=rpc, came=came: self._begin(rpc, came))  # type: ignore[misc]  # its defaults

    def _begin(self, rpc: BidiRpc, came: list[bytes | None]) -> None:
        self.serve(rpc)
        for message in came:
            if message is None:
                rpc.on_half_close()
            else:
                rpc.on_message(message)


def refuse_stream(rpc: BidiRpc) -> None:
    rpc.end(Status.UNAVAILABLE, "the service is starting")


def refuse_call(rpc: Rpc) -> None:
    rpc.fail(Status.UNAVAILABLE, "the service is starting")
