"""What belongs to a whole request: resources of scope `call`, teardown, and clients that go."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest
from structlog.testing import capture_logs

import coprocess
from coprocess import App, Pre, Response, respond
from coprocess.asgi import Middleware as Asgi
from coprocess.wsgi import Middleware as Wsgi
from tests.server import PATIENCE_S, until

Call = Callable[..., list[Any]]


def handlers(told: list[str], asynchronous: bool) -> list[Any]:
    """One Pre, one Response, which share a resource, with teardowns."""
    app = App()

    @app.resource
    def db() -> Iterator[str]:
        yield "db"

    if asynchronous:

        @app.resource(scope="call")
        async def tx(db: str) -> AsyncIterator[list[str]]:
            told.append(f"begin {db}")
            try:
                yield told
            except BaseException as error:
                told.append(f"rollback {type(error).__name__}")
                raise
            told.append("commit")
    else:

        @app.resource(scope="call", name="tx")
        def tx_sync(db: str) -> Iterator[list[str]]:
            told.append(f"begin {db}")
            try:
                yield told
            except BaseException as error:
                told.append(f"rollback {type(error).__name__}")
                raise
            told.append("commit")

    @app.teardown
    def first(error: BaseException | None) -> None:
        told.append(f"first {type(error).__name__ if error else 'good'}")

    @app.teardown
    async def second(state: coprocess.State, tx: list[str]) -> None:
        await asyncio.sleep(0)
        tx.append(f"second {state.path}")

    @app.errorhandler(PermissionError)
    def denied(error: Exception, tx: list[str]) -> coprocess.Reply:
        tx.append("denied")
        return respond(403, json={"error": str(error)})

    def before(request: coprocess.Request, tx: list[str], state: coprocess.State) -> coprocess.Reply | None:
        state.path = request.path
        tx.append("pre")
        if request.path == "/reply":
            return respond(200, "short")
        if request.path == "/fail":
            raise LookupError
        return None

    def after(response: coprocess.Response, tx: list[str]) -> None:
        tx.append(f"response {response.status}")

    async def before_async(
        request: coprocess.Request, tx: list[str], state: coprocess.State
    ) -> coprocess.Reply | None:
        await asyncio.sleep(0)
        return before(request, tx, state)

    async def after_async(response: coprocess.Response, tx: list[str]) -> None:
        after(response, tx)

    chosen = (before_async, after_async) if asynchronous else (before, after)
    return [app, Pre(name="before")(chosen[0]), Response(name="after")(chosen[1])]


def call_asgi(told: list[str], asynchronous: bool, path: str) -> list[Any]:
    sent: list[Any] = []

    async def site(scope: Any, receive: Any, send: Any) -> None:
        told.append("app")
        if path == "/denied":
            raise PermissionError("not you")
        if path == "/raise":
            raise ValueError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        if path == "/late":
            raise PermissionError("too late")
        told.append("half")
        await send({"type": "http.response.body", "body": b"b"})
        told.append("app goes on")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def main() -> None:
        middleware = Asgi(site, handlers(told, asynchronous))
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
        try:
            await middleware(scope, receive, send)
        except (ValueError, PermissionError) as error:
            sent.append(error)
        await middleware.close()

    asyncio.run(main())
    return [each if isinstance(each, Exception) else each.get("status", each.get("body")) for each in sent]


class Chunks:
    def __init__(self, told: list[str], path: str) -> None:
        self._told = told
        self._left = [b"a", b"b"]
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if len(self._left) == 1:
            if self._path == "/late":
                raise PermissionError("too late")
            self._told.append("half")
        if not self._left:
            raise StopIteration
        return self._left.pop(0)

    def close(self) -> None:
        self._told.append("app goes on")


def call_wsgi(told: list[str], asynchronous: bool, path: str) -> list[Any]:
    sent: list[Any] = []

    def site(environ: Any, start_response: Any) -> Any:
        told.append("app")
        if path == "/denied":
            raise PermissionError("not you")
        if path == "/raise":
            raise ValueError
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Chunks(told, path)

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        sent.append(int(status[:3]))

    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    middleware = Wsgi(site, handlers(told, asynchronous))
    try:
        chunks = middleware(environ, start_response)
        try:
            sent += chunks
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
    except (ValueError, PermissionError) as error:
        sent.append(error)
    middleware.close()
    return sent


def _start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
    """As a server's."""


PRE, END = ["begin db", "pre"], ["commit"]
CASES = {
    "/x": [*PRE, "app", "response 200", "half", "second /x", "first good", *END],
    "/reply": [*PRE, "second /reply", "first good", *END],
    "/fail": [*PRE, "second /fail", "first LookupError", "rollback LookupError"],
    "/raise": [*PRE, "app", "second /raise", "first ValueError", "rollback ValueError"],
    "/denied": [*PRE, "app", "denied", "response 403", "second /denied", "first good", *END],
    "/late": [
        *PRE,
        "app",
        "response 200",
        "second /late",
        "first PermissionError",
        "rollback PermissionError",
    ],
}


@pytest.mark.parametrize("call", [call_asgi, call_wsgi])
@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("path", CASES)
def test_a_request_has_one_resource_and_one_teardown(call: Call, asynchronous: bool, path: str) -> None:
    told: list[str] = []
    sent = call(told, asynchronous, path)
    assert [each for each in told if each != "app goes on"] == CASES[path]
    if path == "/x":
        # ASGI: with the last of the body. WSGI: when that is closed.
        assert told.index("app goes on") == (
            len(told) - 1 if call is call_asgi else CASES["/x"].index("half") + 1
        )
    if path in ("/raise", "/late"):
        assert isinstance(sent[-1], Exception)
    else:
        assert sent[0] == {"/fail": 500, "/denied": 403}.get(path, 200)


def test_a_body_of_one_chunk_keeps_its_length_and_the_servers_file_its_class() -> None:
    app = App()
    ended: list[bool] = []

    @app.teardown
    def done() -> None:
        ended.append(True)

    @Pre
    def nothing() -> None:
        pass

    made: list[Any] = []

    def site(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        made.append([b"x"] if environ["PATH_INFO"] == "/list" else FileWrapper(io.BytesIO(b"x")))
        return made[-1]

    middleware = Wsgi(site, [app, nothing])
    for path in ("/list", "/file"):
        environ: dict[str, Any] = {"PATH_INFO": path, "wsgi.file_wrapper": FileWrapper}
        setup_testing_defaults(environ)
        result: Any = middleware(environ, _start_response)
        assert len(result) == 1 if path == "/list" else result is made[-1]
        result.close()
    middleware.close()
    assert ended == [True, True]
    assert made[-1].filelike.closed


def test_a_client_that_goes_ends_the_async_handler_that_works_for_it() -> None:
    """And the request's resources; what the client had sent before is not lost where it stays."""
    told: list[str] = []
    app = App()

    @app.resource(scope="call")
    async def tx() -> AsyncIterator[list[str]]:
        yield told
        told.append("closed")

    @Pre
    async def waits(tx: list[str], request: coprocess.Request) -> None:
        try:
            await asyncio.sleep(0.2 if request.path == "/stays" else 60)
        except asyncio.CancelledError:
            tx.append("cancelled")
            raise

    async def site(scope: Any, receive: Any, send: Any) -> None:
        told.append(f"app {(await receive())['body'].decode()}")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def request(middleware: Any, path: str) -> None:
        messages = [{"type": "http.request", "body": b"one", "more_body": True}]
        if path == "/goes":
            messages.append({"type": "http.disconnect"})

        async def receive() -> Any:
            if not messages:
                await asyncio.Event().wait()
            return messages.pop(0)

        async def send(message: Any) -> None:
            told.append(message["type"])

        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        await asyncio.wait_for(middleware(scope, receive, send), PATIENCE_S)

    async def main() -> None:
        middleware = Asgi(site, [app, waits])
        await request(middleware, "/goes")
        # No resource leaves its `yield` well, where a handler was cancelled.
        assert told == ["cancelled"]
        told.clear()
        await request(middleware, "/stays")
        await middleware.close()

    asyncio.run(main())
    assert told == ["app one", "http.response.start", "http.response.body", "closed"]


def test_an_app_that_hears_of_a_disconnect_has_ended_its_request() -> None:
    told: list[str] = []
    app = App()

    @app.teardown
    def done() -> None:
        told.append("teardown")

    @Pre
    def nothing() -> None:
        pass

    async def site(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.append("app heard")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def main() -> None:
        middleware = Asgi(site, [app, nothing])

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
        await middleware(scope, receive, send)
        await middleware.close()

    asyncio.run(main())
    assert told == ["teardown", "app heard"]


def test_an_end_that_hangs_is_given_up() -> None:
    app = App()
    told: list[str] = []

    @app.teardown
    def last() -> None:
        told.append("last")

    @app.teardown
    async def hangs() -> None:
        await asyncio.Event().wait()

    @Pre
    def nothing() -> None:
        pass

    def site(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b""]

    middleware = Wsgi(site, [app, nothing], timeout_s=0.1)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    result: Any = middleware(environ, _start_response)
    result.close()
    middleware.close()
    assert told == ["last"]


def test_a_reload_leaves_no_request_without_its_resources(tmp_path: Any) -> None:
    """The request that began before ends on the old handlers, whose resources close after it."""
    (tmp_path / "h.py").write_text(
        "from coprocess import App, Pre, Response\n"
        "app = App()\n"
        "@app.resource\n"
        "def db():\n"
        "    db = {'open': True}\n"
        "    yield db\n"
        "    db['open'] = False\n"
        "@Pre\n"
        "def before(request, db, state):\n"
        "    state.db = db\n"
        "@Response\n"
        "def after(response, db, state):\n"
        "    response.headers['X-Same'] = str(state.db is db and db['open'])\n"
    )
    seen: list[Any] = []
    entered, release = threading.Event(), threading.Event()

    def site(environ: Any, start_response: Any) -> Any:
        seen.append(environ["coprocess"].state.db)
        if environ["PATH_INFO"] == "/slow":
            entered.set()
            release.wait(PATIENCE_S)
        start_response("200 OK", [])
        return [b""]

    answers: list[dict[str, str]] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        answers.append(dict(headers))

    def get(path: str) -> None:
        environ: dict[str, Any] = {"PATH_INFO": path}
        setup_testing_defaults(environ)
        result: Any = middleware(environ, start_response)
        result.close()

    middleware = Wsgi(site, tmp_path)
    get("/quick")
    slow = threading.Thread(target=get, args=("/slow",))
    slow.start()
    assert entered.wait(PATIENCE_S)
    outcome = middleware.reload()
    assert outcome.succeeded, outcome
    get("/quick")
    # Longer than a call takes from the table to its gate.
    threading.Event().wait(1.5)
    assert seen[1]["open"]
    assert seen[2] is not seen[1]
    release.set()
    slow.join(PATIENCE_S)
    assert [each["X-Same"] for each in answers] == ["True"] * 3
    until(lambda: not seen[1]["open"])
    assert seen[2]["open"]
    assert b'coprocess_reloads_total{result="ok"} 1.0' in middleware.metrics()
    (tmp_path / "h.py").write_text("broken(")
    outcome = middleware.reload()
    assert not outcome.succeeded
    get("/quick")
    assert answers[-1] == {"X-Same": "True"}
    middleware.close()
    assert not seen[2]["open"]


def test_files_that_change_are_loaded_again_where_asked_for(tmp_path: Any) -> None:
    source = "from coprocess import Pre, respond\n@Pre\ndef answer():\n    return respond(200, '{}')\n"
    (tmp_path / "h.py").write_text(source.format("old"))
    middleware = Wsgi(lambda environ, start_response: [b""], tmp_path, reload=True)

    def get() -> bytes:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        return b"".join(middleware(environ, _start_response))

    with contextlib.closing(middleware):
        assert get() == b"old"
        (tmp_path / "h.py").write_text(source.format("newer"))
        until(lambda: get() == b"newer")


@pytest.mark.parametrize("declares", ["before", "after", "errorhandler"])
@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_an_app_without_anything_for_the_end_of_a_request(declares: str, kind: str) -> None:
    app = App()
    ran = []

    def around() -> None:
        ran.append(declares)

    if declares == "errorhandler":
        app.errorhandler(ValueError)(lambda: respond(418))
    else:
        getattr(app, declares)(around)

    @Pre
    def handler(request: coprocess.Request) -> None:
        if declares == "errorhandler":
            raise ValueError

    status = (
        _status_by_wsgi([app, handler]) if kind == "wsgi" else asyncio.run(_status_by_asgi([app, handler]))
    )

    assert (status, ran) == ((418, []) if declares == "errorhandler" else (200, [declares]))


def _status_by_wsgi(handlers: list[Any]) -> int:
    def site(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    seen: list[str] = []

    def start(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        seen.append(status)
        return lambda chunk: None

    around = Wsgi(site, handlers)
    try:
        chunks: Any = around(environ, start)
        list(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
    finally:
        around.close()
    return int(seen[0][:3])


async def _status_by_asgi(handlers: list[Any]) -> int:
    async def site(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    seen: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        seen.append(message)

    around = Asgi(site, handlers)
    try:
        await around({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    finally:
        await around.close()
    return int(seen[0]["status"])


def test_what_fails_at_the_end_is_told_without_the_values_of_its_frames() -> None:
    app = App()

    @app.teardown
    def fails() -> None:
        raise RuntimeError("at the end")

    @Pre
    def handler(request: coprocess.Request) -> None:
        pass

    with capture_logs() as told:
        assert _status_by_wsgi([app, handler]) == 200

    # With exc_info, a process without logging of its own would show the values of all frames, by rich.
    [entry] = told
    assert entry.keys() == {"event", "exception", "log_level"}
    assert "RuntimeError: at the end" in entry["exception"]
    assert "lifetime.py" not in entry["exception"]
    assert "<string>" not in entry["exception"]


@pytest.mark.parametrize("waits_first", [False, True])
def test_a_handler_that_blocks_the_loop_of_the_app_is_told_of(
    waits_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coprocess.runtime.at_once.BLOCKS_S", 0.01)

    @Pre
    async def blocks(request: coprocess.Request) -> None:
        if waits_first:
            await asyncio.sleep(0)
        time.sleep(0.02)  # noqa: ASYNC251 - what it should not

    with capture_logs() as told:
        assert asyncio.run(_status_by_asgi([blocks])) == 200

    entries = [each for each in told if "blocked the event loop of the app" in each["event"]]
    assert (entries[0]["hook"], entries[0]["log_level"]) == ("blocks", "warning")
    assert entries[0]["seconds"] > 0.01


def test_a_request_that_waits_while_the_middleware_closes_ends_on_what_it_began_with() -> None:
    async def run() -> int:
        waits, go_on = asyncio.Event(), asyncio.Event()

        @Pre
        async def first(request: coprocess.Request) -> None:
            waits.set()
            await go_on.wait()

        @Pre
        async def second(request: coprocess.Request) -> None:
            pass

        async def site(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        seen: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": True}

        async def send(message: Any) -> None:
            seen.append(message)

        around = Asgi(site, [first, second])
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        request = asyncio.ensure_future(around(scope, receive, send))
        await waits.wait()
        closing = asyncio.ensure_future(around.close())
        while around.requests.is_open:  # noqa: ASYNC110 - a thread closes it, and tells nobody
            await asyncio.sleep(0.01)
        go_on.set()
        await request
        await closing
        return int(seen[0]["status"])

    assert asyncio.run(run()) == 200


def test_a_request_whose_app_runs_when_the_handlers_are_closed_is_answered() -> None:
    @Response
    async def edits(response: coprocess.Response) -> None:
        response.headers["X-Edited"] = "yes"

    def edits_too(response: coprocess.Response) -> None:
        response.headers["X-Edited"] = "yes"

    async def by_asgi() -> int:
        sent: list[Any] = []

        async def site(scope: Any, receive: Any, send: Any) -> None:
            await around.close()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"not to be seen unedited"})

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        around = Asgi(site, [edits])
        await around({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
        assert b"unedited" not in b"".join(message.get("body", b"") for message in sent)
        return int(sent[0]["status"])

    assert asyncio.run(by_asgi()) == 503
    statuses: list[str] = []

    def start_response(status: str, *rest: Any) -> Any:
        statuses.append(status)

    def site(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        around.close()
        start_response("200 OK", [])
        return [b"not to be seen unedited"]

    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    around = Wsgi(site, [Response(edits_too)])
    assert b"unedited" not in b"".join(around(environ, start_response))
    assert statuses == ["503 Service Unavailable"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failure_that_cannot_be_told_gives_its_place_back(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*arguments: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("coprocess.runtime.failures.Failures.fail", cannot)

    def fails(request: coprocess.Request) -> None:
        raise ValueError

    async def fails_too(request: coprocess.Request) -> None:
        raise ValueError

    handler = Pre(concurrency=1)(fails_too if asynchronous else fails)

    def site(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise AssertionError("it let the request pass")

    async def ask_by_asgi() -> None:
        async def nothing(*given: Any) -> Any:
            return {"type": "http.request"}

        around = Asgi(site, [handler])
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await around({"type": "http", "path": "/", "headers": [], "method": "GET"}, nothing, nothing)
        assert [state.running for state in _states_of(around)] == [0]
        await around.close()

    if asynchronous:
        asyncio.run(ask_by_asgi())
        return
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    around: Any = Wsgi(site, [handler])
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            around(environ, lambda *given: None)
    assert [state.running for state in _states_of(around)] == [0]
    around.close()


def _states_of(around: Any) -> Any:
    return around.adapter.service.gates.states
