"""Handlers that run in place: what overruns there, and messages that an app sends in its own order."""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import replace
from typing import Any

import pytest

from coprocess import Event, Pre, Reject, Response, respond
from coprocess.asgi import Middleware as AsgiMiddleware
from coprocess.gateways.web.server import asgi_of
from coprocess.runtime.around.chain import Chain, chain_of
from coprocess.runtime.hook_state import HookState
from coprocess.transport.engines import is_compiled
from coprocess.wsgi import Middleware as WsgiMiddleware
from tests.service.test_gate import Caller, gate

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/",
    "headers": [],
    "query_string": b"",
}


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    edit = dict(scope["headers"]).get(b"x-edited", b"none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"app: " + edit})


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [f"app: {environ.get('HTTP_X_EDITED', 'none')}".encode()]


def asked(middleware: Any, scope: dict[str, Any] = SCOPE) -> tuple[int, bytes]:
    """The status, and all of the body."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        await middleware(dict(scope), receive, send)
        if hasattr(middleware, "close"):
            await middleware.close()

    asyncio.run(ask())
    assert [message["type"] for message in sent[:1]] == ["http.response.start"]
    assert not any(message["type"] == "http.response.start" for message in sent[1:])
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def answered(app: Any, handlers: list[Any], **options: Any) -> tuple[int, bytes]:
    if app is asgi_app:
        return asked(AsgiMiddleware(app, handlers, **options))
    statuses: list[str] = []

    def start_response(status: str, *rest: Any) -> Any:
        statuses.append(status)

    middleware = WsgiMiddleware(app, handlers, **options)
    body = b"".join(middleware({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, start_response))
    middleware.close()
    return int(statuses[-1][:3]), body


@pytest.mark.parametrize(
    ("on_error", "status", "expected"),
    [("closed", None, 500), ("closed", 503, 503), ("open", None, 200), ("open", 503, 200)],
)
@pytest.mark.parametrize("app", [asgi_app, wsgi_app])
@pytest.mark.parametrize("replies", [False, True])
def test_what_a_handler_in_place_did_beyond_its_time_does_not_count(
    app: Any, replies: bool, on_error: Any, status: int | None, expected: int
) -> None:
    def overrun(request: Any) -> Any:
        request.headers["X-Edited"] = "yes"
        time.sleep(0.05)
        return respond(299) if replies else None

    async def overrun_async(request: Any) -> Any:
        return overrun(request)

    handler = Pre(name="overruns", timeout=0.01, on_error=on_error)(
        overrun_async if app is asgi_app else overrun
    )
    code, body = answered(app, [handler], failure_status=status)
    assert code == expected
    if on_error == "open":
        assert body == b"app: none"
    else:
        assert b"app" not in body


def edits(request: Any) -> None:
    request.headers["X-Edited"] = "yes"


def edits_the_body(request: Any) -> None:
    request.body = "new"
    request.headers["X-Edited"] = "with the body"


def answers(request: Any) -> Any:
    return respond(418, "tea")


def rejects(request: Any) -> None:
    raise Reject(401, "no")


def fails(request: Any) -> None:
    request.headers["X-Edited"] = "no"
    raise ValueError


def sync(handler: Any) -> Any:
    # Another function each time: a declaration stays with its function.
    @functools.wraps(handler)
    def runs(request: Any) -> Any:
        return handler(request)

    return runs


def at_once(handler: Any) -> Any:
    @functools.wraps(handler)
    async def ends(request: Any) -> Any:
        return handler(request)

    return ends


def waiting(handler: Any) -> Any:
    @functools.wraps(handler)
    async def waits(request: Any) -> Any:
        await asyncio.sleep(0)
        return handler(request)

    return waits


@pytest.mark.parametrize("app", [asgi_app, wsgi_app])
@pytest.mark.parametrize("style", [sync, at_once, waiting])
def test_handlers_that_are_run_without_steps_do_what_they_do_in_steps(
    app: Any, style: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcomes(has_steps: bool) -> list[Any]:
        found: list[Any] = []
        for handler in (edits, edits_the_body, answers, rejects, fails):
            for on_error in ("open", "closed"):
                heard: list[str] = []

                @Event
                def hears(event: Any) -> None:
                    heard.append(event.type)  # noqa: B023 - it is closed within the round

                first = Pre(name="a", order=1, on_error=on_error, body=False)(style(handler))
                second = Pre(name="b", order=2, body=False)(style(seen))
                answer = answered(app, [first, second, hears])
                assert (chains[-1].plain_before is None) == has_steps
                found.append((handler.__name__, on_error, *answer, heard))
        return found

    def seen(request: Any) -> None:
        request.headers["X-Edited"] = f"{request.headers.get('X-Edited', 'nothing')}, and seen"

    chains: list[Chain] = []
    made, used = chain_of, "coprocess.runtime.around.gateway.chain_of"

    def with_steps(*arguments: Any) -> Chain:
        chain = replace(made(*arguments), plain_before=None)
        chains.append(chain)
        return chain

    def without(*arguments: Any) -> Chain:
        chains.append(made(*arguments))
        return chains[-1]

    monkeypatch.setattr(used, without)
    expected = outcomes(has_steps=False)
    monkeypatch.setattr(used, with_steps)
    assert outcomes(has_steps=True) == expected
    assert [(name, on_error, status, heard) for name, on_error, status, _, heard in expected[3:]] == [
        ("edits_the_body", "closed", 200, []),
        ("answers", "open", 418, []),
        ("answers", "closed", 418, []),
        ("rejects", "open", 401, ["AuthFailure"]),
        ("rejects", "closed", 401, ["AuthFailure"]),
        ("fails", "open", 200, []),
        ("fails", "closed", 500, []),
    ]


def test_messages_that_an_app_sends_at_one_time_go_out_in_order_with_the_handlers_edits() -> None:
    @Response
    async def upper(response: Any) -> None:
        response.body = response.body.upper()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.gather(
            send({"type": "http.response.start", "status": 200, "headers": []}),
            send({"type": "http.response.body", "body": b"body"}),
        )

    assert asked(AsgiMiddleware(app, [upper])) == (200, b"BODY")


def test_the_body_of_an_app_does_not_follow_what_a_handler_answers_instead() -> None:
    @Response
    async def instead(response: Any) -> Any:
        return respond(418, "tea")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.gather(
            send({"type": "http.response.start", "status": 200, "headers": []}),
            send({"type": "http.response.body", "body": b"coffee"}),
        )

    assert asked(AsgiMiddleware(app, [instead])) == (418, b"tea")


def test_a_wsgi_app_that_is_served_sees_no_client_header_in_the_place_of_an_edited_one() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ.get("HTTP_X_USER", "").encode()]

    headers = [(b"x_user", b"admin"), (b"x-user", b"bob")]
    assert asked(asgi_of(app, 1), {**SCOPE, "headers": headers}) == (200, b"bob")


def test_a_scope_without_a_query_is_no_error() -> None:
    @Pre
    async def looks(request: Any) -> Any:
        return respond(200, f"{request.url} {dict(request.query)}")

    assert asked(AsgiMiddleware(asgi_app, [looks]), {**SCOPE, "query_string": None}) == (200, b"/ {}")


@pytest.mark.skipif(is_compiled(), reason="compiled, a set of a test's own class is changed as any set")
def test_a_hook_is_not_without_calls_while_its_place_is_handed_over() -> None:
    state: HookState[Caller] = gate(1, 1)
    first, second = Caller(), Caller()
    assert state.enter(first)
    assert state.wait(second) is False
    seen: list[bool] = []

    class Watched(set[Caller]):
        def remove(self, caller: Caller) -> None:
            super().remove(caller)
            seen.append(state.has_calls)

        def add(self, caller: Caller) -> None:
            super().add(caller)
            seen.append(state.has_calls)

    state.inside = Watched(state.inside)
    assert state.leave(first, 0.0) is second
    assert seen == [True, True]
    assert state.in_flight == 1
