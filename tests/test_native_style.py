"""Handlers in the native style, as users write them: programs/native_*."""

from __future__ import annotations

from typing import Any

import pytest

from coprocess.api.moments import HookType
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.wire import SessionState
from coprocess.loading.hooks import HookTable
from tests.conftest import Load
from tests.loading import global_of, good, program, reply_of, send_event, set_headers, the_hook
from tests.objects import make_request


@pytest.fixture
def parameters(load: Load) -> HookTable:
    return good(load(program("native_parameters")))


def calls(table: HookTable, name: str) -> list[Any]:
    found: list[Any] = global_of(the_hook(table, name), "calls")
    return found


def test_no_parameters(parameters: HookTable) -> None:
    reply_of(parameters, "nothing")

    assert calls(parameters, "nothing") == ["nothing"]


@pytest.mark.parametrize(
    ("name", "hook_type", "saw"),
    [
        ("only_request", HookType.Pre, "/a"),
        ("reversed_order", HookType.CustomKeyCheck, "default 1 True"),
        ("some", HookType.PostKeyAuth, "someone"),
        ("positional_only", HookType.Post, "someone"),
        ("with_a_default", HookType.Pre, "p"),
    ],
)
def test_parameters_are_filled_by_name(
    parameters: HookTable, name: str, hook_type: HookType, saw: str
) -> None:
    session = SessionState(alias="someone")

    reply = reply_of(
        parameters, name, hook_type, request=make_request("/a?q=1"), session=session, metadata={"k": "v"}
    )

    assert set_headers(reply) == {"X-Saw": saw}


def test_spec_alone(parameters: HookTable) -> None:
    reply_of(parameters, "only_spec", api_id="an-api")

    assert calls(parameters, "only_spec") == ["an-api"]


def test_response_and_request_in_a_response_hook(parameters: HookTable) -> None:
    reply = reply_of(parameters, "on_response", HookType.Response, request=make_request(method="PUT"))

    assert reply.response.headers["X-Saw"] == "PUT"


@pytest.mark.parametrize(
    ("name", "saw"),
    [
        ("on_event", "KeyExpired"),
        ("on_event_with_spec", ("an-api", "KeyExpired")),
        ("on_event_with_nothing", "event"),
    ],
)
def test_event_handlers(parameters: HookTable, name: str, saw: object) -> None:
    send_event(parameters, name, event_type="KeyExpired", api_id="an-api")

    assert calls(parameters, name) == [saw]


@pytest.fixture
def outcomes(load: Load) -> HookTable:
    return good(load(program("native_outcomes")))


def test_returning_nothing_keeps_the_edits(outcomes: HookTable) -> None:
    request = reply_of(outcomes, "keeps_edits").request

    assert dict(request.set_headers) == {"X-Edited": "1"}
    assert dict(request.add_params) == {"q": "1"}
    assert (request.raw_body, request.body) == (b"new", "new")
    assert request.return_overrides.response_code == -1


@pytest.mark.parametrize("name", ["returns_what_it_got", "returns_a_tuple"])
def test_returning_the_arguments_keeps_the_edits(outcomes: HookTable, name: str) -> None:
    assert set_headers(reply_of(outcomes, name)) == {"X-Edited": "1"}


def test_respond_stops_the_chain(outcomes: HookTable) -> None:
    overrides = reply_of(outcomes, "responds").request.return_overrides

    assert (overrides.response_code, overrides.response_body) == (403, "no")
    assert overrides.override_error
    assert not overrides.response_error
    assert dict(overrides.headers) == {"X-Why": "because"}


def test_reject_is_the_gateways_own_error(outcomes: HookTable) -> None:
    overrides = reply_of(outcomes, "rejects").request.return_overrides

    assert (overrides.response_code, overrides.response_error) == (401, "No token")
    assert not overrides.override_error
    assert dict(overrides.headers) == {"Www-Authenticate": "Bearer"}


def test_session_allow_is_one_line(outcomes: HookTable) -> None:
    reply = reply_of(outcomes, "allows", HookType.CustomKeyCheck, full_reply=False)

    assert reply.session == SessionState(rate=5, per=2, alias="someone")
    assert dict(reply.metadata) == {"token": "tok"}


def test_respond_replaces_the_upstreams_response(outcomes: HookTable) -> None:
    response = reply_of(outcomes, "responds_anew", HookType.Response).response

    assert (response.status_code, response.raw_body) == (404, b'{"gone":true}')
    assert dict(response.headers) == {"Content-Type": "application/json"}


def test_reject_replaces_the_upstreams_response(outcomes: HookTable) -> None:
    response = reply_of(outcomes, "rejects_late", HookType.Response).response

    assert response.status_code == 502
    assert b'"Bad upstream"' in response.raw_body


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("returns_a_number", "returned int: expected nothing (edits are kept), or respond(...)"),
        ("returns_an_error", "returned Reject: raise it instead"),
        ("returns_a_coroutine", "returned a coroutine, which nobody awaits: expected async def"),
        ("fails", "raised ValueError"),
        ("exits", "raised SystemExit"),
    ],
)
def test_failure_names_the_hook_and_not_the_exceptions_text(
    outcomes: HookTable, name: str, text: str
) -> None:
    with pytest.raises(HandlerFailed) as caught:
        reply_of(outcomes, name)

    assert str(caught.value).startswith(f'Pre hook "{name}" {text}')
    assert "secret" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_async_handlers(outcomes: HookTable) -> None:
    assert set_headers(reply_of(outcomes, "async_keeps_edits")) == {"X-Edited": "async"}
    assert reply_of(outcomes, "async_responds").request.return_overrides.response_code == 204
    assert reply_of(outcomes, "async_rejects").request.return_overrides.response_error == "Slow down"


@pytest.fixture
def decorated(load: Load) -> HookTable:
    return good(load(program("native_decorated")))


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("above", "1"),
        ("below", "1"),
        ("between", "2"),
        ("under_a_class", "class"),
        ("under_a_plain_one", "plain"),
        ("sync_over_async", "1"),
        ("async_over_async", "async"),
    ],
)
def test_other_decorators_run_whether_above_or_below(decorated: HookTable, name: str, marked: str) -> None:
    assert set_headers(reply_of(decorated, name)) == {"X-Ran": name, "X-Marked": marked}


@pytest.mark.parametrize("name", ["sync_over_async", "async_over_async", "async_instance", "async_partial"])
def test_async_is_seen_through_wrappers_instances_and_partials(decorated: HookTable, name: str) -> None:
    assert the_hook(decorated, name).is_async


@pytest.mark.parametrize("name", ["above", "below", "instance", "slotted", "partial", "method"])
def test_sync_is_not_taken_for_async(decorated: HookTable, name: str) -> None:
    assert not the_hook(decorated, name).is_async


@pytest.mark.parametrize(
    ("name", "ran"),
    [
        ("instance", "instance"),
        ("slotted", "slotted"),
        ("async_instance", "async instance"),
        ("partial", "partial!"),
        ("partial_keyword", "partial?"),
        ("async_partial", "async partial"),
        ("method", "method"),
        ("static", "static"),
        ("made_0", "0"),
        ("made_1", "1"),
    ],
)
def test_handlers_that_are_no_plain_functions(decorated: HookTable, name: str, ran: str) -> None:
    assert set_headers(reply_of(decorated, name)) == {"X-Ran": ran}


def test_stacked_decorators_declare_each(decorated: HookTable) -> None:
    for name, hook_type in (
        ("stacked", HookType.Pre),
        ("stacked_post", HookType.Post),
        ("stacked_check", HookType.CustomKeyCheck),
    ):
        reply = reply_of(decorated, name, hook_type, api_id="special")
        assert set_headers(reply) == {"X-Ran": "stacked"}
    assert the_hook(decorated, "stacked_post").api_id == "special"


def test_decorators_arguments(decorated: HookTable) -> None:
    hook = the_hook(decorated, "named")

    assert (hook.type, hook.api_id) == (HookType.Pre, "only-this")
    limits = hook.limits
    assert (limits.timeout_s, limits.concurrency, limits.on_error) == (2.5, 3, "open")
    assert the_hook(decorated, "response_named").type is HookType.Response
    assert the_hook(decorated, "event_named").type is HookType.Event


@pytest.mark.parametrize("name", ["above", "below", "sync_over_async", "partial", "instance", "slotted"])
def test_source_is_the_handlers_own_line(decorated: HookTable, name: str) -> None:
    """Not the decorator's, which is at the top of the file; an instance's is its class's."""
    source = the_hook(decorated, name).source

    line = source.path.read_text().splitlines()[source.line - 1]
    path = program("native_decorated") / "handlers.py"
    assert source.path == path
    assert line.startswith(("@Pre", "@marked", "def stamp", "    def __call__(self, request"))


def test_handlers_keep_working_as_functions(decorated: HookTable) -> None:
    """A decorator returns what it decorates, so that a user's own tests can call it."""

    class FakeRequest:
        headers: dict[str, str]

        def __init__(self) -> None:
            self.headers = {}

    request = FakeRequest()
    global_of(the_hook(decorated, "stacked"), "stacked")(request)

    assert request.headers == {"X-Ran": "stacked"}
