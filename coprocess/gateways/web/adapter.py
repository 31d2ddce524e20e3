"""Handlers around one web app: loaded, opened and closed, and what happens to a request, step by step.

The steps do no I/O: they are generators, which ask for what they need (`Need`) and are sent what came of
it, by a driver for ASGI and by one for WSGI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from coprocess.api.app import configuring
from coprocess.api.context import CallContext
from coprocess.api.held import HeldSession
from coprocess.api.moments import HookType
from coprocess.errors import CoprocessError, LoadError, Status
from coprocess.gateways.web.answers import Answer, failure_answer
from coprocess.gateways.web.call import Exchange, WebCall
from coprocess.gateways.web.chain import chain_of
from coprocess.gateways.web.event import WebEventCall, event_of, message_of
from coprocess.gateways.web.home import HOME
from coprocess.gateways.web.limits import Limiter
from coprocess.gateways.web.spec import WebSpec
from coprocess.loading.hooks import HookTable
from coprocess.loading.loader import Loaded, load
from coprocess.loading.objects import load_objects
from coprocess.loading.resources import Spawn
from coprocess.runtime.admission import (
    Refusal,
    is_limited,
    refusal_by_limit,
    refusal_of,
    refusal_of_nobody,
)
from coprocess.runtime.gateway import Gateway, Opener
from coprocess.runtime.in_process import InProcess, InProcessRpc
from coprocess.runtime.service import Service, ServiceOptions

log = structlog.get_logger("coprocess")

DEFAULT_MAX_BODY_BYTES = 4 << 20
_OPEN_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 5.0


class _Need:
    """Something other than a call that a step needs."""


#: The request's body; the driver sends back an Answer where it cannot be had.
BODY = _Need()
#: To ask the store whether the caller may go on; the driver sends back what `Adapter.limited` gives.
LIMITS = _Need()
Need = WebCall | _Need
Steps = Generator[Need, Any, Answer | None]


class WebGateway(Gateway):
    """Its calls are opened by requests in this process, not by messages."""

    name = "web"

    def __init__(self, table: HookTable, spec: WebSpec) -> None:
        self.table = table
        self._spec = spec

    @property
    def methods(self) -> Mapping[str, Opener]:
        return {}

    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> WebEventCall:
        hook = self.table.choose(HookType.Event, name, self._spec.api_id)
        return WebEventCall(hook, event_of(name, payload, self._spec), self._spec)


class Adapter:
    """What a Middleware has besides its app. Raises LoadError and ConfigError for what is wrong."""

    def __init__(
        self,
        handlers: Any,
        *,
        chain: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        app_config: Mapping[str, Any] | None = None,
        api_id: str = "",
        org_id: str = "",
        timeout_s: float = 30.0,
        failure_status: int | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        store: str | None = None,
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self.spec = WebSpec(api_id, org_id, config or {})
        self._options = ServiceOptions(timeout_s=timeout_s, failure_status=failure_status, owns_process=False)
        self._loaded = _load(handlers, app_config)
        self.chain = chain_of(self._loaded.table, chain, api_id)
        self._limiter = Limiter(store, api_id)
        self._service: Service | None = None
        self._calls: InProcess | None = None
        #: Why requests are refused; None: they are not.
        self.problem: str | None = None

    @property
    def calls(self) -> InProcess:
        """Raises RuntimeError where it is not open."""
        if self._calls is None:
            raise RuntimeError("the handlers are not open")
        return self._calls

    @property
    def is_open(self) -> bool:
        return self._calls is not None

    def open(self, spawn: Spawn | None) -> None:
        """Start the service and open the resources. It blocks.

        `spawn` starts coroutines on the handlers' loop; None: on the service's own. Where a resource does not
        open, `problem` says so, and requests are to be refused.
        """
        service = Service(WebGateway(self._loaded.table, self.spec), self._options)
        service.start()
        problems = list(self._loaded.problems)
        self._loaded.open(spawn or service.async_calls.spawn, _OPEN_TIMEOUT_S)
        opened = [each for each in self._loaded.problems if each not in problems]
        # A later opening may go well.
        self._loaded.problems = problems
        self.problem = "; ".join(map(str, opened)) or None
        if self.problem is not None:
            log.error("requests are refused, as a resource did not open", problem=self.problem)
        self.spec.event_sink = service.trigger_event
        self._service, self._calls = service, InProcess(service)

    def close(self) -> None:
        """Close the resources and end the service, in a few seconds at most. It blocks."""
        service, calls = self._service, self._calls
        self._service = self._calls = None
        if service is None or calls is None:
            return
        service.drain(_CLOSE_TIMEOUT_S)
        calls.end_left()
        self.spec.event_sink = None
        self._loaded.close(_CLOSE_TIMEOUT_S)
        service.stop(_CLOSE_TIMEOUT_S)
        self._limiter.close()

    def forget(self) -> None:
        """Let go of what another process has opened, and this one was forked from: that one closes it."""
        self._service = self._calls = None
        for lifecycle in self._loaded.lifecycles:
            lifecycle.resources.forget()

    @property
    def service(self) -> Service | None:
        """None where it is not open."""
        return self._service

    # The steps of a request.

    def before_app(self, exchange: Exchange) -> Steps:
        """Up to the app. Gives the answer that ends the request here, or None."""
        if self.problem is not None:
            return failure_answer(Status.INTERNAL)
        has_body, is_known = False, False
        for moment, steps in self.chain.before:
            if moment is HookType.CustomKeyCheck:
                # As at gateways: who calls is for this moment to say, and not for one before it.
                exchange.forget_session()
            elif is_known and moment is HookType.Post:
                is_known = False
                if (answer := (yield from self._check_session(exchange))) is not None:
                    return answer
            for step in steps:
                if step.uses_body and not has_body:
                    has_body = True
                    refusal: Answer | None = yield BODY
                    if refusal is not None:
                        return refusal
                call = WebCall(step.hook, exchange)
                rpc: InProcessRpc = yield call
                if (answer := exchange.settle(call, rpc)) is not None:
                    if answer.is_rejection:
                        self._fire(exchange, "AuthFailure", "Auth Failure")
                    return answer
            if moment is HookType.CustomKeyCheck:
                if (answer := self._admit(exchange)) is not None:
                    return answer
                is_known = True
        if is_known:
            return (yield from self._check_session(exchange))
        return None

    def _admit(self, exchange: Exchange) -> Answer | None:
        session = exchange.session
        if not session.token:
            session.token = session.metadata.get("token", "")
        if not session.token:
            return self._refuse(exchange, refusal_of_nobody())
        session.metadata["token"] = session.token
        session.org_id = self.spec.org_id
        return None

    def _check_session(self, exchange: Exchange) -> Steps:
        """Expiry, rate and quota: after PostKeyAuth, before Post."""
        session = exchange.session
        if (refusal := refusal_of(session)) is not None:
            return self._refuse(exchange, refusal)
        if is_limited(session):
            exceeded: str = yield LIMITS
            if (refusal := refusal_by_limit(exceeded)) is not None:
                return self._refuse(exchange, refusal)
        return None

    def _refuse(self, exchange: Exchange, refusal: Refusal) -> Answer:
        if refusal.event:
            self._fire(exchange, refusal.event, refusal.message)
        return refusal.answer

    def limited(self, session: HeldSession) -> str:
        """`rate` or `quota`, if one is exceeded; `unknown` where nobody can tell; else empty. It blocks."""
        try:
            return self._limiter.exceeded(session)
        except Exception as error:  # noqa: BLE001 - whatever fails lets nobody pass
            text = str(error) if isinstance(error, CoprocessError) else f"{type(error).__name__}: {error}"
            log.error("a rate or quota could not be kept: the request is refused", reason=text)
            return "unknown"

    def tell_too_large(self, limit_bytes: int) -> None:
        """Log that a response is larger than Response handlers that use its body can have it."""
        log.error("a response is too large for its handlers: it is refused", max_body_bytes=limit_bytes)

    def after_app(self, exchange: Exchange) -> Steps:
        """After the app has answered: `exchange.response` is edited. Gives None."""
        for step in self.chain.after:
            call = WebCall(step.hook, exchange)
            rpc: InProcessRpc = yield call
            if (answer := exchange.settle(call, rpc)) is not None:
                exchange.replace_response(answer)
                break
        return None

    def _fire(self, exchange: Exchange, event_type: str, message: str) -> None:
        listeners = self.chain.listeners_of(event_type)
        if not listeners or self._service is None:
            return
        meta = {
            "Message": message,
            "Path": exchange.request.path,
            "Origin": "",
            "Key": exchange.session.token or exchange.request.headers.get("Authorization", ""),
        }
        payload = json.dumps({"message": message_of(event_type, meta)})
        for name in listeners:
            self._service.trigger_event(name, payload)


def _load(handlers: Any, app_config: Mapping[str, Any] | None) -> Loaded:
    given = (
        [handlers]
        if isinstance(handlers, (str, os.PathLike)) or not isinstance(handlers, Iterable)
        else handlers
    )
    folders, objects = [], []
    for each in given:
        if isinstance(each, (str, os.PathLike)):
            folders.append(Path(each))
        else:
            objects.append(each)

    def config_of(name: str) -> Mapping[str, Any]:
        settings = (app_config or {}).get(name, {}) if name else app_config
        return settings if isinstance(settings, Mapping) else {}

    with configuring(config_of):
        loaded = load(folders, HOME) if folders else Loaded(HookTable())
    if loaded.problems:
        raise LoadError("; ".join(map(str, loaded.problems)))
    loaded.serve()
    if objects:
        of_objects = load_objects(objects, HOME)
        for lifecycle in of_objects.lifecycles:
            if app_config is not None:
                lifecycle.app.config = MappingProxyType(dict(config_of(lifecycle.app.name)))
        loaded.table = HookTable([*loaded.table, *of_objects.table])
        loaded.lifecycles += of_objects.lifecycles
    return loaded
