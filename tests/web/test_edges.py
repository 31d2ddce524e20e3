"""Web apps at the edges of HTTP, ASGI and WSGI: each by the fault that was there."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

import coprocess
from coprocess import App, CustomKeyCheck, Pre, Reject, Response, respond
from coprocess.asgi import Middleware as Asgi
from coprocess.wsgi import Middleware as Wsgi
from tests.server import PATIENCE_S
from tests.web.servers import uvicorn_at


def environ(**more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "wsgi.input": io.BytesIO(b"12345"),
        "wsgi.url_scheme": "http",
        **more,
    }


def ask_wsgi(site: Any, handlers: list[Any], **more: Any) -> tuple[str, dict[str, str], bytes]:
    """The last response that was begun, and all that came of a body."""
    seen: list[Any] = []
    around = Wsgi(site, handlers)

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        seen[:] = [status, dict(headers)]
        return lambda chunk: None

    try:
        chunks: Any = around(environ(**more), start)
        body = b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
    finally:
        around.close()
    return seen[0], seen[1], body


def ask_asgi(site: Any, handlers: list[Any], **more: Any) -> list[dict[str, Any]]:
    """All that was sent."""
    sent: list[dict[str, Any]] = []
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], **more}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        around = Asgi(site, handlers)
        try:
            await asyncio.wait_for(around(scope, receive, send), PATIENCE_S)
        finally:
            await around.close()

    asyncio.run(main())
    return sent


async def asgi_hello(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"5"), (b"etag", b"e")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def wsgi_hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "5"), ("ETag", "e")])
    return [b"hello"]


@Pre
def passes(request: coprocess.Request) -> None:
    pass


@pytest.mark.parametrize("uses_body", [False, True])
@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_body_does_not_follow_a_status_that_has_none(status: int, uses_body: bool) -> None:
    """It went out all the same: a client takes it for the next response of its connection."""

    @Response(body=uses_body)
    def handler(response: Any) -> None:
        response.status = status

    begun, *rest = ask_asgi(asgi_hello, [handler])
    assert (begun["status"], begun["headers"]) == (status, [(b"etag", b"e")])
    assert [message["body"] for message in rest] == [b""]
    line, headers, body = ask_wsgi(wsgi_hello, [handler])
    assert (line[:3], headers, body) == (str(status), {"ETag": "e"}, b"")


def test_a_connection_goes_on_after_a_status_without_body() -> None:
    @Response
    def handler(request: coprocess.Request, response: Any) -> None:
        if request.path == "/none":
            response.status = 204

    with uvicorn_at(Asgi(asgi_hello, [handler])) as address, httpx.Client(timeout=PATIENCE_S) as client:
        for _ in range(2):
            assert client.get(f"http://{address}/none").status_code == 204
            assert client.get(f"http://{address}/some").content == b"hello"


def test_a_request_of_a_kind_that_came_later_does_not_reach_the_app() -> None:
    @CustomKeyCheck
    def nobody() -> None:
        raise Reject(401, "no")

    reached = []

    async def site(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    with pytest.raises(RuntimeError, match="webtransport"):
        ask_asgi(site, [nobody], type="webtransport")
    assert reached == []


@pytest.mark.parametrize("ends", ["returns", "takes the stop and returns"])
def test_an_app_that_leaves_its_lifespan_early_leaves_no_resource_open(ends: str) -> None:
    told: list[str] = []
    app = App()

    @app.resource
    def db() -> Iterator[None]:
        told.append("open")
        yield None
        told.append("close")

    @Pre
    def uses(db: Any) -> None:
        pass

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if ends != "returns":
            await receive()

    async def main() -> None:
        around = Asgi(inner, [uses, app])
        comes = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Any:
            return {"type": next(comes)}

        async def send(message: Any) -> None:
            told.append(message["type"].removeprefix("lifespan."))

        await asyncio.wait_for(around({"type": "lifespan"}, receive, send), PATIENCE_S)

    asyncio.run(main())
    assert told == ["open", "startup.complete", "close", "shutdown.complete"]


@pytest.mark.parametrize("begins", [True, False])
def test_a_start_that_failed_is_told_and_an_app_without_lifespan_is_not(begins: bool) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if begins:
            await receive()
        raise LookupError("at the start")

    async def main() -> None:
        around = Asgi(inner, [passes])
        comes = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Any:
            return {"type": next(comes)}

        async def send(message: Any) -> None:
            pass

        await asyncio.wait_for(around({"type": "lifespan"}, receive, send), PATIENCE_S)

    with capture_logs() as told:
        asyncio.run(main())
    assert ["LookupError: at the start" in entry["exception"] for entry in told] == [True] * begins


@pytest.mark.parametrize("writes", [False, True])
def test_what_came_before_another_response_is_not_in_its_body(writes: bool) -> None:
    """An app that starts again, with exc_info, gives up what it had: handlers had both, in one."""

    @Response
    def handler(response: Any) -> None:
        response.text = response.text.upper()

    def site(environ: Any, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        if writes:
            write(b"half")
        else:
            yield b"half"
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())
        yield b"sorry"

    line, _, body = ask_wsgi(site, [handler])
    assert (line, body) == ("500 Oh", b"SORRY")


def test_what_an_app_writes_counts_as_its_body() -> None:
    """It was kept without a bound."""

    @Response
    def handler(response: Any) -> None:
        response.text = response.text.upper()

    def site(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        for _ in range(5):
            write(bytes(1 << 20))
        return []

    line, _, body = ask_wsgi(site, [handler])
    assert (line[:3], b"Middleware error" in body) == ("500", True)


@pytest.mark.parametrize("length", ["\u00b2", "abc", "+5", ""])
def test_a_length_that_is_none_is_no_failure(length: str) -> None:
    @Pre
    def handler(request: coprocess.Request) -> Any:
        return respond(200, request.body)

    assert ask_wsgi(wsgi_hello, [handler], CONTENT_LENGTH=length)[2] == b""
    line, _, body = ask_wsgi(wsgi_hello, [handler], CONTENT_LENGTH=length, **{"wsgi.input_terminated": True})
    assert (line, body) == ("200 OK", b"12345")


@pytest.mark.parametrize("raw", ["a=\u00e9".encode(), b"a=%C3%A9"])
def test_a_query_that_came_in_raw_utf8_is_read_as_what_it_says(raw: bytes) -> None:
    """It was read as Latin-1, and what an edit left of it was encoded twice."""
    seen: list[Any] = []

    @Pre
    def handler(request: coprocess.Request) -> None:
        seen.append((request.query["a"], request.path, request.url))
        request.query["b"] = "1"

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["query_string"])
        await asgi_hello(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ["QUERY_STRING"].encode())
        return wsgi_hello(environ, start_response)

    path = "/\u00e9".encode()
    ask_asgi(asgi, [handler], query_string=raw, raw_path=path, path=path.decode())
    ask_wsgi(wsgi, [handler], QUERY_STRING=raw.decode("latin-1"), PATH_INFO=path.decode("latin-1"))
    told = [("\u00e9", "/%C3%A9", "/%C3%A9?a=%C3%A9"), b"a=%C3%A9&b=1"]
    assert seen == [*told, *told]


@pytest.mark.parametrize("starts", [False, True])
def test_an_error_handler_answers_for_an_app_that_is_a_generator(starts: bool) -> None:
    """It raises when its first chunk is asked for, which was the server's turn."""
    app = App()
    told = []

    @app.errorhandler(LookupError)
    def answers(error: LookupError) -> Any:
        return respond(418, "tea")

    class Site:
        def __init__(self, environ: Any, start_response: Any) -> None:
            self._start, self._chunks = start_response, iter([b"a", b"b"])
            self._fails = environ["PATH_INFO"] == "/fails"

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            if self._fails:
                if starts:
                    self._start("200 OK", [])
                raise LookupError
            self._start("200 OK", [])
            return next(self._chunks)

        def close(self) -> None:
            told.append("closed")

    line, _, body = ask_wsgi(Site, [passes, app], PATH_INFO="/fails")
    assert (line[:3], body) == ("418", b"tea")
    assert ask_wsgi(Site, [passes, app])[2] == b"ab"
    assert told == ["closed", "closed"]


def test_space_around_a_header_that_a_handler_sets_costs_no_response() -> None:
    """uvicorn closed the connection without one."""

    @Response
    def handler(request: coprocess.Request, response: Any) -> None:
        response.headers["X-A"] = " a\t"
        if request.path == "/two":
            response.headers.add("X-A", " b ")

    with uvicorn_at(Asgi(asgi_hello, [handler])) as address:
        got = httpx.get(f"http://{address}/one", timeout=PATIENCE_S)
        assert (got.status_code, got.headers["X-A"]) == (200, "a")
        got = httpx.get(f"http://{address}/two", timeout=PATIENCE_S)
        assert (got.status_code, got.headers.get_list("X-A")) == (200, ["a", "b"])
    assert ask_wsgi(wsgi_hello, [handler])[1]["X-A"] == "a"


def test_a_handler_that_swallows_its_cancellation_does_not_bring_the_app_to_a_client_that_is_gone() -> None:
    """The request went on, in a task that still counted as cancelled."""
    reached, begun = [], asyncio.Event()

    @Pre
    async def clings(request: coprocess.Request) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    async def site(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def main() -> int:
        around = Asgi(site, [clings])

        async def receive() -> Any:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            reached.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        try:
            async with asyncio.timeout(10):
                await around(scope, receive, send)
        finally:
            await around.close()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(main()) == 0
    assert reached == []
