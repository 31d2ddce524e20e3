"""The answer of a Check that the store decides: it goes out once rate and quota were asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from coprocess.errors import CoprocessError, Status
from coprocess.gateways.envoy.check_reply import refused
from coprocess.transport.engine import Metadata, Rpc

#: Of a call whose reply is still to be found. It closes, should it ever go out.
UNDECIDED = refused(CoprocessError("nobody has decided"))


class Asking(Protocol):
    """A Check that knows whom to ask."""

    def ask_limits(self, rpc: Rpc) -> None:
        """Answer `rpc` once rate and quota were asked for, in a thread that may block."""


class AfterLimits(Rpc):
    """The Rpc of a Check whose caller has a rate or a quota: the store is asked before it is answered."""

    __slots__ = ("_call", "_rpc")

    def __init__(self, call: Asking, rpc: Rpc) -> None:
        self._rpc = rpc
        #: None once it is over: the two know each other, and a cycle would be the collector's.
        self._call: Asking | None = call
        self.method, self.payload = rpc.method, rpc.payload

    def respond(self, reply: bytes) -> None:
        call, self._call = self._call, None
        if reply is not UNDECIDED:
            self._rpc.respond(reply)
        elif call is not None:
            call.ask_limits(self._rpc)

    def fail(self, status: Status, message: str) -> None:
        self._call = None
        self._rpc.fail(status, message)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._rpc.on_cancel(callback)

    def may_block(self) -> None:
        self._rpc.may_block()

    def metadata(self) -> Metadata:
        return self._rpc.metadata()

    def time_allowed_s(self) -> float | None:
        return self._rpc.time_allowed_s()

    def held_up_s(self) -> float:
        return self._rpc.held_up_s()

    def __getattr__(self, name: str) -> Any:
        """What traces calls asks its own Rpc for more."""
        return getattr(self._rpc, name)
