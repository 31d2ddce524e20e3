"""`coprocess try`: what it shows of a request, and what it says of edits that do not do what they seem to."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from coprocess import Reject, Session, trigger_event
from coprocess.api.moments import HookType
from coprocess.desk.output import captured_streams
from coprocess.desk.tyk.simulator import ApiDefinition
from coprocess.desk.tyk.trial import InProcessDispatcher, ObservedGateway, as_upstream
from coprocess.errors import CoprocessError
from coprocess.tyk import Request
from tests.objects import hook_table
from tests.trial import Handler, document, found, tables, try_handler

# What a trial tells


def test_untroubled_request_has_no_findings() -> None:
    def hook(request: Request) -> None:
        request.headers["X-New"] = "2"
        del request.headers["X-A"]
        request.query["a"] = "b"
        request.body = "changed"

    trial = try_handler(hook)
    assert trial.findings == []
    assert trial.ok
    assert trial.hooks[0].changes == {
        "request.add_params": {"a": "b"},
        "request.delete_headers": ["X-A"],
        "request.raw_body": "changed",
        "request.set_headers": {"X-New": "2"},
    }
    assert trial.hooks[0].ignored == {}
    assert 0 < trial.hooks[0].seconds < trial.seconds


def test_response_changes_are_one_map_of_headers() -> None:
    def hook(response: Any) -> None:
        response.status = 202
        response.headers["X-New"] = "1"
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        del response.headers["Content-Type"]

    trial = try_handler(hook, HookType.Response)
    assert trial.findings == []
    assert trial.hooks[0].changes == {
        "response.headers": {"Content-Type": None, "Set-Cookie": ["a=1", "b=2"], "X-New": "1"},
        "response.status_code": 202,
    }
    assert trial.status == 202


def test_binary_body_is_shown_as_bytes() -> None:
    def hook(request: Request) -> None:
        request.body = b"\xff\x00"

    trial = try_handler(hook)
    assert trial.hooks[0].changes == {"request.raw_body": b"\xff\x00"}


def test_session_changes_of_custom_key_check() -> None:
    def hook(session: Session) -> None:
        session.allow("caller", rate=5, tags=["gold"])

    trial = try_handler(hook, HookType.CustomKeyCheck)
    assert trial.findings == []
    assert trial.hooks[0].changes == {
        "metadata": {"token": "caller"},
        "session.per": 1.0,
        "session.rate": 5.0,
        "session.tags": ["gold"],
    }


def test_async_handlers_run_on_one_loop() -> None:
    import asyncio

    loops = []

    async def hook() -> None:
        print("from a coroutine")
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)

    definition = ApiDefinition.parse(document())
    with InProcessDispatcher(hook_table(HookType.Pre, hook)) as dispatcher, captured_streams():
        gateway = ObservedGateway(definition, dispatcher, as_upstream(None))
        trials = [gateway.request("GET", "/api/") for _ in range(2)]
    assert len(set(map(id, loops))) == 1
    assert loops[0].is_closed()
    assert [trial.hooks[0].output for trial in trials] == [["from a coroutine"]] * 2


def test_output_and_logs_belong_to_their_hook() -> None:
    import logging

    def hook() -> None:
        print("no line end", end="")
        logging.getLogger("shop").info("\nlogged %d", 7)
        logging.getLogger("shop").debug("too low")
        print("on stderr", file=sys.stderr)

    trial = try_handler(hook)
    assert trial.hooks[0].output == ["no line endINFO shop: ", "logged 7", "on stderr"]


def test_events_and_their_handlers() -> None:
    heard = []

    def refuse() -> None:
        raise Reject(401, "no")

    def listener(event: Any) -> None:
        print("heard it")
        heard.append(event.meta["Path"])

    table = tables(hook_table(HookType.Pre, refuse), hook_table(HookType.Event, listener, name="heard"))
    trial = try_handler(refuse, table=table)
    assert heard == ["/api/a"]
    [event] = trial.events
    assert (event.type, event.handler, event.ran, event.is_local) == ("AuthFailure", "heard", True, False)
    assert event.output == ["heard it"]
    assert trial.status == 401
    assert trial.findings == []


def test_events_that_handlers_trigger_run_after_the_call() -> None:
    order = []

    def hook() -> None:
        trigger_event("heard", '{"a": 1}')
        order.append("hook")

    def listener(event: Any) -> None:
        order.append(event.meta["a"])

    table = tables(hook_table(HookType.Pre, hook), hook_table(HookType.Event, listener, name="heard"))
    trial = try_handler(hook, table=table)
    assert order == ["hook", 1]
    assert trial.events[0].is_local


def test_events_that_trigger_each_other_come_to_an_end() -> None:
    def again() -> None:
        trigger_event("heard", "{}")

    table = tables(hook_table(HookType.Pre, again), hook_table(HookType.Event, again, name="heard"))
    with pytest.raises(CoprocessError, match="without end"):
        try_handler(again, table=table)


def test_event_handler_that_fails_or_is_missing() -> None:
    def refuse() -> None:
        raise Reject(401, "no")

    def listener() -> None:
        raise ValueError("ouch")

    table = tables(hook_table(HookType.Pre, refuse), hook_table(HookType.Event, listener, name="heard"))
    failed = try_handler(refuse, table=table)
    assert "ValueError: ouch" in found(failed, "event-failed").problem
    assert failed.events[0].traceback[-1] == "ValueError: ouch"
    assert failed.ok
    missing = try_handler(refuse)
    assert 'no Event hook "heard"' in found(missing, "event-failed").problem


# Traps: edits that the gateway does not look at


def edit_headers(request: Request) -> None:
    request.object.headers["X-User"] = "7"
    del request.object.headers["X-A"]


def edit_params(request: Request) -> None:
    request.object.params["page"] = "2"


def edit_scheme(request: Request) -> None:
    request.object.scheme = "https"


def edit_session(session: Any, metadata: Any) -> None:
    session.alias = "x"


def edit_metadata(metadata: Any) -> None:
    metadata["a"] = "b"


def edit_request_in_response(request: Request) -> None:
    request.headers["X"] = "1"


def edit_overrides_in_response(request: Request) -> None:
    request.object.return_overrides.response_code = 404


@pytest.mark.parametrize(
    ("hook_type", "handler", "problem", "remedy"),
    [
        (
            HookType.Pre,
            edit_headers,
            "request.headers.X-A (taken away), request.headers.X-User = 7",
            'del request.headers["X-A"]',
        ),
        (HookType.Pre, edit_params, "request.params.page = 2", 'request.query["page"] = "2"'),
        (HookType.Pre, edit_scheme, "request.scheme = https", "method, path, query, headers and body"),
        (HookType.Post, edit_session, "session.alias = x", "CustomKeyCheck"),
        (HookType.PostKeyAuth, edit_session, "session.alias = x", "CustomKeyCheck"),
        (HookType.Pre, edit_session, "session.alias = x", "CustomKeyCheck"),
        (HookType.Post, edit_metadata, "metadata.a = b", "CustomKeyCheck"),
        (HookType.Response, edit_request_in_response, "request.set_headers.X = 1", "in a Post hook"),
        (
            HookType.Response,
            edit_overrides_in_response,
            "request.return_overrides.response_code = 404",
            "eturn respond(",
        ),
    ],
)
def test_ignored_edit(hook_type: HookType, handler: Handler, problem: str, remedy: str) -> None:
    trial = try_handler(handler, hook_type)
    finding = found(trial, "edit-ignored")
    assert finding.severity == "warning"
    assert problem in finding.problem
    assert remedy in finding.remedy
    assert finding.hook is not None
    assert finding.hook.source is not None
    assert str(finding.hook.source) == f"{__file__}:{handler.__code__.co_firstlineno}"
    assert finding.hook.changes == {}
    assert finding.hook.ignored != {}
    assert trial.status == 200


def set_host(request: Request) -> None:
    request.object.set_headers["host"] = "elsewhere"


def set_url_with_query(request: Request) -> None:
    request.object.url = "/api/b?c=3"


def override_without_status(request: Request) -> None:
    request.object.return_overrides.response_body = "no"


def override_both(request: Request) -> None:
    overrides = request.object.return_overrides
    overrides.response_code = 403
    overrides.response_body, overrides.response_error = "one", "other"


def override_json(request: Request) -> None:
    overrides = request.object.return_overrides
    overrides.response_code, overrides.response_body = 400, '{"code": 1}'


@pytest.mark.parametrize(
    ("handler", "rule", "effect"),
    [
        (set_host, "host-ignored", "sets Host itself"),
        (set_url_with_query, "url-query-ignored", "the query stays ?q=1"),
        (override_without_status, "override-without-status", "ignores the whole block"),
        (override_both, "override-error-wins", "did not get response_body"),
        (override_json, "override-wrapped", 'the client got {"error": "…"} around it'),
    ],
)
def test_edit_with_another_effect(handler: Handler, rule: str, effect: str) -> None:
    finding = found(try_handler(handler, table=tables(hook_table(HookType.Pre, handler))), rule)
    assert effect in finding.effect
    assert finding.remedy
    assert finding.severity == "warning"


def test_the_organisation_is_the_apis() -> None:
    def hook(session: Any) -> None:
        session.allow("caller")
        session.org_id = "mine"

    trial = try_handler(hook, HookType.CustomKeyCheck)
    assert 'API\'s, "org"' in found(trial, "org-id-overwritten").effect


# Traps that the reply guard mends


def body_only(request: Request) -> None:
    request.object.body = "new"


def response_body_only(response: Any) -> None:
    response.object.body = "new"


def no_overrides(request: Request) -> None:
    request.object.ClearField("return_overrides")


def new_object(request: Request) -> None:
    request.object.Clear()
    request.object.set_headers["X"] = "1"


def new_object_with_url(request: Request) -> None:
    url = request.url
    request.object.Clear()
    request.object.url = url


def status_zero(response: Any) -> None:
    response.object.status_code = 0


def one_form_of_headers(response: Any) -> None:
    response.object.multivalue_headers.add(key="X-Many", values=["1", "2"])
    response.object.headers["X-One"] = "1"


@pytest.mark.parametrize(
    ("hook_type", "handler", "rule", "would"),
    [
        (HookType.Pre, body_only, "body-only", "would have sent the old body"),
        (HookType.Response, response_body_only, "body-only", "would have sent the old body"),
        (HookType.Pre, no_overrides, "overrides-missing", "connection end"),
        (HookType.Pre, new_object, "new-object", "drops the connection"),
        (HookType.Pre, new_object_with_url, "new-object", "empties the body"),
        (HookType.Response, status_zero, "status-zero", "connection end"),
        (HookType.Response, one_form_of_headers, "response-headers-mended", "drops what is in"),
    ],
)
def test_mended(hook_type: HookType, handler: Handler, rule: str, would: str) -> None:
    trial = try_handler(handler, hook_type)
    finding = found(trial, rule)
    assert finding.severity == "note"
    assert would in finding.effect
    assert "reply guard" in finding.effect
    assert trial.hooks[0].ignored == {}
    assert trial.status == 200
