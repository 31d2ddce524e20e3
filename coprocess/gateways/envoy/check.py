"""One Check of ext_authz: the handlers of CustomKeyCheck decide, and may edit the request.

One handler is a call as any other: `CheckCall`. Several, and one that leaves something for the end of the
request, are run in steps: `check_steps`.
"""

from __future__ import annotations

from typing import Any

from coprocess.errors import Status
from coprocess.gateways.envoy.after_limits import UNDECIDED, AfterLimits
from coprocess.gateways.envoy.call import TrafficCall
from coprocess.gateways.envoy.check_reply import denied, failed_reply, reply_of
from coprocess.runtime.answers import error_answer
from coprocess.transport.engine import Rpc


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
