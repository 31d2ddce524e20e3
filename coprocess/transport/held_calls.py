"""Calls that come while handlers are being loaded: they wait, and are not refused.

The port is open before, because health is asked there; and a gateway that is started beside this service
sends its first requests at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from coprocess.errors import Status
from coprocess.transport.engine import BidiHandler, BidiRpc, Methods, Rpc

_MAX_HELD = 256
#: Of streams' messages, and what each takes beside its content.
_MAX_HELD_BYTES = 64 << 20
_MESSAGE_BYTES = 64


class HeldCalls:
    """Holds calls (`take`) until it is told who takes them, or that nobody does."""

    def __init__(self) -> None:
        # Entered again where `on_cancel` calls back at once.
        self._lock = threading.RLock()
        #: In the order in which they came.
        self._held: dict[Rpc, None] = {}
        self._methods: Methods | None = None

    def __len__(self) -> int:
        """Calls that wait."""
        return len(self._held)

    def take(self, rpc: Rpc) -> None:
        """A Handler."""
        with self._lock:
            methods = self._methods
            if methods is None and len(self._held) < _MAX_HELD:
                self._held[rpc] = None
                # Else a handler would run for a client that is gone. Within the lock: whoever takes the call
                # later asks for the same, and the last who asks is told.
                rpc.on_cancel(lambda: self._drop(rpc))
                return
        (refuse_call if methods is None else methods.unary.get(rpc.method, refuse_call))(rpc)

    def _drop(self, rpc: Rpc) -> None:
        with self._lock:
            was_held = rpc in self._held
            self._held.pop(rpc, None)
        if was_held:
            rpc.fail(Status.CANCELLED, "the client gave up")

    def pass_on(self, methods: Methods) -> None:
        """Give all that waits to the handlers of `methods`, and what comes late."""
        with self._lock:
            self._methods = methods
            held, self._held = self._held, {}
        for rpc in held:
            # Each in a thread of its own: one that blocks holds up no other.
            try:
                handler = methods.unary.get(rpc.method, refuse_call)
                threading.Thread(target=handler, args=(rpc,), name="held-call", daemon=True).start()
            except RuntimeError:
                rpc.fail(Status.UNAVAILABLE, "no thread can be started")


class HeldStreams:
    """The same for calls with many messages: told on the engine's loop, and taken there."""

    def __init__(self) -> None:
        # As HeldCalls'.
        self._lock = threading.RLock()
        #: With the messages that came, in their order; None: the client's last is among them.
        self._held: dict[BidiRpc, list[bytes | None]] = {}
        #: Of all those messages.
        self._held_bytes = 0
        self._methods: Methods | None = None

    def take(self, rpc: BidiRpc) -> None:
        """A BidiHandler."""
        with self._lock:
            methods = self._methods
            if methods is None and len(self._held) < _MAX_HELD:
                came = self._held[rpc] = []
                rpc.on_message = lambda message: self._keep(rpc, came, message)
                rpc.on_half_close = lambda: came.append(None)
                rpc.on_cancel(lambda: self._drop(rpc))
                return
        _handler_of(methods, rpc)(rpc)

    def _keep(self, rpc: BidiRpc, came: list[bytes | None], message: bytes) -> None:
        came.append(message)
        with self._lock:
            self._held_bytes += _kept(message)
            is_too_much = self._held_bytes > _MAX_HELD_BYTES
        if is_too_much:
            rpc.on_message = lambda message: None
            self._drop(rpc)
            _refuse_stream(rpc)

    def _drop(self, rpc: BidiRpc) -> None:
        with self._lock:
            came = self._held.pop(rpc, ())
            self._held_bytes -= sum(_kept(message) for message in came if message is not None)

    def pass_on(self, methods: Methods) -> None:
        """As HeldCalls'."""
        with self._lock:
            self._methods = methods
            held, self._held, self._held_bytes = self._held, {}, 0
        for rpc, came in held.items():
            rpc.on_loop(lambda rpc=rpc, came=came: self._begin(methods, rpc, came))  # type: ignore[misc]  # its defaults

    @staticmethod
    def _begin(methods: Methods, rpc: BidiRpc, came: list[bytes | None]) -> None:
        _handler_of(methods, rpc)(rpc)
        for message in came:
            if message is None:
                rpc.on_half_close()
            else:
                rpc.on_message(message)


class Held:
    """What an engine serves while handlers are being loaded."""

    def __init__(self, unary: Iterable[str], bidi: Iterable[str]) -> None:
        """Methods, by their path."""
        self._calls = HeldCalls()
        self._streams = HeldStreams()
        self.methods = Methods(
            unary=dict.fromkeys(unary, self._calls.take), bidi=dict.fromkeys(bidi, self._streams.take)
        )

    def pass_on(self, methods: Methods) -> None:
        """Give all that waits to the handlers of `methods`, and what comes late."""
        self._calls.pass_on(methods)
        self._streams.pass_on(methods)

    def refuse(self) -> None:
        """End all that waits and all that comes, until `pass_on`."""
        self.pass_on(Methods())


def _handler_of(methods: Methods | None, rpc: BidiRpc) -> BidiHandler:
    return _refuse_stream if methods is None else methods.bidi.get(rpc.method, _refuse_stream)


def _kept(message: bytes) -> int:
    return len(message) + _MESSAGE_BYTES


def _refuse_stream(rpc: BidiRpc) -> None:
    rpc.fail(Status.UNAVAILABLE, _STARTING)


def refuse_call(rpc: Rpc) -> None:
    rpc.fail(Status.UNAVAILABLE, _STARTING)


_STARTING = "the service is starting"
