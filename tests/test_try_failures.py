"""`coprocess try`: what it says of handlers that fail, and of requests that get no further."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from coprocess import Session
from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator import ApiDefinition
from coprocess.desk.tyk.trial import InProcessDispatcher, ObservedGateway, as_upstream
from coprocess.tyk import Request
from tests.objects import hook_table
from tests.trial import Handler, admit, document, found, try_handler

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
    assert "coprocess/gateways/tyk" not in shown


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
        (impossible_status, "It set response_code to 42: expected an HTTP status from 200 on, or none."),
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
        signal.raise_signal(signal.SIGINT)

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
