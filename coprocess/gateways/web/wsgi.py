"""Handlers around a WSGI app."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from coprocess.api.held import Bare
from coprocess.gateways.web.home import HOME
from coprocess.gateways.web.host import MiddlewareHost
from coprocess.gateways.web.http import quota_headers
from coprocess.gateways.web.wsgi_ending import ended_with
from coprocess.gateways.web.wsgi_messages import (
    Environ,
    RequestBody,
    StartResponse,
    environ_for_app,
    environ_request,
    send_answer,
    telling,
)
from coprocess.gateways.web.wsgi_response import on_its_way, run_to_first
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.answers import Answer
from coprocess.runtime.around.adapter import DEFAULT_TIMEOUT_S, Adapter, Options
from coprocess.runtime.around.ending import InThread, run_now
from coprocess.runtime.around.request import RequestCall, RequestExchange
from coprocess.runtime.around.steps import BODY, Requests, Steps
from coprocess.runtime.tracing import CallTracing

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


class _Exchange(Bare, RequestExchange):
    __slots__ = ("body",)

    #: None where nobody has asked for it.
    body: RequestBody | None


def _exchange(environ: Environ, requests: Requests) -> _Exchange:
    """As the constructor of the base class."""
    exchange = _Exchange()
    chain = requests.gateway.chain
    exchange.spec, exchange.chain = requests.spec, chain
    exchange.request, exchange.calls = environ_request(environ), requests.calls
    exchange.response = exchange.answer = exchange._session = exchange._state = exchange.body = None
    exchange.lifetime = Lifetime() if chain.has_end else None
    return exchange


class Around:
    """A WSGI app around `app`: handlers run before and after it. `requests` knows them."""

    def __init__(self, app: Any, requests: Requests, timeout_s: float) -> None:
        """`timeout_s`: what each async step at the end of a request may take."""
        self.app = app
        self._requests = requests
        self._ending = InThread(requests, timeout_s)
        #: The process in which the handlers can run.
        self._pid = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if self._pid != os.getpid():
            self.open()
        service = self._requests.service
        if service is None or (tracing := service.tracing) is None:
            return self._request(environ, start_response)
        return self._traced(tracing, environ, start_response)

    def _traced(
        self, tracing: CallTracing, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        names = (("traceparent", "HTTP_TRACEPARENT"), ("tracestate", "HTTP_TRACESTATE"))
        headers = [(name, environ[key]) for name, key in names if key in environ]
        trace = tracing.request(environ["REQUEST_METHOD"], self._requests.spec.api_id, headers)

        def watched(status: str, *rest: Any) -> Callable[[bytes], object]:
            trace.answered(int(status[:3]))
            return start_response(status, *rest)

        try:
            with trace.current():
                chunks = self._request(environ, watched)
        except BaseException as error:
            trace.end(error)
            raise
        return ended_with(chunks, trace.end, environ)

    def _request(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        requests = self._requests
        exchange = _exchange(environ, requests)
        if not exchange.chain.has_app:
            return self._answered(environ, start_response, exchange)
        requests.began(exchange)
        try:
            chunks = self._answered(environ, start_response, exchange)
        except BaseException as error:
            self._end(exchange, error)
            raise
        return ended_with(chunks, lambda error: self._end(exchange, error), environ)

    def open(self) -> None:
        """Make that the handlers can run, in this process. The first request does it."""
        self._pid = os.getpid()

    def _end(self, exchange: RequestExchange, error: BaseException | None) -> None:
        """Run what a request leaves for its end."""
        lifetime: Lifetime | None = exchange.lifetime
        if lifetime is not None:
            if error is not None:
                lifetime.note(error)
            if (steps := lifetime.end(self._ending)) is not None:
                run_now(steps)
        self._requests.ended(exchange)

    def _answered(
        self, environ: Environ, start_response: StartResponse, exchange: _Exchange
    ) -> Iterable[bytes]:
        requests, chain, method = self._requests, exchange.chain, environ["REQUEST_METHOD"]
        if (hooks := chain.plain_before) is None or requests.problem or requests.gateway.problem:
            self._drive(requests.before_app(exchange), exchange, environ)
        else:
            requests.run_before(exchange, hooks, exchange.calls)
        if exchange.answer is not None:
            return send_answer(exchange.answer, method, start_response)
        has_session = (session := exchange._session) is not None and bool(session)
        inner = environ_for_app(environ, exchange, has_session)
        body = exchange.body
        if exchange.request.has_new_body:
            body = body or RequestBody(environ, requests.max_body_bytes)
            body.replace(exchange.request.raw_body)
        if body is not None:
            body.hand_over(inner)
        if has_session and (told := quota_headers(exchange.session)):
            start_response = telling(told, start_response)
        response = on_its_way(self, exchange, method, start_response) if chain.after else None
        try:
            start = start_response if response is None else response.start
            began: list[bool] = []
            if chain.for_app_errors:
                start = _noting(start, began)
            result: Iterable[bytes] = self.app(inner, start)
            if chain.for_app_errors and not began:
                result = run_to_first(result)
            return result if response is None else response.passing(result)
        except Exception as error:
            if not chain.for_app_errors:
                raise
            answer = self._drive(requests.app_failed(exchange, error), exchange, environ)
            if answer is None:
                raise
            # As the app would answer, had it caught the error itself: nothing of a body has gone out yet.
            exc_info = sys.exc_info()
            if response is None:
                return send_answer(answer, method, start_response, exc_info)
            return response.passing(send_answer(answer, method, response.start, exc_info))

    def _drive(self, steps: Steps, exchange: _Exchange, environ: Environ) -> Answer | None:
        requests = self._requests
        calls = exchange.calls
        for need in steps:
            if type(need) is RequestCall:
                calls.call(need)
            elif need is BODY:
                exchange.body = body = RequestBody(environ, requests.max_body_bytes)
                if (answer := body.read()) is None:
                    exchange.request.body_came(body.kept())
                exchange.given = answer
            else:
                exchange.given = requests.limited(exchange.session)
        return exchange.answer

    def edit_response(self, exchange: RequestExchange) -> None:
        """Run the Response handlers."""
        self._requests.run_after(exchange, exchange.calls)

    def tell_too_large(self) -> None:
        """Log that a response is larger than its handlers can have it."""
        self._requests.tell_too_large(self._requests.max_body_bytes)

    @property
    def max_body_bytes(self) -> int:
        return self._requests.max_body_bytes


def _noting(start_response: StartResponse, began: list[bool]) -> StartResponse:
    """`start_response` that tells `began` of it."""

    def start(*arguments: Any) -> Callable[[bytes], object]:
        began.append(True)
        return start_response(*arguments)

    return start


class Middleware(Around):
    """A WSGI app around `app`: handlers run before and after it.

    Its parameters are those of `coprocess.asgi.Middleware`. Resources open at the first request, in each
    process, and close at `close()` or at the end of the process.
    """

    #: What loads, reloads and counts.
    host_class: ClassVar[type[MiddlewareHost]]

    def __init__(self, app: Any, handlers: Any = (), **options: Unpack[Options]) -> None:
        self.adapter = Adapter(HOME, handlers, self.host_class, **options)
        super().__init__(app, self.adapter, options.get("timeout_s", DEFAULT_TIMEOUT_S))
        self._opening = threading.Lock()
        # A lock that another thread holds at a fork would stay taken in the child.
        os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._opening = threading.Lock()

    def open(self) -> None:
        """Open the resources, where they are not. The first request does it."""
        with self._opening:
            if self._pid == os.getpid():
                return
            if self._pid:
                # One that is forked from the process that opened them has its own.
                self.adapter.forget()
            self.adapter.open(None)
            self._pid = os.getpid()
            atexit.register(self.close)

    def close(self) -> None:
        """Close the resources, when the last request has ended."""
        with self._opening:
            atexit.unregister(self.close)
            if self._pid == os.getpid():
                self.adapter.close()
            self._pid = 0

    def reload(self) -> Any:
        """Load the handlers of this process anew: all or nothing. Requests end on those they began with.

        Gives the outcome: `succeeded`, `errors`, `hooks`. Raises RuntimeError where it is not open.
        """
        return self.adapter.host.reload("asked for")

    def metrics(self) -> bytes:
        """What Prometheus reads, of this process. Raises RuntimeError where it is not open."""
        return self.adapter.host.metrics()

    def collector(self) -> Collector:
        """The same, for a registry of the app's own."""
        collector: Collector = self.adapter.host.collector()
        return collector
