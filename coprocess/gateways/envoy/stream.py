"""One stream of ext_proc at work: between the engine, the exchange, and the service that runs its calls.

Messages come on the engine's loop, and are taken in its threads, one after the other. Between the last reply
and the next message no thread is held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import structlog

from coprocess.api.body_stream import BodyCut
from coprocess.errors import CoprocessError, HandlerFailed, Status
from coprocess.gateways.envoy import call as traffic_of
from coprocess.gateways.envoy import encoding, guard
from coprocess.gateways.envoy.call import EnvoyCall, Traffic
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.early_messages import EarlyBytes, EarlyMessages
from coprocess.gateways.envoy.exchange import Exchange
from coprocess.gateways.envoy.headers_only import ChainOfRoute, HeadersOnly, headers_only
from coprocess.gateways.envoy.pieces import Waiter
from coprocess.gateways.envoy.streamed_bodies import NO_OVERRIDE
from coprocess.runtime import chained
from coprocess.runtime.answers import failure_answer
from coprocess.runtime.chained import NO_STEPS, Steps
from coprocess.runtime.service import Service
from coprocess.transport.engine import BidiRpc, HandlersLoop, Metadata

# Of this module: each stream looks for it.
_new_lock: Final = threading.Lock
_get_ident: Final = threading.get_ident
log = structlog.get_logger("coprocess")

#: Reading a message of that size takes long already.
_LARGE_BYTES: Final = 128 * 1024


class Around(traffic_of.Around, Protocol):
    """What streams need of the gateway."""

    early_bytes: EarlyBytes
    max_headers: int

    def new_exchange(self, chain_of_route: ChainOfRoute) -> Exchange:
        """For a stream that has not begun."""

    def ended(self, stream: EnvoyStream) -> None:
        """Told once."""


class EnvoyStream(chained.Chain):
    """Ends itself, and tells so."""

    # Slots: an attribute of the class is looked up each time.
    __slots__ = (
        "_around",
        "_early",
        "_exchange",
        "_headers_only",
        "_is_busy",
        "_is_half_closed",
        "_is_over",
        "_lock",
        "_message",
        "_rpc",
        "_waited_s",
        "_waiter",
        "_waits_since_s",
        "chain",
        "chain_of_route",
    )

    def __init__(self, service: Service, rpc: BidiRpc, chain_of_route: ChainOfRoute, around: Around) -> None:
        # Not by the base class's, as each request makes one.
        self._service, self.method = service, rpc.method
        self._steps, self._begun, self._current, self._is_cancelled = NO_STEPS, [], None, False
        self._rpc = rpc
        self.chain_of_route = chain_of_route
        #: Set as soon as it is found: a reload asks for it.
        self.chain: Chain | None = None
        self._around = around
        #: One of the two, once its first message has come: the second where there is more to it.
        self._headers_only: HeadersOnly | None = None
        self._exchange: Exchange | None = None
        self._lock = _new_lock()
        self._early: EarlyMessages | None = None
        #: Whether a message is being taken, and which. What follows is changed under the lock.
        self._is_busy = False
        self._message = b""
        self._is_half_closed = False
        self._is_over = False
        #: Of a handler that has the body in pieces: takes the next message.
        self._waiter: Waiter | None = None
        #: How long Envoy was waited for within the call that runs, and since when it is; 0: it is not.
        self._waited_s = self._waits_since_s = 0.0
        rpc.on_message = self._received
        rpc.on_half_close = self._half_closed
        rpc.on_cancel(self._cancelled)

    @property
    def traffic(self) -> Traffic | None:
        """None: nothing of a request, or response, has come."""
        exchange = self._exchange
        return self._headers_only if exchange is None else exchange.traffic

    # The engine's, on its loop.

    # It notes only: see NotingHandler.
    def _received(self, message: bytes) -> None:
        # Not `with`: it takes twice as long, and each message comes by.
        self._lock.acquire()
        is_next = not (self._is_busy or self._is_over)
        if is_next:
            self._is_busy = True
            self._message = message
        self._lock.release()
        # Without the lock: that of an engine may be held by who waits for it.
        if is_next:
            self._rpc.in_turn(self._take)
        else:
            self._received_early(message)

    def _received_early(self, message: bytes) -> None:
        """Before the one in front was answered; by now it may be."""
        waiter = None
        with self._lock:
            if self._is_over:
                return
            is_next = not self._is_busy
            if is_next:
                self._is_busy = True
                self._message = message
            elif self._waiter is not None:
                waiter, self._waiter = self._waiter, None
            elif self._keep_early().put(message):
                return
        if is_next:
            self._rpc.in_turn(self._take)
        elif waiter is not None:
            waiter(message)
        else:
            self._rpc.on_loop(partial(self._refuse, Status.RESOURCE_EXHAUSTED, "more came than is taken"))

    def _half_closed(self) -> None:
        with self._lock:
            self._is_half_closed = True
            waiter, self._waiter = self._waiter, None
            is_last = not (self._is_busy or self._is_over)
            if is_last:
                self._is_over = True
        if waiter is not None:
            waiter(None)
        if not is_last:
            return
        # All that came is answered.
        self._end()
        self._around.ended(self)

    def _cancelled(self) -> None:
        if self._close():
            self.cancel()

    def _close(self) -> bool:
        """Whether it is over only now. Where a message is being taken, whoever does that ends it."""
        with self._lock:
            was_over, self._is_over = self._is_over, True
            waiter, self._waiter = self._waiter, None
            is_busy = self._is_busy
            if self._early is not None:
                self._early.clear()  # Nobody takes them any more.
        if waiter is not None:
            waiter(None)
        if not (was_over or is_busy):
            self._around.ended(self)
        return not was_over

    def give_up(self) -> None:
        """Whatever it waits for. From any thread; never raises."""
        try:
            self._refuse(Status.UNAVAILABLE, "the service is shutting down")
        except Exception:
            log.exception("a stream could not be given up")

    def _refuse(self, status: Status, text: str) -> None:
        """End it with an answer: an error lets the request pass where the filter's failure mode allows it."""
        if self._close():
            self._rpc.fail(status, text)
            self.cancel()

    # In a thread.

    def _take(self) -> None:
        loop = self._service.async_calls.loop
        # There, all async handlers would wait for what blocks. As `is_read_here`, in place.
        may_block = loop is None or not loop.is_reading or loop.thread_id != _get_ident()
        if len(self._message) > _LARGE_BYTES:
            if not may_block:
                self._rpc.in_thread(self._take)
                return
            self._rpc.may_block()
        message, self._message = self._message, b""
        if self._is_over:
            self._around.ended(self)
            return
        if self._waited_s:
            self._waited_s = 0.0
        try:
            self._steps = self._steps_for(message)
        except Exception as error:  # noqa: BLE001 - answered there
            self.through(error)
            return
        del message  # It may be large, and handlers need room.
        self.go_on(may_block)

    def _steps_for(self, message: bytes) -> Steps:
        """Its steps; none, where there are hooks to be run. Raises CoprocessError."""
        traffic = self._headers_only
        if self._exchange is None:
            around = self._around
            if traffic is None:
                traffic = headers_only(message, self, around, around.max_headers)
                if traffic is not None:
                    self._headers_only = traffic
                    return NO_STEPS if traffic.hooks is not None else traffic.before_upstream()
            elif traffic.take_response(message, around.max_headers):
                return NO_STEPS if traffic.hooks is not None else traffic.after_upstream()
        return self._general().take(message, self)

    def _general(self) -> Exchange:
        """What can take, and answer, all messages."""
        exchange = self._exchange
        if exchange is None:
            exchange = self._around.new_exchange(self._find_chain)
            if self._headers_only is not None:
                exchange.go_on_from(self._headers_only)
            self._exchange, self._headers_only = exchange, None
        return exchange

    def _find_chain(self, route_name: str) -> Chain:
        chain = self.chain = self.chain_of_route(route_name)
        return chain

    def go_on(self, may_block: bool = True) -> None:
        traffic = self._headers_only
        hooks = None if traffic is None else traffic.hooks
        if traffic is None or hooks is None:
            super().go_on(may_block)
            return
        # As there, without steps.
        error = None
        try:
            call = traffic.begun  # It has ended elsewhere.
            if call is None or not traffic.is_ended_by(call):
                for hook in hooks:
                    if self._is_cancelled:
                        break
                    call = traffic.begun = EnvoyCall(hook, traffic)
                    if not (may_block or hook.is_async):
                        self.in_thread(partial(self._go_on_with, call))
                        return
                    if not self._call(call):
                        return
                    if traffic.is_ended_by(call):
                        break
        except Exception as raised:  # noqa: BLE001 - passed on
            error = raised
        self._current = traffic.begun = None
        if self._is_cancelled:
            self.stopped()
        else:
            self.through(error)

    def through(self, error: Exception | None) -> None:
        traffic = self._headers_only
        try:
            if error is None and traffic is not None:
                try:
                    reply = traffic.reply()
                except Exception:  # noqa: BLE001 - the Exchange finds it, too, and says so
                    reply = None
                if reply is not None:
                    if traffic.is_last:
                        self._finish(reply)
                    elif self._rpc.send(reply):
                        self._next(False)
                    else:
                        self._not_taken()
                    return
            exchange = self._general()
            if error is None:
                try:
                    replies = exchange.replies()
                except Exception as raised:  # noqa: BLE001 - answered as the others
                    error = raised
            if error is not None:
                self._service.tell_refused(error)
                replies = [exchange.refusal(error)]
                error = None  # It knows this frame: a cycle for each failure would be the collector's.
            is_done = exchange.is_done
            last = replies.pop() if is_done and replies else None
            if not all(map(self._rpc.send, replies)):
                self._not_taken()
            elif last is None:
                self._next(is_done)
            else:
                self._finish(last)
        except Exception:  # Ended with OK, it would let the request pass.
            log.exception("a message of a stream could not be answered")
            with suppress(Exception):
                self._refuse(Status.INTERNAL, "internal error")
            # Also where `_finish` had begun: of two ends, the first counts.
            self._rpc.end(Status.INTERNAL, "internal error")
            self._around.ended(self)

    def stopped(self) -> None:
        self._around.ended(self)

    def _finish(self, last: bytes) -> None:
        """Nothing is owed then, and nothing that could come matters."""
        self._lock.acquire()
        was_over, self._is_over = self._is_over, True
        self._lock.release()
        if not (was_over or self._rpc.finish(last)):
            self._rpc.fail(Status.RESOURCE_EXHAUSTED, _NOT_TAKEN)
        self._around.ended(self)

    def _not_taken(self) -> None:
        self._refuse(Status.RESOURCE_EXHAUSTED, _NOT_TAKEN)
        self._next(False)

    def _next(self, is_done: bool) -> None:
        self._lock.acquire()
        if not (is_done or self._is_over or self._early or self._is_half_closed):
            # Nearly always.
            self._is_busy = False
            self._lock.release()
            return
        following = None
        was_over = self._is_over
        if not (was_over or is_done):
            if self._early:
                following = self._early.take()
            else:
                self._is_busy = False
        if following is None:
            self._is_over = True
        self._lock.release()
        if following is None:
            if not was_over:
                # Nothing is owed, and nothing that could come matters.
                self._end()
            self._around.ended(self)
        else:
            self._message = following
            self._rpc.in_turn(self._take)

    def _end(self) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.owes_reply:
            self._rpc.fail(Status.INTERNAL, "the stream ended before the body did")
        else:
            self._rpc.end()

    # A Wire's: for a handler that runs.

    def send_now(self, reply: bytes) -> None:
        if not self._rpc.send(reply):
            raise BodyCut("the client left, or does not read")

    def ask(self, waiter: Waiter) -> None:
        message = None
        with self._lock:
            if self._early:
                message = self._early.take()
            elif not (self._is_over or self._is_half_closed):
                self._waiter = waiter
                return
        waiter(message)

    def give_back(self, message: bytes) -> None:
        with self._lock:
            self._keep_early().put_first(message)

    def _keep_early(self) -> EarlyMessages:
        """With the lock. Most streams have none."""
        early = self._early
        if early is None:
            early = self._early = EarlyMessages(self._around.early_bytes)
        return early

    def let_go(self) -> None:
        """At its end: of what nobody takes any more."""
        # It knows this stream: a cycle for each would be the collector's.
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if exchange.is_left_waiting():
                self._service.tell_refused(HandlerFailed(f"left waiting for a body: {NO_OVERRIDE}"))
            exchange.let_go()
        if self._early is not None:
            with self._lock:
                self._early.clear()

    def wait(self, *, begins: bool) -> None:
        now_s = time.monotonic()
        if begins:
            self._waits_since_s = now_s
        else:
            self._waited_s += now_s - self._waits_since_s
            self._waits_since_s = 0.0

    # A Chain's.

    def held_up_s(self) -> float:
        since_s = self._waits_since_s
        return self._waited_s + (time.monotonic() - since_s if since_s else 0.0)

    def metadata(self) -> Metadata:
        return self._rpc.metadata()

    def in_thread(self, task: Callable[[], None]) -> None:
        self._rpc.in_thread(task)

    def may_block(self) -> None:
        self._rpc.may_block()

    def runs_on(self, loop: HandlersLoop) -> None:
        self._rpc.runs_on(loop)


def refusal(status: Status, text: str) -> bytes:
    """The reply in place of an error."""
    answer = failure_answer(status)
    mutation = guard.answer_mutation(answer.headers)
    return encoding.immediate(answer.status, mutation, answer.body, guard.details(text))


_NOT_TAKEN = "the replies are too large, or are not read"


def refuse(rpc: BidiRpc, error: CoprocessError) -> None:
    """End a stream that is not taken."""
    rpc.on_loop(partial(rpc.fail, error.status, str(error)))
