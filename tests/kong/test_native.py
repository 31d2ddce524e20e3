"""Native handlers in Kong: few questions, edits told together, callers authenticated, state over phases."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

from coprocess.gateways.kong.registration import handlers_server, load_handlers
from tests.kong.server import Served, serving_gateway
from tests.server import PATIENCE_S

HANDLERS = """
from coprocess import CustomKeyCheck, Event, Post, Pre, Reject, Response, respond

@Pre
def mark(request, state):
    request.headers["X-Mark"] = request.headers.get("X-Asked", "none")
    request.headers.add("X-Two", "1")
    request.headers.add("X-Two", "2")
    del request.headers["X-Secret"]
    request.query["q"] = "a b"
    state.path = request.path

@Pre
def silent(state):
    state.path = "unread"

@Pre
def sets(request):
    request.headers["X-Set"] = "1"
    request.method = "PUT"

@Pre
def guards(request):
    if "X-Asked" not in request.headers:
        raise Reject(403, request.path)

@Pre
async def on_a_loop(request):
    assert (request.path, request.method, request.scheme) == ("/a%20b", "GET", "https")

@Pre(on_error="open")
def fails_open(request):
    request.headers["X-Set"] = "1"
    raise ValueError

@Pre(on_error="open")
def sets_or_opens(request):
    request.headers["X-Set"] = "1"

@Pre(on_error="open")
def opens_after_edits(request):
    request.headers["X-Mark"] = request.headers["X-Asked"] + request.method
    request.query["q"] = "new"
    request.method = "PUT"
    raise ValueError

@Response
def body_of_request(request, response):
    response.headers["X-Body"] = request.raw_body.decode()

@Response(on_error="open")
def fixed_or_opens(response):
    response.headers["X-Fixed"] = "1"

@Response(on_error="open")
def opens_response(response):
    response.headers["X-Opened"] = str(response.status)
    response.status = 404
    raise ValueError

@Pre
async def misspells(request):
    request.boddy = b"x"

@Response
def fixed(response):
    response.headers["X-Fixed"] = "1"

@Response
async def tells(request, response):
    asked = request.headers["X-Asked"]
    response.headers["X-Was"] = f"{request.method} {request.path} {response.status} {asked}"

@CustomKeyCheck
def check(request, session):
    token = request.headers.get("Authorization")
    if not token:
        raise Reject(401, "no token")
    session.allow(token, rate=2, per=60)

@Post
async def body(request):
    if b"stop" in request.raw_body:
        return respond(418, "stopped")
    request.body = request.body + b"!"

@Post
def fails(request):
    raise ValueError

@Response
def stamp(response, state):
    response.headers["X-Path"] = state.path

@Response
def rewrite(response):
    response.body = response.body.upper()
    response.status = 201

@Event
def logged(event):
    with open(__file__ + ".log", "a") as out:
        out.write(f"{event.type} {event.meta.get('latency')}\\n")
"""


@contextmanager
def handlers(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "all.py").write_text(textwrap.dedent(HANDLERS))
    gateway = handlers_server([folder], "coprocess")
    with serving_gateway(gateway, tmp_path / "s.socket") as served:
        yield served


def run(
    served: Served, config: dict[str, Any], phases: tuple[str, ...] = ("access",), **gives: Any
) -> dict[str, list[Any]]:
    kong = served.connect()
    instance = kong.start(json.dumps(config), "coprocess")
    calls: list[Any] = []
    gives = {
        "get_method": "GET",
        "get_path_with_query": "/a%20b?x=1",
        "get_scheme": "https",
        "get_headers": {"x-asked": ["v"], "x-secret": ["s"], "authorization": ["me"]},
    } | gives
    kept: dict[str, Any] = {}
    for phase in phases:
        event = kong.event(instance, phase)
        while event["Data"] != "ret":
            method, arguments = event["Data"]["Method"], event["Data"]["Args"]
            calls.append((method.removeprefix("kong."), arguments))
            if method == "kong.ctx.shared.set":
                kept[arguments[0]] = arguments[1]
            if method == "kong.response.exit":
                return dict(calls)
            given = kept.get(arguments[0]) if method == "kong.ctx.shared.get" else None
            event = kong.step(event["EventId"], given or gives.get(method.rpartition(".")[2]))
    return dict(calls)


def test_edits_are_told_together(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        calls = run(served, {"pre": ["mark"]})
        assert list(calls) == [
            "request.get_headers",
            "request.get_path_with_query",
            "service.request.clear_header",
            "service.request.set_headers",
            "service.request.set_raw_query",
        ]
        assert calls["service.request.set_headers"] == [{"X-Mark": "v", "X-Two": ["1", "2"]}]
        assert calls["service.request.clear_header"] == ["X-Secret"]
        assert calls["service.request.set_raw_query"] == ["q=a+b&x=1"]


def test_kong_is_asked_for_what_a_handler_uses_and_when_it_uses_it(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        # What only sets is told, and asks nothing.
        assert run(served, {"pre": ["sets"]}) == {
            "service.request.set_headers": [{"X-Set": "1"}],
            "service.request.set_method": ["PUT"],
        }
        assert list(run(served, {"pre": ["guards"]})) == ["request.get_headers"]
        assert list(run(served, {"pre": ["guards"]}, get_headers={})) == [
            "request.get_headers",
            "request.get_path_with_query",
            "response.exit",
        ]
        # What runs on a loop must not wait there: for that, Kong is asked before.
        calls = list(run(served, {"pre": ["on_a_loop"]}))
        assert calls == ["request.get_path_with_query", "request.get_method", "request.get_scheme"]
        # One that fails open leaves the request as it came.
        assert "service.request.set_headers" not in run(served, {"pre": ["fails_open"]})


def test_a_response_handler_asks_in_its_own_phase(tmp_path: Path) -> None:
    """Once, a request that no earlier handler had asked for was a GET of / there."""
    with handlers(tmp_path) as served:
        phases = ("access", "response")
        assert set(run(served, {"response": ["fixed"]}, phases)) == {
            "ctx.shared.set",
            "ctx.shared.get",
            "response.set_headers",
        }
        calls = run(served, {"response": ["tells"]}, phases, get_method="DELETE", get_status=404)
        assert calls["response.set_headers"] == [{"X-Was": "DELETE /a%20b 404 v"}]


def test_kong_is_asked_nothing_where_nothing_is_read(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        assert run(served, {"pre": ["silent"]}) == {}


def test_a_handler_that_may_fail_open_asks_nothing_for_that(tmp_path: Path) -> None:
    """Once, four questions were asked in each phase, for the copy that is kept of the request."""
    with handlers(tmp_path) as served:
        assert run(served, {"pre": ["sets_or_opens"]}) == {"service.request.set_headers": [{"X-Set": "1"}]}
        config = {"pre": ["sets_or_opens"], "response": ["fixed_or_opens"]}
        assert run(served, config, ("access", "response")) == {
            "service.request.set_headers": [{"X-Set": "1"}],
            "ctx.shared.set": ANY,
            "ctx.shared.get": ANY,
            "response.set_headers": [{"X-Fixed": "1"}],
        }


def test_what_failed_open_leaves_what_was_set_before_it(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        config = {"pre": ["sets", "opens_after_edits"], "response": ["fixed", "opens_response"]}
        assert run(served, config, ("access", "response"), get_status=200) == {
            "request.get_headers": ANY,
            "request.get_path_with_query": [],
            "service.request.set_headers": [{"X-Set": "1"}],
            "service.request.set_method": ["PUT"],
            "ctx.shared.set": ANY,
            "ctx.shared.get": ANY,
            "response.get_status": [],
            "response.set_headers": [{"X-Fixed": "1"}],
        }


def test_after_one_failed_open_the_response_phase_asks_in_its_own_phase(tmp_path: Path) -> None:
    """Once, the request that was left asked the access phase, which was over: the answer was a 500."""
    with handlers(tmp_path) as served:
        config = {"pre": ["fails_open"], "response": ["body_of_request"]}
        calls = run(served, config, ("access", "response"), get_raw_body=b"text")
        assert calls["response.set_headers"] == [{"X-Body": "text"}]


def test_a_misspelt_attribute_is_an_error_as_elsewhere(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        assert run(served, {"pre": ["misspells"]})["response.exit"][0] == 500


def test_allow_authenticates_and_its_rate_holds(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        config = {"auth_check": ["check"], "route_id": "r1"}
        for _ in range(2):
            assert run(served, config)["client.authenticate"] == [None, {"id": "me"}]
        status, body, _ = run(served, config)["response.exit"]
        assert (status, json.loads(body)) == (429, {"error": "Rate Limit Exceeded"})
        refused = run(served, config, get_headers={})["response.exit"]
        assert refused[0] == 401
        assert "client.authenticate" not in run(served, config, get_headers={})


def test_bodies_replies_and_failures(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        calls = run(served, {"post": ["body"]}, get_raw_body=b"text")
        assert calls["service.request.set_raw_body"] == [b"text!"]
        stopped = run(served, {"post": ["body"]}, get_raw_body=b"stop")["response.exit"]
        assert stopped[:2] == [418, b"stopped"]
        assert run(served, {"post": ["fails"]})["response.exit"][0] == 500


def test_the_response_and_the_state_of_a_request(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        config = {"pre": ["mark"], "response": ["stamp"]}
        calls = run(served, config, ("access", "response"), get_status=200)
        assert calls["response.set_headers"] == [{"X-Path": "/a%20b"}]
        assert "service.response.get_raw_body" not in calls
        calls = run(
            served, {"response": ["rewrite"]}, ("access", "response"), get_status=200, get_raw_body=b"x"
        )
        assert calls["response.exit"][:2] == [201, b"X"]


def test_events_of_the_log_phase(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        run(served, {"events": {"Log": ["logged"]}}, ("log",), serialize={"latency": 5})
        log = tmp_path / "handlers" / "all.py.log"
        until_s = time.monotonic() + PATIENCE_S
        # Its being there is not enough: what is in it comes a moment later.
        while not (log.exists() and log.read_text()) and time.monotonic() < until_s:
            time.sleep(0.01)
        served.wait_idle()
        assert log.read_text() == "Log 5\n"


def test_a_name_in_the_chain_that_is_not_loaded_is_an_error(tmp_path: Path) -> None:
    with handlers(tmp_path) as served:
        kong = served.connect()
        kong.send("plugin.StartInstance", {"Name": "coprocess", "Config": '{"pre": ["nobody"]}'})
        assert isinstance(kong.answer().error, str)


def test_the_plugin_has_the_phases_that_its_handlers_need(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("from coprocess import Pre\n@Pre\ndef a(request): pass\n")
    _, plugin = load_handlers([tmp_path], "x")
    assert plugin is not None
    assert plugin.info()["Phases"] == ["access"]
    (tmp_path / "h.py").write_text("from coprocess import nothing_of_ours\n")
    loaded, plugin = load_handlers([tmp_path], "x")
    assert plugin is None
    assert loaded.problems
