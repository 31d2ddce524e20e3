"""Handlers around a WSGI app."""

from __future__ import annotations

import atexit
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.http import canonical_name
from coprocess.gateways.web.adapter import BODY, DEFAULT_MAX_BODY_BYTES, Adapter, Steps
from coprocess.gateways.web.answers import Answer, error_answer
from coprocess.gateways.web.call import Exchange, WebCall
from coprocess.gateways.web.http import (
    Caller,
    RawHeader,
    answer_headers,
    body_to_send,
    held_headers,
    no_body_asked_for,
    quota_headers,
    text_of,
    with_edits,
)

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]

_CHUNK_BYTES = 1 << 16


class Middleware:
    """A WSGI app around `app`: handlers run before and after it.

    Its parameters are those of `coprocess.asgi.Middleware`. Resources open at the first request, in each
    process, and close at `close()` or at the end of the process.
    """

    def __init__(
        self,
        app: Any,
        handlers: Any = (),
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
        self.app = app
        self.adapter = Adapter(
            handlers,
            chain=chain,
            config=config,
            app_config=app_config,
            api_id=api_id,
            org_id=org_id,
            timeout_s=timeout_s,
            failure_status=failure_status,
            max_body_bytes=max_body_bytes,
            store=store,
        )
        self._opening = threading.Lock()
        #: The process that has opened it: one that is forked from it opens its own.
        self._pid = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        adapter = self.adapter
        if self._pid != os.getpid():
            self.open()
        body = _RequestBody(environ, adapter.max_body_bytes)
        exchange = Exchange(_request(environ, body.kept), adapter.spec)
        answer = self._drive(adapter.before_app(exchange), exchange, body)
        method = environ["REQUEST_METHOD"]
        if answer is not None:
            return _send_answer(answer, method, start_response)
        inner = _environ_for_app(environ, exchange)
        if exchange.request.has_new_body:
            body.replace(exchange.request.raw_body)
        if body.is_read:
            body.hand_over(inner)
        if told := quota_headers(exchange):
            start_response = _telling(told, start_response)
        if not adapter.chain.after:
            result: Iterable[bytes] = self.app(inner, start_response)
            return result
        response = _Response(self, exchange, method, start_response)
        return response.passing(self.app(inner, response.start))

    def open(self) -> None:
        """Open the resources, where they are not. The first request does it."""
        with self._opening:
            if self._pid == os.getpid():
                return
            if self._pid:
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

    def _drive(self, steps: Steps, exchange: Exchange, body: _RequestBody | None) -> Answer | None:
        adapter = self.adapter
        calls = adapter.calls
        try:
            need = next(steps)
            while True:
                given: Any
                if type(need) is WebCall:
                    given = calls.call(need)
                elif need is BODY:
                    given = None if body is None else body.read()
                else:
                    given = adapter.limited(exchange.session)
                need = steps.send(given)
        except StopIteration as done:
            answer: Answer | None = done.value
            return answer

    def edit_response(self, exchange: Exchange) -> None:
        """Run the Response handlers."""
        self._drive(self.adapter.after_app(exchange), exchange, None)


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
        self, middleware: Middleware, exchange: Exchange, method: str, start_response: StartResponse
    ) -> None:
        self._middleware = middleware
        self._exchange = exchange
        self._method = method
        self._start_response = start_response
        self._keeps_body = middleware.adapter.chain.response_uses_body
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
        self._middleware.edit_response(exchange)
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
        adapter = self._middleware.adapter
        size, kept = 0, []
        try:
            for chunk in chunks:
                # What it has written comes before what it yields.
                kept += self._written
                self._written.clear()
                kept.append(chunk)
                size += len(chunk)
                if size > adapter.max_body_bytes:
                    adapter.tell_too_large(adapter.max_body_bytes)
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
        if key.startswith("HTTP_"):
            name = key[5:]
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            name = key
        else:
            continue
        yield canonical_name(name.replace("_", "-")), _text(value)


def _text(value: str) -> str:
    return value if value.isascii() else text_of(value.encode("latin-1"))


def _environ_for_app(environ: Environ, exchange: Exchange) -> Environ:
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
    return [(canonical_name(name.decode("latin-1")), value.decode("latin-1")) for name, value in raw]


def _send_answer(answer: Answer, method: str, start_response: StartResponse) -> list[bytes]:
    start_response(_status_line(answer.status), _texts(answer_headers(answer)))
    body = body_to_send(answer.status, answer.body, method)
    return [body] if body else []
