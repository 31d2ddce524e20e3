"""Upstreams to put behind a simulated gateway, whichever it is."""

from __future__ import annotations

import asyncio
import http.client
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from coprocess.errors import ConfigError

AsgiMessage = MutableMapping[str, Any]
AsgiApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[AsgiMessage]],
        Callable[[AsgiMessage], Awaitable[None]],
    ],
    Awaitable[None],
]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Name and value, one pair a value. Text holds one character a byte, as Python's `http.client` gives it.
HeaderPairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What a gateway sends to the service behind it."""

    method: str
    #: Path and query, as in the request line.
    url: str
    #: Sorted by name, the values of one name in their order; `Host` is among them.
    headers: HeaderPairs
    body: bytes


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """What the service answered. `Content-Length` is added where neither it nor chunking is named."""

    status: int
    headers: HeaderPairs = ()
    body: bytes = b""


Upstream = Callable[[UpstreamRequest], UpstreamReply]


class CannedUpstream:
    """Answers every request alike."""

    def __init__(self, status: int = 200, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> None:
        self._reply = UpstreamReply(status, tuple(headers), body)

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        return self._reply


class UrlUpstream:
    """Sends each request to the service at `base`, whatever the definition's target is; no redirects."""

    def __init__(self, base: str, *, timeout: float = 30.0) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"upstream: {base!r} is not an http URL")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._timeout = timeout

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        try:
            connection.putrequest(
                request.method, self._path + request.url, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers:
                connection.putheader(name, value.encode("latin-1", "replace"))
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            return UpstreamReply(answer.status, tuple(answer.getheaders()), answer.read())
        finally:
            connection.close()


class WsgiUpstream:
    """Calls a WSGI application in this thread."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        path, _, query = request.url.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(request.body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in request.headers:
            key = name.upper().replace("-", "_")
            key = key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        host, _, port = environ.get("HTTP_HOST", "localhost").partition(":")
        environ |= {"SERVER_NAME": host, "SERVER_PORT": port or "80"}
        started: list[tuple[str, list[tuple[str, str]]]] = []
        body = bytearray()

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started.append((status, headers))
            return body.extend

        answer = self._app(environ, start_response)
        try:
            for part in answer:
                body += part
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
        # An application may start again after an error; the last start counts.
        status, headers = started[-1]
        return UpstreamReply(int(status.split(" ", 1)[0]), tuple(headers), bytes(body))


class AsgiUpstream:
    """Calls an ASGI application in an event loop of its own; there is no lifespan."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        # A thread of its own: the caller may be inside a running loop.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(self._run(request))).result()

    async def _run(self, request: UpstreamRequest) -> UpstreamReply:
        path, _, query = request.url.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers],
            "client": ("127.0.0.1", 0),
            "server": None,
        }
        waiting = [{"type": "http.request", "body": request.body, "more_body": False}]
        start: AsgiMessage = {}
        body = bytearray()

        async def receive() -> AsgiMessage:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))

        await self._app(scope, receive, send)
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in start.get("headers", ())
        )
        return UpstreamReply(start["status"], headers, bytes(body))
