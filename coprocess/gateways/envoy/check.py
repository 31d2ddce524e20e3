"""One Check of ext_authz: the handlers of CustomKeyCheck decide, and may edit the request.

One handler is a call as any other: `CheckCall`. Several, and one that leaves something for the end of the
request, are run in steps: `Check`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coprocess.errors import CoprocessError, HandlerFailed, Status
from coprocess.gateways.envoy.call import Around, Traffic, TrafficCall
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.check_reply import denied, refused, reply_of
from coprocess.gateways.envoy.checked import NO_BODY, open_check
from coprocess.gateways.envoy.skimmed import attributes_of, items_of
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.answers import error_answer, failure_answer
from coprocess.runtime.chained import NO_STEPS, PAUSE, Steps
from coprocess.transport.engine import Metadata, Rpc


class Check:
    """Answers one CheckRequest: `take` gives the steps, and when they are through, `reply` the answer."""

    __slots__ = ("_around", "_find_chain", "_max_headers", "_refusal", "_traffic")

    def __init__(
        self,
        find_chain: Callable[[Mapping[str, str], str], Chain],
        around: Around,
        max_headers: int = 1000,
    ) -> None:
        self._find_chain = find_chain
        self._around = around
        self._max_headers = max_headers
        self._traffic: Traffic | None = None
        #: The reply, where it is given before the steps are through.
        self._refusal = b""

    @property
    def lifetime(self) -> Lifetime | None:
        """Of the request; None: it has not come so far, or leaves nothing for its end."""
        return None if self._traffic is None else self._traffic.lifetime

    @property
    def chain(self) -> Chain | None:
        return None if self._traffic is None else self._traffic.chain

    def take(self, message: bytes) -> Steps:
        """The steps. Raises BadMessage."""
        attributes = attributes_of(message)
        try:
            chain = self._find_chain(items_of(attributes.context_extensions), "")
            traffic = open_check(attributes, chain, self._around, self._max_headers)
        except CoprocessError as error:
            self._refusal = refused(error)
            return NO_STEPS
        return self.begin(traffic)

    def begin(self, traffic: Traffic) -> Steps:
        """The same for what is open already."""
        self._traffic = traffic
        if traffic.chain.reads_request or traffic.chain.chooses:
            return self._checked(traffic.before_upstream())
        return traffic.before_upstream()

    def _checked(self, steps: Steps) -> Steps:
        """The same, where they may raise, or want a body that does not come any more."""
        try:
            for need in steps:
                if need is PAUSE:
                    raise HandlerFailed(NO_BODY)
                yield need
        except CoprocessError as error:
            self._refusal = refused(error)

    def reply(self) -> bytes:
        """A serialized CheckResponse, which is never empty."""
        traffic = self._traffic
        if traffic is None or self._refusal:
            return self._refusal
        return reply_of(traffic)


class CheckCall(TrafficCall):
    """The one handler of a Check. Its reply is that of the Check, whatever becomes of it."""

    __slots__ = ()

    def finish(self) -> bytes:
        if self.timed_out:
            return UNDECIDED  # It was answered: whatever its handler did is nobody's any more.
        traffic = self._exchange
        traffic.answer = answer = self.handlers_answer
        if answer is not None:
            if answer.is_rejection:
                traffic.tell_rejection()
        elif traffic.admit():
            self.rpc = AfterLimits(self, self.rpc)
            return UNDECIDED
        return reply_of(traffic)

    def ask_limits(self, rpc: Rpc) -> None:
        """Ask for rate and quota in a thread that may block, and answer there."""
        self._exchange.in_thread(lambda: self._answer_by_limits(rpc))

    def _answer_by_limits(self, rpc: Rpc) -> None:
        traffic = self._exchange
        try:
            traffic.ask_limits()
            reply = reply_of(traffic)
        except Exception:  # noqa: BLE001 - nobody else would answer
            reply = UNDECIDED
        rpc.respond(reply)

    def unchanged(self) -> None:
        """There is none: a handler of CustomKeyCheck never fails open."""

    def refused(self, status: int, message: str, headers: Any = ()) -> bytes:
        return denied(error_answer(status, message, headers), self._exchange)

    def fail(self, status: Status, message: str) -> None:
        # An RPC error would let the request in where the filter's failure mode allows it.
        self._exchange.failure_text = message
        self.rpc.respond(denied(failure_answer(status), self._exchange))


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
            rpc = self._rpc
            call.ask_limits(rpc)

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
