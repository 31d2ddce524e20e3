"""One Check of ext_authz: the handlers of CustomKeyCheck decide, and may edit the request.

One handler is a call as any other: `CheckCall`. Several, and one that leaves something for the end of the
request, are run in steps: `Check`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from coprocess.error_text import format_error
from coprocess.errors import CoprocessError, HandlerFailed, Status
from coprocess.gateways.envoy.call import Around, Traffic, TrafficCall
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.check_reply import denied, refused, reply_of
from coprocess.gateways.envoy.checked import NO_BODY, open_check
from coprocess.gateways.envoy.skimmed import attributes_of, items_of
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.answers import error_answer, failure_answer
from coprocess.runtime.chained import NO_STEPS, PAUSE, StepCall, Steps, UnaryChain
from coprocess.runtime.service import Service
from coprocess.transport.engine import Metadata, Rpc

log = structlog.get_logger("coprocess")


class Check:
    """Answers one CheckRequest: `take` gives the steps, and when they are through, `reply` the answer."""

    __slots__ = ("_around", "_find_chain", "_max_headers", "_refusal", "_traffic", "asks_limits")

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
        #: Whether the steps have ended before the store is asked for rate and quota, as `begin` was told.
        self.asks_limits = False

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

    def begin(self, traffic: Traffic, *, leaves_limits: bool = False) -> Steps:
        """The same for what is open already. `leaves_limits`: it is the caller that asks for them."""
        self._traffic = traffic
        return self._checked(traffic.before_upstream(), leaves_limits)

    def _checked(self, steps: Steps, leaves_limits: bool) -> Steps:
        """The same. They may raise, or want a body that does not come any more."""
        try:
            for need in steps:
                if need is PAUSE:
                    raise HandlerFailed(NO_BODY)
                if leaves_limits and not isinstance(need, StepCall):
                    self.asks_limits = True  # The last of them.
                    return
                yield need
        except CoprocessError as error:
            self._refusal = refused(error)
        except Exception as error:  # noqa: BLE001 - an RPC error might let in
            self._refusal = _undecided(error)

    def ask_limits(self, rpc: Rpc) -> None:
        """As that of a CheckCall."""
        assert self._traffic is not None  # noqa: S101 - its steps have ended
        self._traffic.answer_by_limits(rpc, None)

    def reply(self) -> bytes:
        """A serialized CheckResponse, which is never empty. Never raises."""
        traffic = self._traffic
        try:
            return self._refusal if traffic is None or self._refusal else reply_of(traffic)
        except Exception as error:  # noqa: BLE001 - an RPC error might let in
            return _undecided(error)


class CheckChain(UnaryChain):
    """A Check in steps. Whatever becomes of it, its reply is a CheckResponse."""

    __slots__ = ("_check",)

    def __init__(self, service: Service, rpc: Rpc, check: Check, on_end: Callable[[], None] | None) -> None:
        super().__init__(service, rpc, check.reply, on_end)
        self._check = check

    def through(self, error: Exception | None) -> None:
        check = self._check
        if error is not None:
            self.rpc.respond(_undecided(error))
            self.stopped()
        elif check.asks_limits:
            check.ask_limits(self.rpc)
            self.stopped()
        else:
            super().through(None)


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
        try:
            reply = denied(failure_answer(status), None, message)
        except Exception as error:  # noqa: BLE001 - nobody else would answer
            reply = _undecided(error)
        self.rpc.respond(reply)


#: Of a call whose reply is still to be found. It closes, should it ever go out.
UNDECIDED = refused(CoprocessError("nobody has decided"))
_CLOSED = refused(CoprocessError("internal error"))


def _undecided(error: Exception) -> bytes:
    """The reply where `error` came of this code."""
    log.error("a Check could not be answered by its handlers", exception=format_error(error))
    return _CLOSED


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
