"""What a WSGI app answers, on its way through the Response handlers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from coprocess.api.held import Bare
from coprocess.api.unread import NO_EDITS
from coprocess.gateways.web.http import app_response, body_to_send, end_without_body, no_body_asked_for
from coprocess.gateways.web.wsgi_messages import (
    StartResponse,
    native_headers,
    send_answer,
    status_line,
    with_native_edits,
)
from coprocess.runtime.answers import error_answer
from coprocess.runtime.around.request import RequestExchange


class Editing(Protocol):
    """What runs the Response handlers."""

    @property
    def max_body_bytes(self) -> int:
        """How much of a body they may have."""

    def edit_response(self, exchange: RequestExchange) -> None:
        """Run them."""

    def tell_too_large(self) -> None:
        """Log that a body is larger than that."""


class ResponseOnItsWay(Bare):
    """What the app answers, on its way through the Response handlers.

    They run when the app calls `start_response`, or, where they use the body, when that is whole. A second
    call, with `exc_info`, is another response, and they run for that again. `on_its_way` makes one.
    """

    __slots__ = (
        "_around",
        "_exchange",
        "_has_started",
        "_head",
        "_keeps_body",
        "_method",
        "_new_body",
        "_size",
        "_start_response",
        "_written",
    )

    _around: Editing
    _exchange: RequestExchange
    _method: str
    _start_response: StartResponse
    _keeps_body: bool
    #: Of a body that is kept: what the app began it with, what there is of it, and how large it is.
    _head: tuple[str, list[tuple[str, str]], Any] | None
    _written: list[bytes]
    _size: int
    #: Takes the place of the app's body.
    _new_body: bytes | None
    _has_started: bool

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """The `start_response` of the app."""
        if exc_info is None and (self._head is not None or self._has_started):
            raise AssertionError("start_response was called twice, without exc_info")
        if self._keeps_body:
            # Nothing of another response has gone out.
            self._written.clear()
            self._size = 0
            self._head = (status, headers, exc_info)
            return self._keep
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
        exchange = self._exchange
        came_with = int(status[:3])
        exchange.response = app_response(came_with, native_headers(headers), body_source)
        self._around.edit_response(exchange)
        response = exchange.response
        if response.status != came_with:
            end_without_body(response, came_with)
            status = status_line(response.status)
        if response.headers.replaced is not NO_EDITS or response.has_new_body:
            headers = with_native_edits(headers, response)
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
        try:
            for chunk in chunks:
                self._keep(chunk)
                if self._size > limit_bytes:
                    break
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        if self._size > limit_bytes:
            self._around.tell_too_large()
            return send_answer(error_answer(500, "Middleware error"), self._method, self._start_response)
        if self._head is None:
            raise AssertionError("the app has not called start_response")
        body = b"".join(self._written)
        self._begin(*self._head, lambda: body)
        return [body if self._new_body is None else self._new_body]

    def _keep(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._around.max_body_bytes:
            self._written.append(chunk)
        else:
            self._written.clear()

    @property
    def new_body(self) -> bytes | None:
        return self._new_body


def on_its_way(
    around: Editing, exchange: RequestExchange, method: str, start_response: StartResponse
) -> ResponseOnItsWay:
    response = ResponseOnItsWay()
    response._around, response._exchange = around, exchange
    response._method, response._start_response = method, start_response
    response._head = response._new_body = None
    response._has_started = False
    response._keeps_body = exchange.chain.response_uses_body
    if response._keeps_body:
        response._written = []
        response._size = 0
    return response


def run_to_first(chunks: Iterable[bytes]) -> Iterable[bytes]:
    """`chunks`, run up to the first: an app that is a generator does nothing before, nor does it fail."""
    if isinstance(chunks, (list, tuple)):
        return chunks
    try:
        iterator = iter(chunks)
        first = list(itertools.islice(iterator, 1))
    except BaseException:
        if hasattr(chunks, "close"):
            chunks.close()
        raise
    return _Begun(chunks, itertools.chain(first, iterator))


class _Begun:
    def __init__(self, chunks: Iterable[bytes], all_of_them: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._all = all_of_them

    def __iter__(self) -> Iterator[bytes]:
        return self._all

    def close(self) -> None:
        if hasattr(self._chunks, "close"):
            self._chunks.close()


class _Chunks:
    """The app's chunks, where it may start its response late, or that is replaced."""

    def __init__(self, response: ResponseOnItsWay, chunks: Iterable[bytes]) -> None:
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
