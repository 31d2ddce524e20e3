"""`coprocess try`: what it shows of a request, and what it says of each trap of the gateway."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from coprocess import Reject, Request, Session, respond, trigger_event
from coprocess.cli.app import app
from coprocess.cli.try_text import TrialText
from coprocess.errors import CoprocessError
from coprocess.hooks import HookTable, HookType
from coprocess.tyk.simulator import ApiDefinition
from coprocess.tyk.trial import (
    Finding,
    GrpcDispatcher,
    InProcessDispatcher,
    ObservedGateway,
    Trial,
    as_upstream,
)
from coprocess.tyk.trial.output import captured_streams
from coprocess.tyk.wire import DISPATCH, Object
from tests.objects import hook_table
from tests.server import serving

# Handlers that assign attributes take Any: type checkers find the classes' __slots__ without them.
Handler = Callable[..., Any]

_KEYS = {
    HookType.Pre: "pre",
    HookType.Post: "post",
    HookType.PostKeyAuth: "post_key_auth",
    HookType.CustomKeyCheck: "auth_check",
    HookType.Response: "response",
}


def document(hook_type: HookType = HookType.Pre, name: str = "hook", **more: Any) -> dict[str, Any]:
    """An API with one hook; one that authenticates has a CustomKeyCheck, too."""
    protected = hook_type in (HookType.CustomKeyCheck, HookType.PostKeyAuth)
    hook: Any = {"name": name}
    middleware = {"driver": "grpc", _KEYS[hook_type]: hook if _KEYS[hook_type] == "auth_check" else [hook]}
    if hook_type is HookType.PostKeyAuth:
        middleware["auth_check"] = {"name": "auth"}
    return {
        "name": "API",
        "api_id": "api",
        "org_id": "org",
        "use_keyless": not protected,
        "custom_plugin_auth_enabled": protected,
        "proxy": {"listen_path": "/api/", "target_url": "http://upstream.test/", "strip_listen_path": True},
        "custom_middleware": middleware,
        "event_handlers": {
            "events": {
                "AuthFailure": [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "heard"}}]
            }
        },
    } | more


def tables(*parts: HookTable) -> HookTable:
    return HookTable(hook for part in parts for hook in part)


def try_handler(
    function: Handler,
    hook_type: HookType = HookType.Pre,
    *,
    target: str = "/api/a?q=1",
    api: dict[str, Any] | None = None,
    method: str = "POST",
    body: bytes = b"body",
    headers: list[tuple[str, str]] | None = None,
    table: HookTable | None = None,
    upstream: Any = None,
    **options: Any,
) -> Trial:
    """One request through an API with this native handler."""
    table = table or hook_table(hook_type, function, **options)
    if hook_type is HookType.PostKeyAuth:
        table = tables(table, hook_table(HookType.CustomKeyCheck, admit, name="auth"))
    definition = ApiDefinition.parse(api or document(hook_type))
    with InProcessDispatcher(table) as dispatcher, captured_streams():
        gateway = ObservedGateway(definition, dispatcher, as_upstream(upstream))
        return gateway.request(method, target, headers or [("X-A", "1")], body)


def admit(session: Session) -> None:
    session.allow("caller")


def found(trial: Trial, rule: str) -> Finding:
    matching = [finding for finding in trial.findings if finding.rule == rule]
    assert len(matching) == 1, [finding.as_dict() for finding in trial.findings]
    return matching[0]


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


# Traps that end the request


def raising(request: Request) -> None:
    helper({})


def helper(entries: dict[str, str]) -> str:
    return entries["missing"]


def test_handler_that_raises() -> None:
    trial = try_handler(raising)
    finding = found(trial, "handler-failed")
    line = helper.__code__.co_firstlineno + 1
    assert finding.problem == f"It raised KeyError: 'missing' (at {__file__}:{line})."
    assert "500 Middleware error" in finding.effect
    assert trial.status == 500
    assert not trial.ok
    [hook] = trial.hooks
    assert hook.status == "INTERNAL"
    assert isinstance(hook.raised, KeyError)
    shown = "\n".join(hook.traceback)
    assert shown.count("File ") == 2, shown
    assert "in raising" in shown
    assert "coprocess/tyk" not in shown


def test_traceback_has_no_frames_of_libraries() -> None:
    def hook() -> None:
        json.loads("{")

    [hook_trial] = try_handler(hook).hooks
    assert sum("File " in line for line in hook_trial.traceback) == 1
    assert hook_trial.traceback[-1].startswith("json.decoder.JSONDecodeError")


def test_custom_key_check_that_raises_looks_like_a_wrong_key() -> None:
    trial = try_handler(raising, HookType.CustomKeyCheck)
    assert "403 Key not authorised" in found(trial, "handler-failed").effect
    assert trial.status == 403
    assert not trial.ok


def nonsense() -> int:
    return 42


def relative_url(request: Request) -> None:
    request.object.url = "a/b"


def impossible_status(request: Request) -> None:
    request.object.return_overrides.response_code = 42


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (nonsense, "It returned int: expected nothing (edits are kept), or respond(...)."),
        (relative_url, "It set the URL to 'a/b': expected a leading slash, or an absolute URL."),
        (impossible_status, "It set response_code to 42: expected an HTTP status from 100 on, or none."),
    ],
)
def test_reply_that_means_nothing(handler: Handler, problem: str) -> None:
    trial = try_handler(handler)
    assert found(trial, "handler-failed").problem == problem
    assert trial.hooks[0].traceback == []
    assert trial.status == 500


def test_wrong_hook_name() -> None:
    trial = try_handler(nonsense, api=document(name="hoook"))
    finding = found(trial, "hook-unknown")
    assert 'No Pre hook "hoook" for API "api"; loaded, nearest first: Pre "hook"' in finding.problem
    assert '@Pre(name="hoook")' in finding.remedy
    assert trial.hooks[0].status == "NOT_FOUND"
    assert trial.hooks[0].source is None


@pytest.mark.parametrize("is_async", [False, True])
def test_handler_over_its_time_limit(is_async: bool) -> None:
    import asyncio

    def slow() -> None:
        time.sleep(0.03)

    async def slow_async() -> None:
        await asyncio.sleep(30)

    trial = try_handler(slow_async if is_async else slow, timeout=0.02)
    assert found(trial, "handler-too-slow").problem == "It took longer than 0.02 s."
    assert trial.hooks[0].status == "DEADLINE_EXCEEDED"


def test_on_error_open_passes_and_is_told() -> None:
    trial = try_handler(raising, on_error="open")
    assert trial.status == 200
    assert not trial.ok
    assert 'on_error="open"' in found(trial, "handler-failed").effect


def test_failure_status_answers_as_the_service_does() -> None:
    table = hook_table(HookType.Pre, raising)
    definition = ApiDefinition.parse(document())
    dispatcher = InProcessDispatcher(table, failure_status=503, failure_headers=[("Retry-After", "9")])
    with dispatcher:
        trial = ObservedGateway(definition, dispatcher, as_upstream(None)).request("GET", "/api/")
    assert trial.exchange.http_response is not None
    assert trial.exchange.http_response.status == 503
    assert trial.exchange.http_response.header("Retry-After") == "9"
    assert "failure_status" in found(trial, "handler-failed").effect


def test_interrupt_is_not_a_failure_of_the_handler() -> None:
    def hook() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try_handler(hook)


def no_token(session: Any) -> None:
    session.rate = 5


def token_without_session(metadata: Any) -> None:
    metadata["token"] = "caller"


def expired(session: Session) -> None:
    session.allow("caller", expires_at=1000)


def inactive(session: Any) -> None:
    session.allow("caller")
    session.is_inactive = True


def with_policy(session: Session) -> None:
    session.allow("caller", policies=["gold"])


def other_apis(session: Any) -> None:
    session.allow("caller")
    session.object.access_rights["other"].api_name = "other"


@pytest.mark.parametrize(
    ("handler", "rule", "status", "words"),
    [
        (no_token, "no-token", 403, "session.allow("),
        (expired, "expired", 401, "0 and -1 mean never"),
        (inactive, "inactive", 403, "callers who may pass"),
        (with_policy, "policy", 403, "Leave policies out"),
        (other_apis, "access-rights", 403, "empty to allow every API"),
    ],
)
def test_session_that_does_not_pass(handler: Handler, rule: str, status: int, words: str) -> None:
    trial = try_handler(handler, HookType.CustomKeyCheck)
    finding = found(trial, rule)
    assert finding.severity == "error"
    assert words in finding.remedy
    assert finding.hook is not None
    assert trial.status == status
    assert trial.ok  # No hook failed, and the client was told what it did wrong.


def test_rate_and_quota() -> None:
    def hook(session: Session) -> None:
        session.allow("caller", rate=1, per=60)

    def scarce(session: Session) -> None:
        session.allow("caller", quota_max=1, quota_renewal_rate_s=60)

    for function, rule, status in ((hook, "rate", 429), (scarce, "quota", 403)):
        table = hook_table(HookType.CustomKeyCheck, function)
        with InProcessDispatcher(table) as dispatcher:
            definition = ApiDefinition.parse(document(HookType.CustomKeyCheck))
            gateway = ObservedGateway(definition, dispatcher, as_upstream(None))
            assert gateway.request("GET", "/api/").findings == []
            trial = gateway.request("GET", "/api/")
        assert found(trial, rule).hook is not None
        assert trial.status == status


def test_key_that_no_plugin_checks() -> None:
    trial = try_handler(lambda: None, api=document(use_keyless=False))
    assert "auth_check" in found(trial, "no-auth-plugin").remedy
    assert trial.status == 401


def test_auth_hooks_of_a_keyless_api() -> None:
    api = document(HookType.CustomKeyCheck, use_keyless=True)
    trial = try_handler(admit, HookType.CustomKeyCheck, api=api)
    assert "hook" in found(trial, "auth-keyless").problem
    assert trial.hooks == []


def test_session_of_the_id_extractor() -> None:
    def hook(session: Session) -> None:
        session.allow("caller", cache_for_s=60)

    api = document(HookType.CustomKeyCheck)
    api["custom_middleware"]["id_extractor"] = {
        "extract_from": "header",
        "extract_with": "value",
        "extractor_config": {"header_name": "Authorization"},
    }
    with InProcessDispatcher(hook_table(HookType.CustomKeyCheck, hook)) as dispatcher:
        gateway = ObservedGateway(ApiDefinition.parse(api), dispatcher, as_upstream(None))
        without = gateway.request("GET", "/api/")
        first, second = (gateway.request("GET", "/api/", [("Authorization", "k")]) for _ in range(2))
    assert "id_extractor" in found(without, "no-id").remedy
    assert first.findings == []
    assert found(second, "session-cached").severity == "note"


def test_path_that_the_api_does_not_listen_on() -> None:
    trial = try_handler(nonsense, target="/elsewhere?a=1")
    assert found(trial, "not-listening").problem == "/elsewhere is not under the API's listen path, /api/."
    assert trial.status == 404


def test_header_that_cannot_be_sent() -> None:
    def hook(request: Request) -> None:
        request.object.set_headers["X Y"] = "1"

    finding = found(try_handler(hook), "handler-failed")
    assert "cannot be sent" in finding.problem
    assert finding.hook is not None
    assert finding.hook.name == "hook"


def test_request_that_is_not_utf8() -> None:
    trial = try_handler(nonsense, headers=[("X-A", "\xff")])
    assert "calls no plugin" in found(trial, "not-utf8").remedy
    assert trial.hooks == []


def test_upstream_that_cannot_be_reached() -> None:
    trial = try_handler(lambda: None, upstream="http://127.0.0.1:1/")
    assert "Connection refused" in found(trial, "upstream").problem
    assert trial.status == 500


def test_message_above_the_limit() -> None:
    trial = try_handler(nonsense, body=b"x" * (3 * 2**20))
    assert "raw_body_only" in found(trial, "message-too-large").remedy
    assert trial.hooks[0].run is None
    assert trial.hooks[0].status == "RESOURCE_EXHAUSTED"


# A server that is not ours, over gRPC


@contextmanager
def foreign_server(reply: Callable[[Object], bytes]) -> Iterator[str]:
    """A plugin server without a reply guard."""

    def dispatch(payload: bytes, _: grpc.ServicerContext) -> bytes:
        return reply(Object.FromString(payload))

    service, method = DISPATCH.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                service, {method: grpc.unary_unary_rpc_method_handler(dispatch)}
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def try_foreign(edit: Callable[[Object], None], hook_type: HookType = HookType.Pre) -> Trial:
    def reply(message: Object) -> bytes:
        edit(message)
        return message.SerializeToString()

    with foreign_server(reply) as address, GrpcDispatcher(address) as dispatcher:
        definition = ApiDefinition.parse(document(hook_type))
        return ObservedGateway(definition, dispatcher, as_upstream(None)).request(
            "POST", "/api/a?q=1", [("X-A", "1")], b"body"
        )


def test_foreign_body_only() -> None:
    def edit(message: Object) -> None:
        message.request.body = "new"

    finding = found(try_foreign(edit), "edit-ignored")
    assert "request.body = new" in finding.problem
    assert "raw_body" in finding.remedy


@pytest.mark.parametrize("field", ["request", "return_overrides"])
def test_foreign_reply_without_request(field: str) -> None:
    def edit(message: Object) -> None:
        if field == "request":
            message.ClearField("request")
        else:
            message.request.ClearField("return_overrides")

    trial = try_foreign(edit)
    finding = found(trial, "connection-dropped")
    assert f"no {field}" in finding.problem
    assert "without any answer" in finding.effect
    assert trial.status is None
    assert not trial.ok


def test_foreign_status_zero() -> None:
    def edit(message: Object) -> None:
        message.response.status_code = 0

    trial = try_foreign(edit, HookType.Response)
    assert "Status 0" in found(trial, "connection-dropped").problem


def test_foreign_url() -> None:
    def edit(message: Object) -> None:
        message.request.url = "a/b"

    assert try_foreign(edit).status == 500
    assert "slash" in found(try_foreign(edit), "url").problem


def test_foreign_header_that_cannot_be_sent() -> None:
    def edit(message: Object) -> None:
        message.request.set_headers["X Y"] = "1"

    assert found(try_foreign(edit), "unsendable").hook is not None


def test_foreign_reply_without_response() -> None:
    trial = try_foreign(lambda message: message.ClearField("response"), HookType.Response)
    assert found(trial, "no-response").hook is not None
    assert trial.status == 500


def test_foreign_headers_in_one_form() -> None:
    def edit(message: Object) -> None:
        message.response.multivalue_headers.add(key="X-Many", values=["1"])
        message.response.headers["X-One"] = "1"

    finding = found(try_foreign(edit, HookType.Response), "response-headers-lost")
    assert "X-Many" in finding.problem


def test_foreign_token_without_session() -> None:
    def edit(message: Object) -> None:
        message.metadata["token"] = "caller"

    trial = try_foreign(edit, HookType.CustomKeyCheck)
    assert "session absent" in found(trial, "no-session").problem


def test_server_that_does_not_run() -> None:
    with GrpcDispatcher("127.0.0.1:1", timeout_s=5) as dispatcher:
        definition = ApiDefinition.parse(document())
        trial = ObservedGateway(definition, dispatcher, as_upstream(None)).request("GET", "/api/")
    assert "coprocess serve" in found(trial, "server-unavailable").remedy


# Our own service, over gRPC: in process it must be the same


def edit_everything(request: Any) -> None:
    request.headers["X-New"] = "2"
    del request.headers["X-A"]
    request.query["a"] = "b"
    request.path = "/api/elsewhere"
    request.body = "changed"


def edit_response(response: Any) -> None:
    response.status = 404
    response.headers["X-New"] = "1"
    response.body = ""


def limited(session: Session) -> None:
    session.allow("caller", rate=5)


def refuse() -> None:
    raise Reject(402, "pay")


@pytest.mark.parametrize(
    ("hook_type", "handler", "name"),
    [
        (HookType.Pre, edit_everything, "hook"),
        (HookType.Response, edit_response, "hook"),
        (HookType.CustomKeyCheck, limited, "hook"),
        (HookType.Pre, refuse, "hook"),
        (HookType.Pre, raising, "hook"),
        (HookType.Pre, nonsense, "hook"),
        (HookType.Pre, nonsense, "missing"),
    ],
)
def test_served_and_in_process_are_the_same(hook_type: HookType, handler: Handler, name: str) -> None:
    table = hook_table(hook_type, handler)
    definition = ApiDefinition.parse(document(hook_type, name))
    with serving(table, engine="grpcio") as server:
        dispatchers: list[Any] = [InProcessDispatcher(table), GrpcDispatcher(server.address)]
        trials = []
        for dispatcher in dispatchers:
            with dispatcher:
                gateway = ObservedGateway(definition, dispatcher, as_upstream(None))
                trials.append(gateway.request("POST", "/api/a?q=1", [("X-A", "1")], b"body"))
    here, there = trials
    assert there.hooks[0].changes == here.hooks[0].changes
    assert there.hooks[0].ignored == here.hooks[0].ignored == {}
    assert (there.hooks[0].status, there.hooks[0].error) == (here.hooks[0].status, here.hooks[0].error)
    assert there.exchange.upstream_request == here.exchange.upstream_request
    assert (there.status, there.ok) == (here.status, here.ok)
    assert [finding.rule for finding in there.findings] == [finding.rule for finding in here.findings]


# The text


def text_of(trial: Trial, *, full: bool = False, colour: bool = False) -> str:
    return "\n".join(TrialText(colour=colour, full=full).lines(trial, "simulated"))


def test_long_output_is_folded() -> None:
    def hook(request: Request) -> None:
        for number in range(100):
            print(f"line {number}")
        request.body = "x" * 1000

    trial = try_handler(hook)
    folded, full = text_of(trial), text_of(trial, full=True)
    assert "… 88 more lines: --full" in folded
    assert "line 11" in folded
    assert "line 12" not in folded
    assert "characters: --full)" in folded
    assert "x" * 200 not in folded
    assert "line 99" in full
    assert "x" * 1000 in full
    assert "--full" not in full


def test_one_line_more_is_not_folded_away() -> None:
    def hook() -> None:
        for number in range(13):
            print(f"line {number}")

    assert "line 12" in text_of(try_handler(hook))


def test_colour_only_where_asked_for() -> None:
    trial = try_handler(raising)
    assert "\x1b[" not in text_of(trial)
    assert "\x1b[31m" in text_of(trial, colour=True)


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal(project: Path, variables: dict[str, str], coloured: bool) -> None:
    terminal, inner = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [sys.executable, "-m", "coprocess", "try", "GET", "/api/"]
    with os.fdopen(terminal, "rb", buffering=0) as output:
        process = subprocess.Popen(
            command, cwd=project, stdout=inner, env={**environment, "TERM": "xterm", **variables}
        )
        os.close(inner)
        text = b""
        # At its end, a terminal is not empty but broken (Linux), or both (macOS).
        with contextlib.suppress(OSError):
            while part := output.read(65536):
                text += part
        assert process.wait(10) == 0
    assert b"client gets" in text
    assert (b"\x1b[" in text) is coloured


def test_control_characters_of_a_body_do_not_reach_the_terminal() -> None:
    text = text_of(try_handler(lambda: None, upstream=respond(200, "\x1b[31mred\tx")))
    assert "\x1b" not in text
    assert "\\x1b[31mred\tx" in text


# The command


HANDLERS = """
from coprocess import CustomKeyCheck, Pre, Reject, Request, Session, store

@Pre
def stamp(request: Request) -> None:
    print("stamping")
    request.headers["X-Stamp"] = str(store.increment("seen"))

@Pre
def broken() -> None:
    raise RuntimeError("broken on purpose")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COPROCESS_HANDLERS", raising=False)
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "shop.py").write_text(HANDLERS)
    (tmp_path / "api.json").write_text(json.dumps(document(name="stamp")))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["try", *arguments])


def test_command_in_a_project(project: Path) -> None:
    result = run("POST", "/api/a", "-H", "X-B: é", "-d", '{"a":1}')
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "POST /api/a  at API API"
    assert "     | stamping" in lines
    assert "     + request.set_headers.X-Stamp: 1" in lines
    assert "     X-Stamp: 1" in lines
    assert '     {"a":1}' in lines
    assert any(line.startswith("client gets 200 OK") for line in lines)
    assert any(line.endswith("handlers/shop.py:4") for line in lines)
    assert "\x1b" not in result.stdout


def test_command_as_json(project: Path) -> None:
    (project / "handlers" / "noise.py").write_text("print('loading')\n")
    result = run("GET", "/api/a", "--json", "--upstream", "404", "--upstream-body", "gone")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert list(content) == [
        "ok",
        "ms",
        "request",
        "definition",
        "not_loaded",
        "hooks",
        "events",
        "upstream",
        "response",
        "dropped",
        "failure",
        "findings",
    ]
    assert content["definition"] == {"name": "API", "api_id": "api", "file": "api.json"}
    assert content["hooks"][0]["changes"] == {"request.set_headers": {"X-Stamp": "1"}}
    assert content["hooks"][0]["output"] == ["stamping"]
    assert content["upstream"]["request"]["url"] == "/a"
    assert content["response"]["status"] == 404
    assert content["response"]["body"] == "gone"


def test_command_fails_where_a_hook_does(project: Path) -> None:
    (project / "api.json").write_text(json.dumps(document(name="broken")))
    result = run("GET", "/api/")
    assert result.exit_code == 1
    assert "It raised RuntimeError: broken on purpose (at handlers/shop.py:11)." in result.stdout


def test_command_fails_where_the_client_gets_5xx(project: Path) -> None:
    assert run("GET", "/api/", "--upstream", "503").exit_code == 1
    assert run("GET", "/api/", "--upstream", "404").exit_code == 0


def test_command_tells_of_handlers_that_do_not_load(project: Path) -> None:
    (project / "handlers" / "half.py").write_text("def (\n")
    result = run("GET", "/api/", "--json")
    assert "half.py:1: SyntaxError" in result.stderr
    assert "half.py:1: SyntaxError" in json.loads(result.stdout)["not_loaded"][0]


def test_command_without_definition(project: Path) -> None:
    (project / "api.json").unlink()
    result = run("GET", "/anything", "--json")
    assert [hook["name"] for hook in json.loads(result.stdout)["hooks"]] == ["stamp", "broken"]


def test_command_takes_a_pasted_url_and_a_body_file(project: Path) -> None:
    (project / "body.bin").write_bytes(b"\xff\xfe")
    result = run("PUT", "http://shop.test:8080/api/a?b=c", "-d", "@body.bin", "--json")
    content = json.loads(result.stdout)
    assert content["request"]["target"] == "/api/a?b=c"
    assert content["upstream"]["request"]["body"] is None
    assert content["upstream"]["request"]["body_base64"] == "//4="


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["GET", "api/"], "begins with a slash"),
        (["GET", "/api/", "-H", "nonsense"], "expected NAME: VALUE"),
        (["GET", "/api/", "-d", "@missing"], "--data @missing: cannot be read"),
        (["GET", "/api/", "--upstream", "elsewhere"], "not an http URL"),
        (["GET", "/api/", "--upstream", "42"], "expected a URL, or a status"),
        (["GET", "/api/", "--upstream", "http://a.test", "--upstream-body", "x"], "simulated upstream"),
        (["GET", "/api/", "--address", "nowhere"], "--address"),
        (["GET", "/api/", "--api", "missing.json"], "missing.json: cannot be read"),
        (["GET", "/api/%zz"], "no gateway takes this request"),
    ],
)
def test_command_refuses(project: Path, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, CoprocessError), result.output
    assert message in str(result.exception)


def test_command_asks_which_definition(project: Path) -> None:
    (project / "api.json").unlink()
    (project / "apis").mkdir()
    for name in ("one", "two"):
        (project / "apis" / f"{name}.json").write_text("{}")
    result = run("GET", "/")
    assert "name one of one.json, two.json, with --api" in str(result.exception)


def test_command_over_grpc(project: Path) -> None:
    def reply(message: Object) -> bytes:
        message.request.set_headers["X-From"] = "afar"
        return message.SerializeToString()

    with foreign_server(reply) as address:
        result = run("GET", "/api/", "--address", address, "--json")
    [hook] = json.loads(result.stdout)["hooks"]
    assert hook["changes"] == {"request.set_headers": {"X-From": "afar"}}
    assert hook["source"] is None


def test_watch_runs_again(project: Path) -> None:
    command = [sys.executable, "-m", "coprocess", "try", "GET", "/api/", "--watch"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    with (project / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=project, stdout=output, stderr=output, env=environment)
        try:
            await_text(project / "output", "watching")
            (project / "handlers" / "shop.py").write_text(HANDLERS.replace("stamping", "changed this"))
            await_text(project / "output", "| changed this")
            (project / "api.json").write_text("{")
            await_text(project / "output", "not JSON")
            (project / "api.json").write_text(json.dumps(document(name="broken")))
            await_text(project / "output", "broken on purpose")
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait(10)
    assert status == 1  # Of the last run.


def await_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + 15
    while text not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.02)
