"""Requests and answers as WSGI has them, and as handlers do."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from coprocess.api.held import Bare, HeldResponse
from coprocess.api.http import canonical_name, encoded_path, escaped
from coprocess.api.unread import NO_EDITS, UnreadHeaders, UnreadRequest
from coprocess.bounded import kept_by_name
from coprocess.gateways.web.http import (
    FRAMING,
    Caller,
    HeldBody,
    body_to_send,
    edits_of,
    no_body_asked_for,
    response_of,
    text_of,
    trimmed,
    without,
)
from coprocess.runtime.answers import Answer, error_answer
from coprocess.runtime.held_call import HeldExchange

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]

_CHUNK_BYTES = 1 << 16


class RequestBody(HeldBody):
    """The body of a request: left to the app, or read first."""

    def __init__(self, environ: Environ, limit_bytes: int) -> None:
        self._environ = environ
        self._limit_bytes = limit_bytes

    def read(self) -> Answer | None:
        """Read it all. An Answer where it is too large, or does not come whole."""
        length = self._environ.get("CONTENT_LENGTH") or ""
        is_known = length.isdecimal()
        if not is_known and not self._environ.get("wsgi.input_terminated"):
            self.replace(b"")  # None: a server that takes chunks says that the input ends.
            return None
        left = int(length) if is_known else self._limit_bytes + 1
        if left > self._limit_bytes and is_known:
            return self._too_large()
        chunks: list[bytes] = []
        while left > 0 and (chunk := self._environ["wsgi.input"].read(min(left, _CHUNK_BYTES))):
            chunks.append(chunk)
            left -= len(chunk)
        if is_known and left:
            return error_answer(400, "the request's body did not come whole")
        body = b"".join(chunks)
        if len(body) > self._limit_bytes:
            return self._too_large()
        self.replace(body)
        return None

    def hand_over(self, environ: Environ) -> None:
        """Let the app read it from `environ`."""
        environ["wsgi.input"] = io.BytesIO(self._body)
        environ["CONTENT_LENGTH"] = str(len(self._body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)


class EnvironRequest(Bare, UnreadRequest):
    """A request as its `environ` has it. `environ_request` makes one."""

    if not TYPE_CHECKING:
        __slots__ = ("_environ",)

    _environ: Environ

    def _path_that_came(self) -> str:
        return encoded_path(self._environ.get("PATH_INFO", "").encode("latin-1")) or "/"

    def _query_that_came(self) -> str:
        query: str = self._environ.get("QUERY_STRING", "")
        return query if query.isascii() else escaped(query.encode("latin-1"))

    def _scheme_that_came(self) -> str:
        scheme: str = self._environ.get("wsgi.url_scheme", "http")
        return scheme


def _utf8(value: str) -> str:
    """A value that WSGI passes as Latin-1."""
    return value if value.isascii() else text_of(value.encode("latin-1"))


class EnvironHeaders(Bare, UnreadHeaders):
    """A request's headers, as `environ` has them. `environ_headers` makes them."""

    __slots__ = ("_environ",)

    _environ: Environ

    def _came(self, name: str) -> list[str]:
        key = _key_of(name)
        # `X_A` is none of HTTP's: what is there is X-A.
        value = None if "_" in name else self._environ.get(key)
        return [] if value is None or (not value and key[:8] == "CONTENT_") else [_utf8(value)]

    def _all_that_came(self) -> Iterable[tuple[str, str]]:
        for key, value in self._environ.items():
            if (key[:5] == "HTTP_" or (key[:8] == "CONTENT_" and value)) and (name := _name_of(key)):
                yield name, _utf8(value)


def environ_headers(environ: Environ) -> EnvironHeaders:
    headers = EnvironHeaders()
    headers._environ = environ
    # As the base class's constructor.
    headers.replaced, headers._set_now = NO_EDITS, None
    return headers


def environ_request(environ: Environ) -> EnvironRequest:
    """As the constructor of the base class."""
    request = EnvironRequest()
    request._environ = environ
    request._method = environ["REQUEST_METHOD"]
    request._headers = environ_headers(environ)
    request._body_source = no_body_asked_for
    request._read_path = request._read_query = None
    request._query = request._target = request._body = request.open_stream = None
    request.has_new_body = request.has_new_path = request._has_body_of_handler = False
    return request


class NativeHeaders(Bare, UnreadHeaders):
    """A response's headers, as an app passes them. `native_headers` makes them."""

    __slots__ = ("_pairs",)

    _pairs: tuple[tuple[str, str], ...]

    def _came(self, name: str) -> list[str]:
        key = name.lower()
        return [_utf8(value) for name, value in self._pairs if name.lower() == key]

    def _all_that_came(self) -> Iterable[tuple[str, str]]:
        return [(canonical_name(name), _utf8(value)) for name, value in self._pairs]


def native_headers(pairs: Iterable[tuple[str, str]]) -> NativeHeaders:
    headers = NativeHeaders()
    headers._pairs = tuple(pairs)
    headers.replaced, headers._set_now = NO_EDITS, None
    return headers


def with_native_edits(headers: Collection[tuple[str, str]], response: HeldResponse) -> list[tuple[str, str]]:
    """The headers of an app, with those that handlers edited in their place."""
    replaced = response.headers.replaced
    if replaced and len(replaced) == 1 and not response.has_new_body:
        # Most handlers do no more.
        (name,) = replaced
        if name in FRAMING:
            return list(headers)
        key = name.lower()
        for came, _ in headers:
            if came.lower() == key:
                headers = without(headers, {key})
                break
        return [*headers, (name, _native(replaced[name]))]
    names, added = edits_of(response)
    kept = without(headers, {name.lower() for name in names})
    return kept + [(name, _native(value)) for name, value in added]


def _native(value: str) -> str:
    value = trimmed(value)
    return value if value.isascii() else value.encode().decode("latin-1")


@kept_by_name
def _key_of(name: str) -> str:
    """Where `environ` has the header `name`."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


@kept_by_name
def _name_of(key: str) -> str:
    """The header that `environ` has under `key`; empty: it is none."""
    name = canonical_name(key.removeprefix("HTTP_").replace("_", "-"))
    # HTTP_CONTENT_TYPE is no header of a request: a client's `Content_Type` comes as that.
    return name if _key_of(name) == key else ""


def environ_for_app(environ: Environ, exchange: HeldExchange, has_session: bool) -> Environ:
    """A copy: what the server has stays as it is. `has_session`: the exchange's, asked once."""
    inner = dict(environ)
    caller = inner["coprocess"] = Caller()
    caller._exchange = exchange
    if has_session and not inner.get("REMOTE_USER"):
        inner["REMOTE_USER"] = caller.display_name
    request = exchange.request
    headers = request.headers
    if (replaced := headers.replaced) is not None:
        for name, value in replaced.items():
            if name not in FRAMING:
                inner[_key_of(name)] = _native(value)
    else:
        for name in headers.edited - FRAMING:
            key = _key_of(name)
            inner.pop(key, None)
            if values := headers.getall(name):
                inner[key] = _native(("; " if name == "Cookie" else ", ").join(values))
    if request.has_new_path:
        inner["PATH_INFO"] = unquote_to_bytes(request.encoded_path).decode("latin-1")
        # Servers' own, of the path that came.
        for key in ("RAW_URI", "REQUEST_URI"):
            inner.pop(key, None)
    if request._query is not None and request.has_new_query:  # Most handlers do not ask for it.
        inner["QUERY_STRING"] = request.query_string
    inner["REQUEST_METHOD"] = request._method
    return inner


def status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Status {status}"


def telling(headers: list[tuple[str, str]], start_response: StartResponse) -> StartResponse:
    """`start_response` that adds `headers`, in the place of such that the response has."""
    names = {name.lower() for name, _ in headers}

    def telling(status: str, given: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        rest = [pair for pair in given if pair[0].lower() not in names]
        return start_response(status, [*rest, *headers], *exc_info)

    return telling


def send_answer(
    answer: Answer, method: str, start_response: StartResponse, exc_info: Any = None
) -> list[bytes]:
    head = status_line(answer.status), with_native_edits((), response_of(answer))
    if exc_info is None:
        start_response(*head)
    else:
        start_response(*head, exc_info)
    body = body_to_send(answer.status, answer.body, method)
    return [body] if body else []
