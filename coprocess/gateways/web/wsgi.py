"""Handlers around a WSGI app."""

from __future__ import annotations

import atexit
import functools
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import quote, unquote_to_bytes

from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.http import canonical_name
from coprocess.gateways.web.home import HOME
from coprocess.gateways.web.http import (
    Caller,
    RawHeader,
    answer_headers,
    body_to_send,
    held_headers,
    name_of,
    no_body_asked_for,
    quota_headers,
    text_of,
    with_edits,
)
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.answers import Answer, error_answer
from coprocess.runtime.around.adapter import DEFAULT_TIMEOUT_S, Adapter, Host, Options
from coprocess.runtime.around.ending import InThread, run_now
from coprocess.runtime.around.request import RequestCall, RequestExchange
from coprocess.runtime.around.steps import BODY, Requests, Steps
from coprocess.runtime.held_call import HeldExchange
from coprocess.runtime.tracing import CallTracing

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]

_CHUNK_BYTES = 1 << 16


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
        tracing = self._requests.tracing
        if tracing is None:
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
        return _ended_with(chunks, trace.end, environ)

    def _request(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        requests = self._requests
        body = _RequestBody(environ, requests.max_body_bytes)
        exchange = RequestExchange(_request(environ, body.kept), requests.spec, requests.chain)
        if not exchange.chain.has_app:
            return self._answered(environ, start_response, exchange, body)
        requests.began(exchange)
        try:
            chunks = self._answered(environ, start_response, exchange, body)
        except BaseException as error:
            self._end(exchange, error)
            raise
        return _ended_with(chunks, lambda error: self._end(exchange, error), environ)

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
        self,
        environ: Environ,
        start_response: StartResponse,
        exchange: RequestExchange,
        body: _RequestBody,
    ) -> Iterable[bytes]:
        requests, chain, method = self._requests, exchange.chain, environ["REQUEST_METHOD"]
        answer = self._drive(requests.before_app(exchange), exchange, body)
        if answer is not None:
            return _send_answer(answer, method, start_response)
        inner = _environ_for_app(environ, exchange)
        if exchange.request.has_new_body:
            body.replace(exchange.request.raw_body)
        if body.is_read:
            body.hand_over(inner)
        if told := quota_headers(exchange):
            start_response = _telling(told, start_response)
        response = _Response(self, exchange, method, start_response) if chain.after else None
        try:
            result: Iterable[bytes] = self.app(inner, start_response if response is None else response.start)
            return result if response is None else response.passing(result)
        except Exception as error:
            if not chain.for_app_errors:
                raise
            answer = self._drive(requests.app_failed(exchange, error), exchange, body)
            if answer is None:
                raise
            # As the app would answer, had it caught the error itself: nothing of a body has gone out yet.
            exc_info = sys.exc_info()
            if response is None:
                return _send_answer(answer, method, start_response, exc_info)
            return response.passing(_send_answer(answer, method, response.start, exc_info))

    def _drive(self, steps: Steps, exchange: RequestExchange, body: _RequestBody | None) -> Answer | None:
        requests = self._requests
        calls = requests.calls
        try:
            need = next(steps)
            while True:
                given: Any
                if type(need) is RequestCall:
                    given = calls.call(need)
                elif need is BODY:
                    given = None if body is None else body.read()
                else:
                    given = requests.limited(exchange.session)
                need = steps.send(given)
        except StopIteration as done:
            answer: Answer | None = done.value
            return answer

    def edit_response(self, exchange: RequestExchange) -> None:
        """Run the Response handlers."""
        self._drive(self._requests.after_app(exchange), exchange, None)

    def tell_too_large(self) -> None:
        """Log that a response is larger than its handlers can have it."""
        self._requests.tell_too_large(self._requests.max_body_bytes)

    @property
    def max_body_bytes(self) -> int:
        return self._requests.max_body_bytes


class Middleware(Around):
    """A WSGI app around `app`: handlers run before and after it.

    Its parameters are those of `coprocess.asgi.Middleware`. Resources open at the first request, in each
    process, and close at `close()` or at the end of the process.
    """

    #: What loads, reloads and counts.
    host_class: ClassVar[type[Host]]

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


#: Told once that a body is closed, with what failed, if anything did.
End = Callable[[BaseException | None], None]


def _ended_with(chunks: Iterable[bytes], end: End, environ: Environ) -> Iterable[bytes]:
    """`chunks` such that `end` is called when they are closed."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(chunks, wrapper):
        # Servers know their own by its class, and send the file in a way of their own.
        ending = _Ending(chunks, end)
        try:
            chunks.close = ending.close  # type: ignore[attr-defined]  # as servers call it
        except AttributeError:
            return ending
        return chunks
    return _SizedEnding(chunks, end) if isinstance(chunks, (list, tuple)) else _Ending(chunks, end)


class _Ending:
    """A body whose closing is told."""

    def __init__(self, chunks: Iterable[bytes], end: End) -> None:
        self._chunks = chunks
        self._close = getattr(chunks, "close", None)
        self._end: End | None = end
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except GeneratorExit:  # Closed half-way: by a server whose client has gone.
            raise
        except BaseException as error:
            self._error = error
            raise

    def close(self) -> None:
        try:
            if self._close is not None:
                self._close()
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            end, self._end = self._end, None
            if end is not None:
                end(self._error)


class _SizedEnding(_Ending):
    """Of one chunk, servers tell the length."""

    _chunks: list[bytes]

    def __len__(self) -> int:
        return len(self._chunks)


class _RequestBody:
    """The body of a request: left to the app, or read first."""

    __slots__ = ("_body", "_environ", "_limit_bytes", "is_read")

    def __init__(self, environ: Environ, limit_bytes: int) -> None:
        self._environ = environ
        self._limit_bytes = limit_bytes
        self._body = b""
        self.is_read = False

    def read(self) -> Answer | None:
        """Read it all. An Answer where it is too large, or does not come whole."""
        length = self._environ.get("CONTENT_LENGTH") or ""
        if not length.isdigit() and not self._environ.get("wsgi.input_terminated"):
            self.replace(b"")  # None: a server that takes chunks says that the input ends.
            return None
        left = int(length) if length.isdigit() else self._limit_bytes + 1
        if left > self._limit_bytes and length:
            return self._too_large()
        chunks: list[bytes] = []
        while left > 0 and (chunk := self._environ["wsgi.input"].read(min(left, _CHUNK_BYTES))):
            chunks.append(chunk)
            left -= len(chunk)
        if length and left:
            return error_answer(400, "the request's body did not come whole")
        body = b"".join(chunks)
        if len(body) > self._limit_bytes:
            return self._too_large()
        self.replace(body)
        return None

    def _too_large(self) -> Answer:
        return error_answer(413, f"the request's body is larger than {self._limit_bytes} bytes")

    def kept(self) -> bytes:
        return self._body if self.is_read else no_body_asked_for()

    def replace(self, body: bytes) -> None:
        self._body, self.is_read = body, True

    def hand_over(self, environ: Environ) -> None:
        """Let the app read it from `environ`."""
        environ["wsgi.input"] = io.BytesIO(self._body)
        environ["CONTENT_LENGTH"] = str(len(self._body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)


class _Response:
    """What the app answers, on its way through the Response handlers.

    They run when the app calls `start_response`, or, where they use the body, when that is whole. A second
    call, with `exc_info`, is another response, and they run for that again.
    """

    def __init__(
        self, around: Around, exchange: RequestExchange, method: str, start_response: StartResponse
    ) -> None:
        self._around = around
        self._exchange = exchange
        self._method = method
        self._start_response = start_response
        self._keeps_body = exchange.chain.response_uses_body
        self._head: tuple[str, list[tuple[str, str]], Any] | None = None
        self._written: list[bytes] = []
        #: Takes the place of the app's body.
        self._new_body: bytes | None = None
        self._has_started = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """The `start_response` of the app."""
        if exc_info is None and (self._head is not None or self._has_started):
            raise AssertionError("start_response was called twice, without exc_info")
        if self._keeps_body:
            self._head = (status, headers, exc_info)
            return self._written.append
        return self._begin(status, headers, exc_info, no_body_asked_for)

    def _begin(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Any,
        body_source: Callable[[], bytes],
    ) -> Callable[[bytes], object]:
        """Run the handlers, and start the server's response."""
        self._has_started = True
        raw: list[RawHeader] = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        exchange = self._exchange
        exchange.response = HeldResponse(int(status[:3]), held_headers(raw), body_source=body_source)
        self._around.edit_response(exchange)
        response = exchange.response
        if response.status != int(status[:3]):
            status = _status_line(response.status)
        if response.headers.edited or response.has_new_body:
            headers = _texts(with_edits(raw, response))
        self._new_body = None
        if response.has_new_body:
            self._new_body = body_to_send(response.status, response.raw_body, self._method)
        if exc_info:
            write = self._start_response(status, headers, exc_info)
        else:
            write = self._start_response(status, headers)
        return write if self._new_body is None else _written_to_nobody

    def passing(self, chunks: Iterable[bytes]) -> Iterable[bytes]:
        """What the server gets in the place of the app's `chunks`."""
        if self._keeps_body:
            return self._whole(chunks)
        if self._has_started and self._new_body is None:
            return chunks  # The very object: it may be the server's own file wrapper.
        return _Chunks(self, chunks)

    def _whole(self, chunks: Iterable[bytes]) -> Iterable[bytes]:
        limit_bytes = self._around.max_body_bytes
        size, kept = 0, []
        try:
            for chunk in chunks:
                # What it has written comes before what it yields.
                kept += self._written
                self._written.clear()
                kept.append(chunk)
                size += len(chunk)
                if size > limit_bytes:
                    self._around.tell_too_large()
                    answer = error_answer(500, "Middleware error")
                    return _send_answer(answer, self._method, self._start_response)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        if self._head is None:
            raise AssertionError("the app has not called start_response")
        body = b"".join([*kept, *self._written])
        self._begin(*self._head, lambda: body)
        return [body if self._new_body is None else self._new_body]

    @property
    def new_body(self) -> bytes | None:
        return self._new_body


class _Chunks:
    """The app's chunks, where it may start its response late, or that is replaced."""

    def __init__(self, response: _Response, chunks: Iterable[bytes]) -> None:
        self._response = response
        self._chunks = chunks
        self._iterator: Iterator[bytes] | None = None
        self._is_over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._is_over:
            raise StopIteration
        if self._response.new_body is None:
            if self._iterator is None:
                self._iterator = iter(self._chunks)
            try:
                chunk = next(self._iterator)
            except StopIteration:
                self._is_over = True
                if self._response.new_body is None:
                    raise
            else:
                if self._response.new_body is None:
                    return chunk
        self._is_over = True
        return self._response.new_body

    def close(self) -> None:
        if hasattr(self._chunks, "close"):
            self._chunks.close()


def _written_to_nobody(chunk: bytes) -> None:
    """The `write` of a response whose body is replaced."""


def _request(environ: Environ, body_source: Callable[[], bytes]) -> HeldRequest:
    path = quote(environ.get("PATH_INFO", "").encode("latin-1")) or "/"
    query = environ.get("QUERY_STRING", "")
    return HeldRequest(
        environ["REQUEST_METHOD"],
        f"{path}?{query}" if query else path,
        HeldHeaders(_headers(environ)),
        scheme=environ.get("wsgi.url_scheme", "http"),
        body_source=body_source,
    )


def _headers(environ: Environ) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if (key[:5] == "HTTP_" or (key[:8] == "CONTENT_" and value)) and (name := _name_of(key)):
            yield name, value if value.isascii() else text_of(value.encode("latin-1"))


@functools.lru_cache(maxsize=4096)
def _name_of(key: str) -> str:
    """The header that `environ` has under `key`; empty: it is none."""
    if key.startswith("HTTP_"):
        return canonical_name(key[5:].replace("_", "-"))
    return canonical_name(key.replace("_", "-")) if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else ""


def _environ_for_app(environ: Environ, exchange: HeldExchange) -> Environ:
    """A copy: what the server has stays as it is."""
    inner = dict(environ)
    caller = inner["coprocess"] = Caller(exchange)
    if exchange.has_session and not inner.get("REMOTE_USER"):
        inner["REMOTE_USER"] = caller.display_name
    request = exchange.request
    for name in request.headers.edited - {"Content-Length", "Transfer-Encoding"}:
        key = name.upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        inner.pop(key, None)
        if values := request.headers.getall(name):
            inner[key] = ("; " if name == "Cookie" else ", ").join(values).encode().decode("latin-1")
    if request.has_new_path:
        inner["PATH_INFO"] = unquote_to_bytes(request.encoded_path).decode("latin-1")
        # Servers' own, of the path that came.
        for key in ("RAW_URI", "REQUEST_URI"):
            inner.pop(key, None)
    if request.has_new_query:
        inner["QUERY_STRING"] = request.query_string
    inner["REQUEST_METHOD"] = request.method
    return inner


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Status {status}"


def _telling(headers: list[tuple[str, str]], start_response: StartResponse) -> StartResponse:
    """`start_response` that adds `headers`, in the place of such that the response has."""
    names = {name.lower() for name, _ in headers}

    def telling(status: str, given: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        rest = [pair for pair in given if pair[0].lower() not in names]
        return start_response(status, [*rest, *headers], *exc_info)

    return telling


def _texts(raw: Iterable[RawHeader]) -> list[tuple[str, str]]:
    return [(name_of(name), value.decode("latin-1")) for name, value in raw]


def _send_answer(
    answer: Answer, method: str, start_response: StartResponse, exc_info: Any = None
) -> list[bytes]:
    head = _status_line(answer.status), _texts(answer_headers(answer))
    if exc_info is None:
        start_response(*head)
    else:
        start_response(*head, exc_info)
    body = body_to_send(answer.status, answer.body, method)
    return [body] if body else []
