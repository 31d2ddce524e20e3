"""`coprocess.asgi.Middleware` around Starlette and FastAPI, under uvicorn, with httpx and websockets."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
import websockets.sync.client
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request as AppRequest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from structlog.testing import capture_logs

import coprocess
from coprocess import App, CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Reject, Response, respond
from coprocess.api import context
from coprocess.asgi import Middleware
from coprocess.errors import CoprocessError, LoadError
from tests.server import PATIENCE_S
from tests.web.servers import uvicorn_at


async def show(request: AppRequest) -> JSONResponse:
    caller = request.scope["coprocess"]
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "headers": dict(request.headers),
            "body": (await request.body()).decode(),
            "user": request.scope["user"].display_name if "user" in request.scope else None,
            "metadata": dict(caller.metadata),
            "state": dict(vars(caller.state)),
        },
        headers={"X-App": "1", "ETag": "old"},
    )


async def stream(request: AppRequest) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            await asyncio.sleep(0)

    return StreamingResponse(chunks(), media_type="text/plain")


async def boom(request: AppRequest) -> None:
    raise LookupError("of the app")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.headers.get("x-pre", "none") + ":" + await socket.receive_text())
    await socket.close()


def site() -> Starlette:
    methods = ["GET", "POST", "HEAD", "PUT"]
    return Starlette(
        routes=[
            Route("/stream", stream),
            Route("/boom", boom),
            WebSocketRoute("/ws", echo),
            Route("/{rest:path}", show, methods=methods),
        ]
    )


def get(app: Any, path: str = "/x", method: str = "GET", **options: Any) -> httpx.Response:
    with uvicorn_at(app) as address:
        return httpx.request(method, f"http://{address}{path}", **options)


def test_edits_before_the_app_and_after_it() -> None:
    @Pre
    async def edit(request: coprocess.Request, state: coprocess.State) -> None:
        request.headers["X-Name"] = "ä"
        del request.headers["X-Gone"]
        request.path = "/new path"
        request.query["a"] = "9"
        state.seen = request.target

    @Response
    def stamp(response: coprocess.Response, state: coprocess.State) -> None:
        response.headers["X-Stamp"] = state.seen
        response.status = 201
        del response.headers["X-App"]

    answer = get(Middleware(site(), [edit, stamp]), "/old?b=2&a=1", headers={"X-Gone": "1"})
    assert (answer.status_code, answer.headers["X-Stamp"]) == (201, "/old?b=2&a=1")
    assert "X-App" not in answer.headers
    seen = answer.json()
    assert (seen["path"], seen["query"]) == ("/new path", "a=9&b=2")
    assert seen["headers"]["x-name"].encode("latin-1").decode() == "ä"
    assert "x-gone" not in seen["headers"]
    assert seen["state"] == {"seen": "/old?b=2&a=1"}


def test_bodies_are_read_where_a_handler_uses_them() -> None:
    @Pre
    def upper(request: coprocess.Request) -> None:
        request.body = request.text.upper()

    @Response
    async def wrap(response: coprocess.Response) -> None:
        response.set_json({"was": response.json()["body"]})

    answer = get(Middleware(site(), [upper, wrap]), "/x", "POST", content=b"abc" * 100_000)
    assert answer.json() == {"was": "ABC" * 100_000}
    assert "ETag" not in answer.headers
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_a_body_beyond_the_limit_is_413_and_only_where_it_is_used() -> None:
    @Pre
    def uses(request: coprocess.Request) -> None:
        len(request.body)

    app = Middleware(site(), [uses], max_body_bytes=10)
    with uvicorn_at(app) as address:
        assert httpx.post(f"http://{address}/x", content=b"x" * 11).status_code == 413
        chunked = httpx.post(f"http://{address}/x", content=iter([b"x" * 6, b"x" * 6]))
        assert (chunked.status_code, "larger" in chunked.json()["error"]) == (413, True)
        assert httpx.post(f"http://{address}/x", content=b"x" * 10).json()["body"] == "x" * 10

    @Pre
    def does_not(request: coprocess.Request) -> None:
        request.headers["X-A"] = "1"

    answer = get(Middleware(site(), [does_not], max_body_bytes=10), "/x", "POST", content=b"x" * 1000)
    assert answer.json()["body"] == "x" * 1000


def test_a_streamed_response_passes_untouched_and_its_headers_go_out_at_once() -> None:
    """The app goes on only when the client has the headers: a middleware that keeps them would hang."""
    has_headers = threading.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.to_thread(has_headers.wait, 10)
        await send({"type": "http.response.body", "body": b"last" if has_headers.is_set() else b"late"})

    @Response
    async def stamp(response: coprocess.Response) -> None:
        response.headers["X-Stamp"] = "1"

    with uvicorn_at(Middleware(waiting, [stamp])) as address, httpx.Client() as client:  # noqa: SIM117
        with client.stream("GET", f"http://{address}/") as answer:
            assert answer.headers["X-Stamp"] == "1"
            has_headers.set()
            assert answer.read() == b"firstlast"


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_reply_and_a_reject_end_the_request_before_the_app(asynchronous: bool) -> None:
    ran: list[str] = []

    def decide(request: coprocess.Request) -> coprocess.Reply | None:
        if request.path == "/reply":
            return respond(418, "short", headers={"X-R": "1"})
        raise Reject(401, "No token", headers={"WWW-Authenticate": "Bearer"})

    async def decide_later(request: coprocess.Request) -> coprocess.Reply | None:
        await asyncio.sleep(0)
        return decide(request)

    @Response
    def after(response: coprocess.Response) -> None:
        ran.append("after")

    handler = Pre(name="decide")(decide_later if asynchronous else decide)
    with uvicorn_at(Middleware(site(), [handler, after])) as address:
        reply = httpx.get(f"http://{address}/reply")
        assert (reply.status_code, reply.text, reply.headers["X-R"]) == (418, "short", "1")
        reject = httpx.get(f"http://{address}/reject")
        assert (reject.status_code, reject.json()) == (401, {"error": "No token"})
        assert reject.headers["WWW-Authenticate"] == "Bearer"
    # As at Tyk: what no upstream answered has no Response hooks.
    assert ran == []


@pytest.mark.parametrize("asynchronous", [True, False])
def test_failures_close_and_open_as_on_grpc(asynchronous: bool) -> None:
    def broken(request: coprocess.Request) -> None:
        request.headers["X-Edit"] = "half done"
        raise LookupError("secret of mine")

    async def broken_later(request: coprocess.Request) -> None:
        await asyncio.sleep(0)
        broken(request)

    function = broken_later if asynchronous else broken
    closed = get(Middleware(site(), [Pre(name="b")(function)]))
    assert (closed.status_code, closed.json()) == (500, {"error": "Middleware error"})

    def again(request: coprocess.Request) -> None:
        broken(request)

    own = get(Middleware(site(), [Pre(again)], failure_status=503))
    assert (own.status_code, "secret" in own.text) == (503, False)

    def third(request: coprocess.Request) -> None:
        broken(request)

    opened = get(Middleware(site(), [Pre(on_error="open")(third)]))
    assert opened.status_code == 200
    assert "x-edit" not in opened.json()["headers"]


def test_a_response_handler_that_fails_closes_and_its_own_headers_are_gone() -> None:
    @Response
    def broken(response: coprocess.Response) -> None:
        raise LookupError

    answer = get(Middleware(site(), [broken]))
    assert (answer.status_code, answer.json()) == (500, {"error": "Middleware error"})
    assert "X-App" not in answer.headers


def test_an_async_handler_that_overruns_is_cut_off_even_where_it_clings_on() -> None:
    ended = threading.Event()

    @Pre(timeout=0.5)
    async def clings() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            ended.set()

    answer = get(Middleware(site(), [clings]))
    assert (answer.status_code, answer.json()) == (500, {"error": "Middleware error"})
    assert ended.wait(PATIENCE_S)


def test_a_sync_handler_that_hangs_is_given_up_and_does_not_block_the_loop() -> None:
    entered, release = threading.Event(), threading.Event()

    def hangs(request: coprocess.Request) -> None:
        if request.path == "/hang":
            entered.set()
            release.wait(PATIENCE_S)

    def ask(path: str) -> int:
        return httpx.get(f"http://{address}{path}", timeout=PATIENCE_S).status_code

    # The limit is of one that nobody must be quicker than, as a busy machine may not be.
    with uvicorn_at(
        Middleware(site(), [Pre(name="patient", timeout=PATIENCE_S)(functools.partial(hangs))])
    ) as address:
        slow: list[int] = []
        thread = threading.Thread(target=lambda: slow.append(ask("/hang")))
        thread.start()
        assert entered.wait(PATIENCE_S)
        assert ask("/quick") == 200
        assert not slow
        release.set()
        thread.join(PATIENCE_S)
    assert slow == [200]
    release.clear()
    with uvicorn_at(
        Middleware(site(), [Pre(name="hasty", timeout=0.5)(functools.partial(hangs))])
    ) as address:
        assert ask("/hang") == 500
        release.set()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_finds_no_place_is_shed_with_503(asynchronous: bool) -> None:
    """One runs, 256 wait, the rest is refused."""
    release = threading.Event()

    @Pre(concurrency=1)
    async def slow_async() -> None:
        await asyncio.to_thread(release.wait, PATIENCE_S)

    @Pre(concurrency=1)
    def slow_sync() -> None:
        release.wait(PATIENCE_S)

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware = Middleware(nothing, [slow_async if asynchronous else slow_sync])

    async def one() -> int:
        statuses: list[int] = []

        async def send(message: Any) -> None:
            if "status" in message:
                statuses.append(message["status"])

        async def receive() -> Any:
            # A client that stays, and sends no body.
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        await middleware(scope, receive, send)
        return statuses[0]

    async def many() -> list[int]:
        await middleware.open()
        tasks = [asyncio.ensure_future(one()) for _ in range(260)]
        while sum(task.done() for task in tasks) < 3:  # noqa: ASYNC110 - tasks that are shed
            await asyncio.sleep(0.001)
        release.set()
        statuses = await asyncio.gather(*tasks)
        await middleware.close()
        return statuses

    statuses = asyncio.run(many())
    assert (statuses.count(204), statuses.count(503)) == (257, 3)


def test_moments_come_in_their_order_and_hooks_by_order_and_as_written() -> None:
    def noting(name: str) -> Any:
        def note(state: coprocess.State) -> None:
            state.setdefault("ran", []).append(name)

        note.__name__ = name
        return note

    @CustomKeyCheck
    def check(session: coprocess.Session, state: coprocess.State) -> None:
        state.setdefault("ran", []).append("check")
        session.allow("k")

    handlers = [
        Post(noting("post")),
        Pre(noting("second")),
        Pre(order=1)(noting("last")),
        Pre(noting("third")),
        Pre(order=-1)(noting("first")),
        PostKeyAuth(noting("post_key_auth")),
        check,
    ]
    expected = ["first", "second", "third", "last", "check", "post_key_auth", "post"]
    assert get(Middleware(site(), handlers)).json()["state"]["ran"] == expected
    chain = {"pre": ["third", "first"], "auth_check": "check"}
    assert get(Middleware(site(), handlers, chain=chain)).json()["state"]["ran"] == [
        "third",
        "first",
        "check",
    ]
    with pytest.raises(CoprocessError, match=r"no Pre handler 'absent' is loaded; there are: first, last"):
        Middleware(site(), handlers, chain={"pre": ["absent"]})
    with pytest.raises(CoprocessError, match="'before' is no moment"):
        Middleware(site(), handlers, chain={"before": []})


def test_the_session_reaches_the_app_and_no_client_can_forge_it() -> None:
    heard: list[tuple[str, str]] = []

    @CustomKeyCheck
    def check(request: coprocess.Request, session: coprocess.Session) -> None:
        if request.headers.get("Authorization") == "good":
            session.allow("good", alias="ann", metadata={"plan": "gold"})

    @Event
    def on_event(event: coprocess.Event) -> None:
        heard.append((event.type, event.meta["Key"]))

    with uvicorn_at(Middleware(site(), [check, on_event])) as address:
        good = httpx.get(
            f"http://{address}/", headers={"Authorization": "good", "user": "eve", "coprocess": "x"}
        )
        assert (good.json()["user"], good.json()["metadata"]) == ("ann", {"plan": "gold", "token": "good"})
        bad = httpx.get(f"http://{address}/", headers={"Authorization": "bad"})
        assert (bad.status_code, bad.json()) == (403, {"error": "Forbidden"})
    assert heard == [("AuthFailure", "bad")]


def test_a_session_made_before_authentication_admits_nobody() -> None:
    @Pre
    def forge(session: coprocess.Session) -> None:
        session.allow("forged")

    @CustomKeyCheck
    def check() -> None:
        pass

    assert get(Middleware(site(), [forge, check])).status_code == 403


@pytest.mark.parametrize(
    ("options", "statuses", "event"),
    [
        ({"rate": 2, "per": 60}, [200, 200, 429], "RatelimitExceeded"),
        ({"quota_max": 2, "quota_renewal_rate_s": 60}, [200, 200, 403], "QuotaExceeded"),
        ({"quota_max": 1}, [200, 403, 403], "QuotaExceeded"),
        ({"expires_at": 1}, [401, 401, 401], "KeyExpired"),
    ],
)
def test_what_a_session_promises_is_kept(options: dict[str, Any], statuses: list[int], event: str) -> None:
    heard: list[str] = []

    @CustomKeyCheck
    def check(session: coprocess.Session) -> None:
        session.allow("k", **options)

    @Event
    async def on_event(event: coprocess.Event) -> None:
        heard.append(event.type)

    with uvicorn_at(Middleware(site(), [check, on_event])) as address:
        assert [httpx.get(f"http://{address}/").status_code for _ in range(3)] == statuses
    assert heard == [event] * sum(status != 200 for status in statuses)


def test_websockets_pass_the_handshake_or_are_refused() -> None:
    @Pre
    async def gate(request: coprocess.Request) -> coprocess.Reply | None:
        request.headers["X-Pre"] = "ran"
        return respond(401, "who?", headers={"X-Why": "1"}) if request.query.get("deny") else None

    with uvicorn_at(Middleware(site(), [gate])) as address:
        with websockets.sync.client.connect(f"ws://{address}/ws") as socket:
            socket.send("hi")
            assert socket.recv() == "ran:hi"
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            websockets.sync.client.connect(f"ws://{address}/ws?deny=1")
    assert refused.value.response.status_code == 401
    assert (refused.value.response.headers["X-Why"], refused.value.response.body) == ("1", b"who?")


def test_a_websocket_is_closed_with_1008_where_the_server_cannot_answer() -> None:
    sent: list[Any] = []

    @Pre
    async def deny() -> coprocess.Reply:
        return respond(401)

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async def main() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        middleware = Middleware(never, [deny])
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
        await middleware(scope, receive, send)
        await middleware.close()

    asyncio.run(main())
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_a_websocket_has_an_empty_body_also_for_what_the_handler_calls() -> None:
    """Of which nothing is known at load."""
    read = {"how": lambda request: request.raw_body}
    passed: list[bytes] = []

    @Pre
    def look(request: coprocess.Request) -> None:
        passed.append(read["how"](request))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(b"app")

    async def nothing(*_: Any) -> Any:
        return {"type": "websocket.connect"}

    async def main() -> None:
        middleware = Middleware(app, [look])
        await middleware(
            {"type": "websocket", "path": "/", "headers": [], "query_string": b""}, nothing, nothing
        )
        await middleware.close()

    asyncio.run(main())
    assert passed == [b"", b"app"]


@pytest.mark.parametrize("has_lifespan", [True, False])
def test_resources_open_with_the_server_and_close_with_it(has_lifespan: bool) -> None:
    told: list[str] = []
    app = App()

    @app.resource
    async def db() -> AsyncIterator[str]:
        told.append("open")
        yield "of the loop"
        told.append("close")

    @app.teardown
    def done() -> None:
        told.append("teardown")

    @Pre
    async def use(request: coprocess.Request, db: str) -> None:
        request.headers["X-Db"] = db

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await site()(scope, receive, send)

    answer = get(Middleware(site() if has_lifespan else plain, [app, use]))
    assert answer.json()["headers"]["x-db"] == "of the loop"
    assert told == ["open", "teardown", "close"]


def test_a_resource_that_does_not_open_refuses_all_requests() -> None:
    app = App()

    @app.resource
    def db() -> None:
        raise OSError("no such database")

    @Pre
    def use(db: object) -> None:
        pass

    assert get(Middleware(site(), [app, use])).status_code == 500


def test_head_has_the_headers_of_get_and_no_body() -> None:
    @Response
    def wrap(response: coprocess.Response) -> None:
        response.body = b"new"

    answer = get(Middleware(site(), [wrap]), "/x", "HEAD")
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "3", b"")


def test_an_exception_of_the_app_goes_to_the_server() -> None:
    @Response
    async def stamp(response: coprocess.Response) -> None:
        response.headers["X-Stamp"] = "1"

    answer = get(Middleware(site(), [stamp]), "/boom")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("of the app")

    async def main() -> None:
        middleware = Middleware(broken, [stamp])
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        with pytest.raises(LookupError, match="of the app"):
            await middleware(scope, None, None)  # type: ignore[arg-type]  # it uses neither
        await middleware.close()

    asyncio.run(main())


def test_fastapi_takes_it_as_middleware() -> None:
    api = FastAPI()

    @api.get("/")
    def root() -> dict[str, str]:
        return {"hello": "there"}

    @Response
    def stamp(response: coprocess.Response) -> None:
        response.headers["X-Stamp"] = "1"

    api.add_middleware(Middleware, handlers=[stamp])
    answer = get(api, "/")
    assert (answer.json(), answer.headers["X-Stamp"]) == ({"hello": "there"}, "1")


def test_two_middlewares_do_not_meet_and_the_process_stays_as_it_is() -> None:
    heard: list[str] = []

    def middleware(name: str) -> Middleware:
        @Pre
        async def trigger() -> None:
            coprocess.trigger_event("told", json.dumps({"by": name}))

        @Event
        async def told(event: coprocess.Event, spec: coprocess.Spec) -> None:
            heard.append(f"{spec.api_id} hears {event.meta['by']}")

        return Middleware(site(), [trigger, told], api_id=name)

    before = (sys.stdout, sys.stderr, list(logging.getLogger().handlers), signal.getsignal(signal.SIGTERM))
    sink = context._event_sink

    async def main() -> None:
        both = [middleware("one"), middleware("two")]
        for each in both:
            transport = httpx.ASGITransport(app=each)
            async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
                assert (await client.get("/")).status_code == 200
        after = (sys.stdout, sys.stderr, list(logging.getLogger().handlers), signal.getsignal(signal.SIGTERM))
        assert (after, context._event_sink) == (before, sink)
        while len(heard) < 2:  # noqa: ASYNC110 - handlers fill it
            await asyncio.sleep(0.001)
        for each in both:
            await each.close()

    asyncio.run(main())
    assert sorted(heard) == ["one hears one", "two hears two"]


def test_a_folder_with_settings(tmp_path: Path) -> None:
    (tmp_path / "site.py").write_text(
        "from coprocess import App, Pre, respond\n"
        "app = App()\n"
        "@Pre\n"
        "def greet(request, spec):\n"
        "    return respond(json={'app': app.config['name'], 'spec': spec.config})\n"
    )
    answer = get(Middleware(site(), tmp_path, app_config={"name": "n"}, config={"a": 1}))
    assert answer.json() == {"app": "n", "spec": {"a": 1}}
    (tmp_path / "broken.py").write_text("from coprocess import Pre\n@Pre\ndef bad(nonsense): pass\n")
    with pytest.raises(LoadError, match=r"broken\.py:2: bad\(\) asks for \"nonsense\""):
        Middleware(site(), tmp_path)


def test_a_body_that_was_not_kept_is_refused_with_the_sentence_that_helps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @Pre
    def hidden(request: coprocess.Request) -> None:
        getattr(request, "bo" + "dy")

    assert get(Middleware(site(), [hidden]), "/x", "POST", content=b"x").status_code == 500

    @Pre(body=True)
    def says_so(request: coprocess.Request) -> None:
        assert getattr(request, "bo" + "dy") == b"x"

    assert get(Middleware(site(), [says_so]), "/x", "POST", content=b"x").json()["body"] == "x"


def test_cancelling_a_request_cancels_its_handler_and_frees_its_place() -> None:
    entered, cancelled = threading.Event(), threading.Event()

    @Pre(concurrency=1)
    async def waits(request: coprocess.Request) -> None:
        if request.path == "/wait":
            entered.set()
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

    async def main() -> int:
        middleware = Middleware(site(), [waits])
        transport = httpx.ASGITransport(app=middleware)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            task = asyncio.ensure_future(client.get("/wait"))
            while not entered.is_set():  # noqa: ASYNC110 - a handler sets it
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert cancelled.is_set()
            status = (await client.get("/")).status_code
        await middleware.close()
        return status

    assert asyncio.run(main()) == 200


def test_an_async_handler_has_a_context_of_its_own() -> None:
    from contextvars import ContextVar

    mine: ContextVar[str] = ContextVar("mine", default="unset")

    @Pre
    async def sets() -> None:
        mine.set("by the handler")
        await asyncio.sleep(0)

    async def tells(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": mine.get().encode()})

    assert get(Middleware(tells, [sets])).text == "unset"


@pytest.mark.parametrize("waits_first", [False, True])
def test_a_handler_that_cancels_its_own_task_is_a_failure_that_is_answered(waits_first: bool) -> None:
    """Once, the cancellation went out of the app, and the client got what its server made of that."""

    @Pre
    async def cancels_itself() -> None:
        if waits_first:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with capture_logs() as logs:
        assert get(Middleware(site(), [cancels_itself])).status_code == 500
    assert any("cancelled the task that it runs in" in str(entry["event"]) for entry in logs)


def test_a_status_that_servers_do_not_send_is_a_failure() -> None:
    """Once, uvicorn dropped the connection."""

    @Pre
    def odd(request: coprocess.Request) -> coprocess.Reply:
        return respond(int(request.query["status"]), "x")

    app = Middleware(site(), [odd])
    assert get(app, "/x?status=599").status_code == 599
    assert get(app, "/x?status=600").status_code == 500
