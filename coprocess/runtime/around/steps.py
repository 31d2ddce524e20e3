"""What happens to a request around what answers it, step by step.

The steps do no I/O: they are generators, which ask for what they need (`Need`). A driver, one each for ASGI,
for WSGI and for Kong, runs the calls and brings the rest. The answer that ends the request here, if one does,
is the exchange's then: to return it would cost an exception.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog

from coprocess.api.held_session import HeldSession
from coprocess.api.moments import HookType
from coprocess.errors import ADMITS_NOBODY, CoprocessError, HandlerFailed, Status
from coprocess.loading.hooks import Hook
from coprocess.runtime.admission import (
    Refusal,
    is_limited,
    names_by_metadata_alone,
    refusal_by_limit,
    refusal_of,
    refusal_of_nobody,
)
from coprocess.runtime.answers import Answer, failure_answer
from coprocess.runtime.around.chain import Chain
from coprocess.runtime.around.gateway import AroundGateway
from coprocess.runtime.around.request import RequestExchange, request_call
from coprocess.runtime.held_call import HeldCall
from coprocess.runtime.held_event import message_of
from coprocess.runtime.held_spec import HeldSpec
from coprocess.runtime.in_process import InProcess
from coprocess.runtime.service import Service
from coprocess.runtime.session_limits import Limiter

log = structlog.get_logger("coprocess")


class _Need:
    """Something other than a call that a step needs."""


#: The request's body; the driver gives an Answer where it cannot be had, else None.
BODY = _Need()
#: To ask the store whether the caller may go on; the driver gives what `Requests.limited` does.
LIMITS = _Need()
Need = HeldCall[Any] | _Need
Steps = Iterator[Need]


# An enum's members are looked up each time.
_KEY_CHECK, _POST = HookType.CustomKeyCheck, HookType.Post


class _NotOpen:
    """In the place of what runs handlers, where nothing does."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the handlers are not open")


_NOT_OPEN: Any = _NotOpen()


class Requests:
    """Runs the handlers of `gateway` for requests, by `service` while that is there."""

    def __init__(
        self, gateway: AroundGateway, make_limiter: Callable[[], Limiter], max_body_bytes: int
    ) -> None:
        """`make_limiter` is called when the first caller has a rate or quota."""
        self.gateway = gateway
        self.spec = gateway.spec
        self.max_body_bytes = max_body_bytes
        self._make_limiter = make_limiter
        self._limiter: Limiter | None = None
        self.service: Service | None = None
        self.is_open = False
        #: What runs the handlers, while it is open.
        self.calls: InProcess = _NOT_OPEN
        #: Why requests are refused; None: they are not.
        self.problem: str | None = None

    @property
    def chain(self) -> Chain:
        """What a request that begins now runs."""
        return self.gateway.chain

    def twin(self, named: Mapping[str, Any] | None, config: Mapping[str, Any], api_id: str) -> Requests:
        """The same handlers at work, open as these are, for another chain. Raises ConfigError."""
        gateway = AroundGateway(
            self.gateway.name, self.gateway.table, HeldSpec(api_id, self.spec.org_id, config), lambda: named
        )
        gateway.check_table(gateway.table)
        gateway.table = gateway.table
        twin = Requests(gateway, self._limits, self.max_body_bytes)
        twin.problem = self.problem
        if self.service is not None:
            twin.use(self.service)
        return twin

    def use(self, service: Service) -> None:
        """Run handlers by `service` from now on."""
        self.spec.event_sink = service.events.trigger
        self.service, self.calls = service, InProcess(service)
        self.is_open = True

    def leave(self) -> InProcess | None:
        """Run none any more. Gives what ran them."""
        calls = self.calls if self.is_open else None
        self.is_open, self.service, self.calls = False, None, _NOT_OPEN
        self.spec.event_sink = None
        if self._limiter is not None:
            self._limiter.close()
        return calls

    # The steps of a request.

    def before_app(self, exchange: RequestExchange) -> Steps:
        """Up to the app, or to an answer."""
        if self.refuses:
            exchange.answer = failure_answer(Status.INTERNAL)
            return
        has_body = is_known = False
        for moment, steps in exchange.chain.before:
            if moment is _KEY_CHECK:
                # As at gateways: who calls is for this moment to say, and not for one before it.
                exchange.forget_session()
            elif is_known and moment is _POST:
                is_known = False
                yield from self._check_session(exchange)
                if exchange.answer is not None:
                    return
            for step in steps:
                if step.uses_body and not has_body:
                    has_body = True
                    yield BODY
                    if exchange.given is not None:
                        exchange.answer = exchange.given
                        return
                call = request_call(step.hook, exchange)
                yield call
                if (answer := exchange.settle(call, call.failure)) is not None:
                    self.ended_by(exchange, answer)
                    return
            if moment is _KEY_CHECK:
                self._admit(exchange, steps[-1].hook)
                if exchange.answer is not None:
                    return
                is_known = True
        if is_known:
            yield from self._check_session(exchange)

    @property
    def refuses(self) -> bool:
        """Whether requests are refused, as handlers are not there that should be."""
        return self.problem is not None or self.gateway.problem is not None

    def ended_by(self, exchange: RequestExchange, answer: Answer) -> None:
        """A handler before the app has ended the request."""
        exchange.answer = answer
        if answer.is_rejection:
            self._fire(exchange, "AuthFailure", "Auth Failure")

    def _admit(self, exchange: RequestExchange, hook: Hook) -> None:
        """After `hook`, the last CustomKeyCheck."""
        session = exchange.session
        if not session.token:
            token = session.metadata.get("token", "")
            if names_by_metadata_alone(session, token):
                error = HandlerFailed(f'{hook.type.name} hook "{hook.name}" {ADMITS_NOBODY}')
                if self.service is not None:
                    self.service.tell_failed(hook, self.spec.api_id, error)
                exchange.answer = failure_answer(error.status)
                return
            session.token = token
        if not session.token:
            self._refuse(exchange, refusal_of_nobody())
            return
        session.metadata["token"] = session.token
        session.org_id = self.spec.org_id

    def _check_session(self, exchange: RequestExchange) -> Steps:
        """Expiry, rate and quota: after PostKeyAuth, before Post."""
        session = exchange.session
        if (refusal := refusal_of(session)) is not None:
            self._refuse(exchange, refusal)
        elif is_limited(session):
            yield LIMITS
            if (refusal := refusal_by_limit(exchange.given)) is not None:
                self._refuse(exchange, refusal)

    def _refuse(self, exchange: RequestExchange, refusal: Refusal) -> None:
        if refusal.event:
            self._fire(exchange, refusal.event, refusal.message)
        exchange.answer = refusal.answer

    def limited(self, session: HeldSession) -> str:
        """`rate` or `quota`, if one is exceeded; `unknown` where nobody can tell; else empty. It blocks."""
        try:
            return self._limits().exceeded(session)
        except Exception as error:  # noqa: BLE001 - whatever fails lets nobody pass
            text = str(error) if isinstance(error, CoprocessError) else f"{type(error).__name__}: {error}"
            log.error("a rate or quota could not be kept: the request is refused", reason=text)
            return "unknown"

    def _limits(self) -> Limiter:
        if self._limiter is None:
            self._limiter = self._make_limiter()
        return self._limiter

    def tell_too_large(self, limit_bytes: int) -> None:
        """Log that a response is larger than Response handlers that use its body can have it."""
        log.error("a response is too large for its handlers: it is refused", max_body_bytes=limit_bytes)

    def app_failed(self, exchange: RequestExchange, error: Exception) -> Steps:
        """Where the app has raised, and has not answered: to what an error handler answers."""
        for handles, hook in exchange.chain.for_app_errors:
            if handles(error):
                call = request_call(hook, exchange)
                call.error = error
                yield call
                exchange.answer = exchange.settle(call, call.failure)
                return

    # The same without steps, for callers in threads. `calls` are those that the request began with: they
    # refuse what comes when the handlers are closed.

    def run_before(self, exchange: RequestExchange, hooks: Iterable[Hook], calls: InProcess) -> None:
        """As `before_app`, where that has nothing to do but to run `hooks`."""
        for hook in hooks:
            call = request_call(hook, exchange)
            calls.call(call)
            if (answer := exchange.settle(call, call.failure)) is not None:
                self.ended_by(exchange, answer)
                return

    def run_after(self, exchange: RequestExchange, calls: InProcess) -> None:
        """After the app has answered: `exchange.response` is edited."""
        for step in exchange.chain.after:
            call = request_call(step.hook, exchange)
            calls.call(call)
            if (answer := exchange.settle(call, call.failure)) is not None:
                exchange.replace_response(answer)
                return

    # Requests that others wait for.

    def began(self, exchange: RequestExchange) -> None:
        """To be told of a request whose chain `has_app`: the App's resources stay open for it."""
        exchange.chain.requests.add(exchange)

    def ended(self, exchange: RequestExchange) -> None:
        """The same, when all has run that is left for its end."""
        exchange.chain.requests.discard(exchange)

    def _fire(self, exchange: RequestExchange, event_type: str, message: str) -> None:
        listeners = exchange.chain.listeners_of(event_type)
        if not listeners or self.service is None:
            return
        meta = {
            "Message": message,
            "Path": exchange.request.path,
            "Origin": "",
            "Key": exchange.session.token or exchange.request.headers.get("Authorization", ""),
        }
        payload = json.dumps({"message": message_of(event_type, meta)})
        for name in listeners:
            self.service.events.trigger(name, payload)
