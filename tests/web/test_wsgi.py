"""`coprocess.wsgi.Middleware` around Flask and plain apps, under a real server, with `wsgiref.validate`."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import flask
import httpx
import pytest
from flask.views import MethodView

import coprocess
from coprocess import App, CustomKeyCheck, Event, Pre, Reject, Response, respond
from coprocess.wsgi import Middleware
from tests.server import PATIENCE_S, until
from tests.web.servers import wsgiref_at


def shop() -> flask.Flask:
    site = flask.Flask("shop")
    told: list[str] = []

    @site.before_request
    def before() -> None:
        told.append("before_request")

    class Resource(MethodView):
        def get(self) -> Any:
            environ = flask.request.environ
            return flask.jsonify(
                path=flask.request.full_path,
                headers=dict(flask.request.headers),
                user=environ.get("REMOTE_USER"),
                metadata=dict(environ["coprocess"].metadata),
                told=told,
            )

        def post(self) -> Any:
            return flask.Response(flask.request.get_data(), headers={"X-App": "1"})

    site.add_url_rule(
        "/<path:rest>", view_func=lambda rest: Resource().dispatch_request(), methods=["GET", "POST"]
    )

    @site.route("/stream")
    def stream() -> Any:
        return flask.Response(b"%d" % number for number in range(3))

    return site


def around(app: Any, *handlers: Any, **options: Any) -> Any:
    """The Middleware between two validators: both sides must keep to the specification."""

    def inner(environ: Any, start_response: Any) -> Any:
        # The validator takes names without a dot for CGI's, which are text.
        environ["coprocess.caller"] = environ.pop("coprocess")
        return checked_app(environ, start_response)

    def restored(environ: Any, start_response: Any) -> Any:
        environ["coprocess"] = environ.pop("coprocess.caller")
        return app(environ, start_response)

    checked_app = validator(restored)
    middleware = Middleware(inner, handlers, **options)
    checked = validator(middleware)

    def outer(environ: Any, start_response: Any) -> Any:
        return checked(environ, start_response)

    outer.close = middleware.close  # type: ignore[attr-defined]  # for the server
    return outer


def call(
    app: Any, method: str = "GET", body: bytes = b"", **environ: Any
) -> tuple[str, dict[str, str], bytes]:
    """Call a WSGI app, as a server does."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((status, headers))
        return written.append

    full: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "QUERY_STRING": "",
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    if body:
        full["CONTENT_LENGTH"] = str(len(body))
    setup_testing_defaults(full)
    chunks = app(full, start_response)
    try:
        rest = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = started[-1]
    return status, dict(headers), b"".join(written) + rest


def test_flask_with_edits_on_both_sides() -> None:
    @Pre
    def edit(request: coprocess.Request) -> None:
        request.headers["X-Name"] = "n"
        del request.headers["X-Gone"]
        request.path = "/new path"
        request.query["a"] = "9"

    @Response
    async def stamp(response: coprocess.Response) -> None:
        await asyncio.sleep(0)
        response.headers["X-Stamp"] = "1"
        response.status = 201

    with wsgiref_at(around(shop(), edit, stamp)) as address:
        answer = httpx.get(f"http://{address}/old?b=2&a=1", headers={"X-Gone": "1"})
        assert (answer.status_code, answer.headers["X-Stamp"]) == (201, "1")
        seen = answer.json()
        assert seen["path"] == "/new path?a=9&b=2"
        assert (seen["headers"]["X-Name"], "X-Gone" in seen["headers"]) == ("n", False)
        assert seen["told"] == ["before_request"]


def test_bodies_are_read_where_a_handler_uses_them_and_within_the_limit() -> None:
    @Pre
    def upper(request: coprocess.Request) -> None:
        request.body = request.text.upper()

    @Response
    def wrap(response: coprocess.Response) -> None:
        response.set_json({"was": response.text})

    with wsgiref_at(around(shop(), upper, wrap, max_body_bytes=100)) as address:
        answer = httpx.post(f"http://{address}/x", content=b"abc")
        assert (answer.json(), answer.headers["X-App"]) == ({"was": "ABC"}, "1")
        assert httpx.post(f"http://{address}/x", content=b"x" * 101).status_code == 413


@pytest.mark.parametrize("asynchronous", [True, False])
def test_replies_rejects_and_failures(asynchronous: bool) -> None:
    def decide(request: coprocess.Request) -> coprocess.Reply | None:
        if request.path == "/reply":
            return respond(418, "short", headers={"X-R": "1"})
        if request.path == "/reject":
            raise Reject(401, "No token")
        raise LookupError("secret of mine")

    async def later(request: coprocess.Request) -> coprocess.Reply | None:
        await asyncio.sleep(0)
        return decide(request)

    with wsgiref_at(around(shop(), Pre(name="decide")(later if asynchronous else decide))) as address:
        reply = httpx.get(f"http://{address}/reply")
        assert (reply.status_code, reply.text, reply.headers["X-R"]) == (418, "short", "1")
        reject = httpx.get(f"http://{address}/reject")
        assert (reject.status_code, reject.json()) == (401, {"error": "No token"})
        failed = httpx.get(f"http://{address}/x")
        assert (failed.status_code, failed.json()) == (500, {"error": "Middleware error"})
        assert httpx.head(f"http://{address}/reply").content == b""


def test_an_overrun_is_answered_as_one() -> None:
    release = threading.Event()

    @Pre(timeout=0.02)
    def slow() -> None:
        release.wait(0.1)

    @Pre(timeout=0.02)
    async def slow_async() -> None:
        await asyncio.sleep(60)

    for handler in (slow, slow_async):
        middleware = Middleware(shop(), [handler])
        assert call(middleware)[0] == "500 Internal Server Error"
        middleware.close()


def test_what_finds_no_place_in_time_is_refused() -> None:
    """A handler in its caller's thread cannot be given up: what waits behind it is, instead."""
    release = threading.Event()
    entered = threading.Event()

    @Pre(timeout=1.0, concurrency=1)
    def hangs(request: coprocess.Request) -> None:
        if request.path == "/hang":
            entered.set()
            release.wait(PATIENCE_S)

    middleware = Middleware(shop(), [hangs])
    first = threading.Thread(target=call, args=(middleware,), kwargs={"PATH_INFO": "/hang"})
    first.start()
    assert entered.wait(PATIENCE_S)
    assert call(middleware, PATH_INFO="/next")[0] == "500 Internal Server Error"
    release.set()
    first.join(PATIENCE_S)
    until(lambda: call(middleware, PATH_INFO="/next")[0] == "200 OK")
    middleware.close()


def test_what_waits_gets_its_turn() -> None:
    @Pre(concurrency=1)
    def slow() -> None:
        threading.Event().wait(0.005)

    middleware = Middleware(shop(), [slow])
    statuses: list[str] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(call(middleware, PATH_INFO="/x")[0]))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    middleware.close()
    assert statuses == ["200 OK"] * 20


def test_the_session_is_the_remote_user_and_no_client_can_forge_it() -> None:
    heard: list[str] = []

    @CustomKeyCheck
    def check(request: coprocess.Request, session: coprocess.Session) -> None:
        if "Authorization" in request.headers:
            session.allow("k", alias="ann", quota_max=1)

    @Event
    def on_event(event: coprocess.Event) -> None:
        heard.append(event.type)

    with wsgiref_at(around(shop(), check, on_event)) as address:
        headers = {"Authorization": "x", "Remote-User": "eve", "Coprocess": "eve"}
        answer = httpx.get(f"http://{address}/x", headers=headers)
        assert (answer.json()["user"], answer.json()["metadata"]) == ("ann", {"token": "k"})
        assert httpx.get(f"http://{address}/x", headers=headers).status_code == 403
        assert httpx.get(f"http://{address}/x").status_code == 403
    assert sorted(heard) == ["AuthFailure", "QuotaExceeded"]  # Events of two requests run side by side.


def stamping(response: coprocess.Response) -> None:
    response.headers["X-Stamp"] = "1"


def replacing(response: coprocess.Response) -> coprocess.Reply:
    return respond(503, "new")


def reading(response: coprocess.Response) -> None:
    response.text = f"<{response.text}>"


class Body:
    """An app's body that knows whether it was closed."""

    def __init__(self, chunks: Iterable[bytes], before: Callable[[], object] = lambda: None) -> None:
        self._chunks = iter(chunks)
        self._before = before
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._before()
        return next(self._chunks)

    def close(self) -> None:
        self.is_closed = True


HANDLERS = [
    (stamping, "200 OK", b"abc", "1"),
    (replacing, "503 Service Unavailable", b"new", None),
    (reading, "200 OK", b"<abc>", None),
]


@pytest.mark.parametrize(("handler", "status", "body", "stamp"), HANDLERS)
@pytest.mark.parametrize("way", ["at once", "late", "write", "empty first"])
def test_a_body_comes_through_and_is_closed_once(
    handler: Any, status: str, body: bytes, stamp: str | None, way: str
) -> None:
    bodies: list[Body] = []

    def app(environ: Any, start_response: Any) -> Body:
        def start() -> Any:
            return start_response("200 OK", [("Content-Type", "text/plain")])

        if way == "at once":
            start()
            bodies.append(Body([b"a", b"bc"]))
        elif way == "write":
            start()(b"a")
            bodies.append(Body([b"bc"]))
        elif way == "late":
            began: list[object] = []

            def begin() -> None:
                if not began:
                    began.append(start())

            bodies.append(Body([b"a", b"bc"], begin))
        else:
            start()
            bodies.append(Body([b"", b"abc"]))
        return bodies[-1]

    middleware = Middleware(app, [Response(name="handler")(handler)])
    got = call(validator(middleware) if way != "late" else middleware)
    middleware.close()
    assert (got[0], got[2], got[1].get("X-Stamp")) == (status, body, stamp)
    assert bodies[0].is_closed
    if handler is not stamping:
        assert got[1]["Content-Length"] == str(len(body))


def test_the_servers_own_file_wrapper_gets_through() -> None:
    made: list[FileWrapper] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"file")))
        return made[0]

    middleware = Middleware(app, [Response(name="stamping")(stamping)])
    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    setup_testing_defaults(environ)
    result = middleware(environ, lambda status, headers, exc_info=None: lambda chunk: None)
    assert result is made[0]
    middleware.close()


@pytest.mark.parametrize("handler", [stamping, reading])
def test_an_app_may_start_again_with_exc_info(handler: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    status, _, body = call(around(app, Response(name="handler")(handler)))
    assert (status, body.strip(b"<>")) == ("500 Oops", b"sorry")


def test_an_exception_of_the_app_goes_to_the_server() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise LookupError("of the app")

    middleware = Middleware(app, [Response(name="stamping")(stamping)])
    with pytest.raises(LookupError, match="of the app"):
        call(middleware)
    middleware.close()


def test_resources_open_at_the_first_request_and_close_at_the_end() -> None:
    told: list[str] = []
    app = App()

    @app.resource
    async def db() -> Any:
        told.append("open")
        yield "of the loop"
        told.append("close")

    @Pre
    def use(db: str) -> coprocess.Reply:
        return respond(200, db)

    middleware = Middleware(shop(), [app, use])
    assert told == []
    assert call(middleware)[2] == b"of the loop"
    assert call(middleware)[2] == b"of the loop"
    middleware.close()
    assert told == ["open", "close"]
    assert call(middleware)[2] == b"of the loop"
    middleware.close()
    assert told == ["open", "close"] * 2


def test_an_event_that_an_async_handler_triggers_is_its_own_middlewares() -> None:
    heard = threading.Event()

    @Pre
    async def trigger() -> None:
        coprocess.trigger_event("told", "{}")

    @Event
    def told(event: coprocess.Event) -> None:
        heard.set()

    middleware = Middleware(shop(), [trigger, told])
    call(middleware, PATH_INFO="/x")
    assert heard.wait(PATIENCE_S)
    middleware.close()


def test_a_streamed_response_passes() -> None:
    with wsgiref_at(around(shop(), Response(name="stamping")(stamping))) as address:
        answer = httpx.get(f"http://{address}/stream")
        assert (answer.text, answer.headers["X-Stamp"]) == ("012", "1")
