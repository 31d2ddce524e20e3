"""The order of what an App declares, sync and async: Flask's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coprocess.api.moments import HookType
from coprocess.errors import HandlerFailed
from coprocess.loading.hooks import HookTable
from tests.lifecycle.programs import Opened
from tests.loading import reply_of, set_headers
from tests.loading import the_hook as hook_of
from tests.objects import make_request, make_response

PROGRAM = """
from coprocess import App, Pre, Post, Reject, Response, respond

app = App()
order = []
seen = []

@app.before
{a}def first(state):
    order.append("before 1")
    state.count = 1

@app.before(Pre)
{a}def second(request, state):
    order.append("before 2")
    state.count += 1
    if request.headers.get("X-Stop") == "before":
        return respond(403, "stopped")
    if request.headers.get("X-Stop") == "raise":
        raise Reject(401, "no")
    if request.headers.get("X-Stop") == "error":
        raise PermissionError("before")

@app.after
{a}def last(response):
    order.append("after 1")
    seen.append(None if response is None else response.status)
    if response is not None:
        response.headers["X-After"] = "1"

@app.after(Pre, Post)
{a}def earlier(response, state):
    order.append(f"after 2, {{state.count}}")

@app.teardown
{a}def end_1(error):
    order.append(f"teardown 1, {{error!r}}")

@app.teardown
{a}def end_2():
    order.append("teardown 2")
    raise RuntimeError("of a teardown")

@app.errorhandler(PermissionError)
{a}def denied(error):
    order.append("denied")
    return respond(403, json={{"error": str(error)}})

@Pre
{b}def handle(request, state):
    order.append("handler")
    if request.headers.get("X-Stop") == "handler":
        raise PermissionError("handler")
    if request.headers.get("X-Stop") == "unknown":
        raise KeyError("unknown")
    if request.headers.get("X-Stop") == "respond":
        return respond(204)
    request.headers["X-Count"] = str(state.count)

@Response
{b}def answer(response):
    order.append("handler")
    if response.status == 500:
        raise PermissionError("late")
"""


@pytest.fixture(params=[("", ""), ("async ", "async "), ("async ", ""), ("", "async ")], ids=str)
def opened(request: pytest.FixtureRequest, tmp_path: Path, open_program: Opened) -> HookTable:
    around, handler = request.param
    return open_program(tmp_path, {"handlers.py": PROGRAM.format(a=around, b=handler)})


def order_of(table: HookTable) -> list[str]:
    order: list[str] = global_of_handler(table, "order")
    return order


def global_of_handler(table: HookTable, name: str) -> list[Any]:
    found: list[Any] = hook_of(table, "handle").handler.__globals__[name]
    return found


END = ["teardown 2", "teardown 1, None"]


def test_before_handler_after_teardown(opened: HookTable) -> None:
    assert set_headers(reply_of(opened, "handle")) == {"X-Count": "2"}
    assert order_of(opened) == ["before 1", "before 2", "handler", "after 2, 2", "after 1", *END]
    assert global_of_handler(opened, "seen") == [None]


@pytest.mark.parametrize(("stop", "status"), [("before", 403), ("raise", 401)])
def test_an_answer_of_before_skips_the_handler_and_goes_through_after(
    opened: HookTable, stop: str, status: int
) -> None:
    overrides = reply_of(
        opened, "handle", request=make_request("/", headers={"X-Stop": stop})
    ).request.return_overrides

    assert overrides.response_code == status
    assert dict(overrides.headers)["X-After"] == "1"
    assert order_of(opened) == ["before 1", "before 2", "after 2, 2", "after 1", *END]
    assert global_of_handler(opened, "seen") == [status]


def test_an_answer_of_the_handler_goes_through_after(opened: HookTable) -> None:
    overrides = reply_of(
        opened, "handle", request=make_request("/", headers={"X-Stop": "respond"})
    ).request.return_overrides

    assert (overrides.response_code, dict(overrides.headers)) == (204, {"X-After": "1"})


@pytest.mark.parametrize(
    ("stop", "ran"), [("error", []), ("handler", ["handler"])], ids=["in before", "in the handler"]
)
def test_an_error_that_is_answered_goes_through_after_and_is_none_to_teardown(
    opened: HookTable, stop: str, ran: list[str]
) -> None:
    overrides = reply_of(
        opened, "handle", request=make_request("/", headers={"X-Stop": stop})
    ).request.return_overrides

    assert (overrides.response_code, dict(overrides.headers)["X-After"]) == (403, "1")
    assert order_of(opened) == ["before 1", "before 2", *ran, "denied", "after 2, 2", "after 1", *END]


def test_an_error_that_nobody_answers_fails_the_call_and_reaches_teardown(opened: HookTable) -> None:
    with pytest.raises(HandlerFailed, match="raised KeyError"):
        reply_of(opened, "handle", request=make_request("/", headers={"X-Stop": "unknown"}))

    expected = ["before 1", "before 2", "handler", "teardown 2", "teardown 1, KeyError('unknown')"]
    assert order_of(opened) == expected


def test_after_edits_the_response(opened: HookTable) -> None:
    reply = reply_of(opened, "answer", HookType.Response, response=make_response(200))

    assert dict(reply.response.headers)["X-After"] == "1"
    assert order_of(opened) == ["before 1", "handler", "after 1", *END]


def test_an_error_in_a_response_hook_is_answered_and_its_answer_is_edited(opened: HookTable) -> None:
    reply = reply_of(opened, "answer", HookType.Response, response=make_response(500))

    assert (reply.response.status_code, reply.response.raw_body) == (403, b'{"error":"late"}')
    assert dict(reply.response.headers)["X-After"] == "1"
