"""Whatever an app and its client do: what the Middleware sends keeps to the specification, and all ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coprocess import App, Pre, Request, Response, respond
from coprocess.asgi import Middleware
from tests.web.asgi_judge import Judged


def pre(kind: str) -> Any:
    @Pre(name="pre")
    def sync(request: Request) -> None:
        request.headers["X-Pre"] = "1"

    @Pre(name="pre")
    async def waiting(request: Request) -> None:
        await asyncio.sleep(0.001)

    @Pre(name="pre", body=True)
    async def reading(request: Request) -> None:
        assert isinstance(request.body, bytes)

    @Pre(name="pre")
    async def writing(request: Request) -> None:
        request.body = b"of the handler"

    @Pre(name="pre")
    async def replying() -> Any:
        return respond(401, "no")

    found: dict[str, Any] = {
        "sync": sync,
        "waiting": waiting,
        "reading": reading,
        "writing": writing,
        "replying": replying,
    }
    return found[kind]


def after(kind: str) -> Any:
    @Response(name="after")
    def editing(response: Response) -> None:
        response.headers["X-After"] = "1"
        response.headers["Content-Length"] = "999"

    @Response(name="after")
    async def waiting(response: Response) -> None:
        await asyncio.sleep(0.001)

    @Response(name="after", body=True)
    async def reading(response: Response) -> None:
        assert isinstance(response.body, bytes)

    @Response(name="after")
    async def writing(response: Response) -> None:
        response.body = b"another body"

    @Response(name="after")
    async def replying() -> Any:
        return respond(418, "teapot")

    @Response(name="after")
    async def failing() -> None:
        raise ValueError("of the handler")

    found: dict[str, Any] = {
        "editing": editing,
        "waiting": waiting,
        "reading": reading,
        "writing": writing,
        "replying": replying,
        "failing": failing,
    }
    return found[kind]


PRES = ["", "sync", "waiting", "reading", "writing", "replying"]
AFTERS = ["", "editing", "waiting", "reading", "writing", "replying", "failing"]


async def scripted(scope: Any, receive: Any, send: Any) -> None:
    """An app that does what the test wants."""
    script = scope["script"]
    for step in script["steps"]:
        if step == "raise":
            raise LookupError("of the app")
        if step == "receive":
            script["received"].append(await receive())
        elif step == "wait":
            await asyncio.sleep(0.001)
        else:
            await send(step)


class Around:
    """A Middleware for each pair of handlers, on one loop. `ends` counts teardowns."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._made: dict[tuple[str, str, bool], Middleware] = {}
        self.ends = 0

    def made(self, before: str, later: str, has_app: bool) -> Middleware:
        key = before, later, has_app
        if key not in self._made:
            app = App()

            @app.teardown
            def done() -> None:
                self.ends += 1

            handlers = [*([pre(before)] if before else []), *([after(later)] if later else [])]
            self._made[key] = Middleware(scripted, [*handlers, *([app] if has_app else [])])
        return self._made[key]

    def close(self) -> None:
        for each in self._made.values():
            self.runner.run(each.close())
        self.runner.close()


@pytest.fixture(scope="module")
def around() -> Iterator[Around]:
    made = Around()
    yield made
    made.close()


CHUNKS = st.lists(st.binary(max_size=4), max_size=3)


@st.composite
def steps(draw: st.DrawFn) -> list[Any]:
    """What an app that keeps to the specification may do, or leave undone, or fail at."""
    chunks, has_trailers = draw(CHUNKS), draw(st.booleans())
    headers = [(b"content-type", b"text/plain"), (b"X-Mixed".lower(), b"1")]
    if draw(st.booleans()):
        headers.append((b"content-length", b"%d" % len(b"".join(chunks))))
    start = {"type": "http.response.start", "status": draw(st.sampled_from([200, 404, 204]))}
    if start["status"] == 204:
        chunks, headers = [], headers[:2]
    sent: list[Any] = [{**start, "headers": headers, **({"trailers": True} if has_trailers else {})}]
    sent += [{"type": "http.response.body", "body": chunk, "more_body": True} for chunk in chunks]
    sent.append({"type": "http.response.body"})
    if has_trailers:
        sent.append({"type": "http.response.trailers", "headers": [(b"x-end", b"1")]})
    ending = draw(st.sampled_from(["whole", "whole", "whole", "returns", "raises"]))
    if ending != "whole":
        sent = sent[: draw(st.integers(0, len(sent)))] + (["raise"] if ending == "raises" else [])
    for place in draw(st.lists(st.integers(0, len(sent)), max_size=3)):
        sent.insert(place, draw(st.sampled_from(["receive", "wait"])))
    return sent


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=steps(),
    pair=st.tuples(st.sampled_from(PRES), st.sampled_from(AFTERS), st.booleans()),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    body=CHUNKS,
    gone_after=st.sampled_from([None, None, 0.0, 0.0005]),
)
def test_what_is_sent_is_in_order_and_whole(
    around: Around,
    steps: list[Any],
    pair: tuple[str, str, bool],
    method: str,
    body: list[bytes],
    gone_after: Any,
) -> None:
    middleware = around.made(*pair)
    script: dict[str, Any] = {"steps": steps, "received": []}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "script": script,
    }
    came = [{"type": "http.request", "body": each, "more_body": True} for each in body]
    came.append({"type": "http.request", "body": b"", "more_body": False})
    before = around.ends

    async def request() -> tuple[Judged, BaseException | None]:
        await middleware.open()  # The first time it may take longer than the client stays.
        gone, asked = asyncio.Event(), 0

        async def receive() -> Any:
            nonlocal asked
            asked += 1
            assert asked == 1, "the server was asked twice at one time"
            try:
                if came and not gone.is_set():
                    return came.pop(0)
                await gone.wait()
                return {"type": "http.disconnect"}
            finally:
                asked -= 1

        async def to_server(message: Any) -> None:
            if judged.has_ended:
                gone.set()

        judged = Judged(scope, to_server)
        if gone_after is not None:
            asyncio.get_running_loop().call_later(gone_after, gone.set)
        else:
            # An app that waits for more than comes waits for the client's end.
            asyncio.get_running_loop().call_later(0.1, gone.set)
        try:
            await asyncio.wait_for(middleware(scope, receive, judged), 50)
        except LookupError as error:
            return judged, error
        return judged, None

    judged, error = around.runner.run(request())
    whole = "raise" not in steps and any(
        step not in ("receive", "wait")
        and not step.get("more_body")
        and step["type"] != "http.response.start"
        for step in steps
    )
    has_all = whole and (
        not steps
        or not any(isinstance(s, dict) and s.get("trailers") for s in steps)
        or any(isinstance(s, dict) and s["type"] == "http.response.trailers" for s in steps)
    )
    replied = pair[0] == "replying"
    if gone_after is None and (has_all or replied) and "receive" not in steps:
        assert judged.has_ended
    assert (error is not None) <= ("raise" in steps)
    if pair[0] == "writing" and script["received"] and gone_after is None:
        assert script["received"][0] == {
            "type": "http.request",
            "body": b"of the handler",
            "more_body": False,
        }
    # Nothing stays behind: the request is no more, and its teardown ran once where a handler had.
    assert not middleware.adapter.chain.requests
    assert around.ends - before <= 1
    if gone_after is None and pair[2] and pair[0]:
        assert around.ends - before == 1


@pytest.mark.parametrize("listens", [False, True])
def test_a_client_that_goes_while_a_response_handler_waits_ends_that(listens: bool) -> None:
    told: list[str] = []
    sent: list[Any] = []
    begun = asyncio.Event()

    @Response
    async def slow(response: Response) -> None:
        try:
            told.append("begun")
            begun.set()
            await asyncio.sleep(60)
        finally:
            told.append("cancelled")

    app = App()

    @app.teardown
    def done() -> None:
        told.append("teardown")

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        # As Starlette's streams do: one task sends, another listens for the end.
        hears = asyncio.ensure_future(receive()) if listens else None
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"to nobody"})
        told.append("app ended")
        if hears is not None:
            told.append((await hears)["type"])

    async def main() -> None:
        middleware = Middleware(inner, [slow, app])

        async def receive() -> Any:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        await asyncio.wait_for(middleware(scope, receive, send), 50)
        await middleware.close()

    asyncio.run(main())
    assert sent == []
    assert told[:2] == ["begun", "cancelled"]
    assert told.count("teardown") == 1
    assert "app ended" in told
    assert ("http.disconnect" in told) == listens


LIFESPANS = {
    "none": [],
    "whole": ["receive", "startup.complete", "receive", "shutdown.complete"],
    "fails to start": ["receive", "startup.failed"],
    "raises at its start": ["receive", "raise"],
    "raises at once": ["raise"],
    "raises when it has started": ["receive", "startup.complete", "raise"],
    "fails to stop": ["receive", "startup.complete", "receive", "shutdown.failed"],
    "raises at its stop": ["receive", "startup.complete", "receive", "raise"],
}


@pytest.mark.parametrize("name", LIFESPANS)
def test_a_lifespan_is_answered_once_and_leaves_nothing_open(name: str) -> None:
    told: list[str] = []
    app = App()

    @app.resource
    async def db() -> Any:
        told.append("open")
        yield None
        told.append("close")

    @Pre
    async def uses(db: Any) -> None:
        pass

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        for step in LIFESPANS[name]:
            if step == "receive":
                await receive()
            elif step == "raise":
                raise LookupError("of the app")
            else:
                await send({"type": f"lifespan.{step}"})

    sent: list[str] = []

    async def main() -> None:
        middleware = Middleware(inner, [uses, app])
        comes = ["lifespan.startup", "lifespan.shutdown"]

        async def receive() -> Any:
            # A server says that it stops when the start was answered.
            assert len(comes) == 2 or sent
            return {"type": comes.pop(0)}

        async def send(message: Any) -> None:
            sent.append(message["type"].removeprefix("lifespan."))

        try:
            await asyncio.wait_for(middleware({"type": "lifespan"}, receive, send), 50)
        except LookupError:
            told.append("raised")
        assert not middleware.adapter.is_open

    asyncio.run(main())
    assert sum(each.startswith("startup") for each in sent) == 1
    assert sum(each.startswith("shutdown") for each in sent) <= 1
    assert sent[0].startswith("startup")
    assert told.count("open") == told.count("close") == 1
    # What fails in the app is not hidden once it has spoken.
    assert ("raised" in told) == (name in ("raises when it has started", "raises at its stop"))
