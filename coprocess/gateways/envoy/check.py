"""One Check of ext_authz: the handlers of CustomKeyCheck decide, and may edit the request.

One handler is a call as any other: `CheckCall`. Several, and one that leaves something for the end of the
request, are run in steps: `check_steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coprocess.errors import CoprocessError, Status
from coprocess.gateways.envoy.call import TrafficCall
from coprocess.gateways.envoy.check_reply import denied, failed_reply, refused, reply_of
from coprocess.runtime.answers import error_answer
from coprocess.transport.engine import Metadata, Rpc


class CheckCall(TrafficCall):
    """The one handler of a Check. Its reply is that of the Check, whatever becomes of it."""

    __slots__ = ()

    def finish(self) -> bytes:
        if self.timed_out:
            return UNDECIDED  # It was answered: whatever its handler did is nobody's any more.
        traffic = self._exchange
        traffic.last_hook = self.hook
        traffic.answer = answer = self.handlers_answer
        if answer is not None:
            if answer.is_rejection:
                traffic.tell_rejection()
        elif traffic.admit():
            self.rpc = AfterLimits(self, self.rpc)
            return UNDECIDED
        return reply_of(traffic)

    def ask_limits(self, rpc: Rpc) -> None:
        """Answer `rpc` once rate and quota were asked for, in a thread that may block."""
        self._exchange.answer_by_limits(rpc, self.gate.timeout_s)

    def unchanged(self) -> None:
        """There is none: a handler of CustomKeyCheck never fails open."""

    def refused(self, status: int, message: str, headers: Any = ()) -> bytes:
        return denied(error_answer(status, message, headers), None)

    def fail(self, status: Status, message: str) -> None:
        # An RPC error would let the request in where the filter's failure mode allows it.
        self.rpc.respond(failed_reply(status, message))


#: Of a call whose reply is still to be found. It closes, should it ever go out.
UNDECIDED = refused(CoprocessError("nobody has decided"))


class AfterLimits(Rpc):
    """The Rpc of a Check whose caller has a rate or a quota: the store is asked before it is answered."""

    __slots__ = ("_call", "_rpc")

    def __init__(self, call: CheckCall, rpc: Rpc) -> None:
        self._rpc = rpc
        #: None once it is over: the two know each other, and a cycle would be the collector's.
        self._call: CheckCall | None = call
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
