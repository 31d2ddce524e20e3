"""The dispatcher: one Object in, one Object out, on the table it was opened on."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess import CustomKeyCheck, Post, Pre
from coprocess.api.context import current_call
from coprocess.api.messages import Event as AnyEvent
from coprocess.api.moments import HookType
from coprocess.errors import BadMessage, CoprocessError, HandlerFailed, UnknownHook
from coprocess.gateways.tyk.call import TykCall, TykEventCall
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import Event, Object, SessionState
from coprocess.loading.hooks import HookTable
from tests.objects import answer, event_json, hook_table, make_object, open_call, run_sync, table_of


def table() -> HookTable:
    def declare() -> None:
        @Pre(name="hook")
        def pre(request: Any) -> None:
            request.headers["X-Which"] = "Pre"

        @Post(name="hook")
        def post(request: Any) -> None:
            request.headers["X-Which"] = "Post"

        @Pre(name="limited", api_id="one")
        def one(request: Any) -> None:
            request.headers["X-Which"] = "one"

        @Pre(name="limited")
        def all_others(request: Any) -> None:
            request.headers["X-Which"] = "others"

        @AnyEvent(name="my_handler")
        def on_event(event: AnyEvent, spec: Any) -> None:
            seen.append((event.type, spec.api_id))

    return table_of(declare)


seen: list[tuple[str, str]] = []


def which(message: Object) -> str:
    call = Dispatcher(table()).open_dispatch(message.SerializeToString())
    return Object.FromString(run_sync(call)).request.set_headers["X-Which"]


def test_type_and_name_find_the_handler() -> None:
    assert which(make_object(HookType.Pre)) == "Pre"
    assert which(make_object(HookType.Post)) == "Post"


def test_the_api_chooses() -> None:
    assert which(make_object(hook_name="limited", api_id="one")) == "one"
    assert which(make_object(hook_name="limited", api_id="two")) == "others"


def test_an_event_reaches_its_handler() -> None:
    payload = Event(payload=event_json(api_id="a1")).SerializeToString()
    call = Dispatcher(table()).open_event(payload)
    seen.clear()
    assert isinstance(call, TykEventCall)
    assert run_sync(call) == b""
    assert seen == [("AuthFailure", "a1")]
    assert call.api_id == "a1"


def test_unknown_hook() -> None:
    message = make_object(HookType.PostKeyAuth, "hok", api_id="a1")
    with pytest.raises(UnknownHook) as unknown:
        Dispatcher(table()).open_dispatch(message.SerializeToString())
    text = str(unknown.value)
    assert text.startswith('no PostKeyAuth hook "hok" for API "a1"; loaded, nearest first: ')
    first, second = text.split("nearest first: ")[1].split(", ")[:2]
    assert {first, second} == {'Pre "hook"', 'Post "hook"'}


def test_a_name_without_end_is_not_repeated() -> None:
    message = make_object(hook_name="x" * 1_000_000)
    with pytest.raises(UnknownHook, match="1000000 characters") as unknown:
        Dispatcher(table()).open_dispatch(message.SerializeToString())
    assert len(str(unknown.value)) < 400


def test_unknown_hook_type() -> None:
    message = make_object()
    message.hook_type = 77  # type: ignore[assignment]  # of a newer gateway
    with pytest.raises(UnknownHook, match='no type 77 hook "hook"'):
        Dispatcher(table()).open_dispatch(message.SerializeToString())


def test_a_dispatch_cannot_reach_event_handlers() -> None:
    message = make_object(hook_name="my_handler")
    message.hook_type = int(HookType.Event)  # type: ignore[assignment]  # what is tested
    with pytest.raises(BadMessage, match="events do not come"):
        Dispatcher(table()).open_dispatch(message.SerializeToString())


def test_unknown_event_handler() -> None:
    payload = Event(payload=event_json(handler="my_handlr")).SerializeToString()
    with pytest.raises(UnknownHook, match=r'no Event hook "my_handlr" .* nearest first: Event "my_handler"'):
        Dispatcher(table()).open_event(payload)


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a", b"not a message", b"\x12\x02\xff\xfe"])
def test_what_is_no_object(payload: bytes) -> None:
    with pytest.raises(BadMessage, match=r"not a coprocess\.Object"):
        Dispatcher(table()).open_dispatch(payload)


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a", b"\x0a\x02\xff\xfe"])
def test_what_is_no_event(payload: bytes) -> None:
    with pytest.raises(BadMessage, match=r"not a coprocess\.Event"):
        Dispatcher(table()).open_event(payload)


@given(st.binary(max_size=100))
def test_any_bytes_are_opened_or_refused_clearly(payload: bytes) -> None:
    dispatcher = Dispatcher(table())
    for opened in (dispatcher.open_dispatch, dispatcher.open_event):
        with pytest.raises(CoprocessError):
            opened(payload)


def test_a_reload_does_not_change_open_calls() -> None:
    dispatcher = Dispatcher(table())
    call = dispatcher.open_dispatch(make_object().SerializeToString())
    dispatcher.table = HookTable()
    assert Object.FromString(run_sync(call)).request.set_headers["X-Which"] == "Pre"
    with pytest.raises(UnknownHook, match="nothing is loaded"):
        dispatcher.open_dispatch(make_object().SerializeToString())


def test_the_running_call_is_known() -> None:
    def handler() -> None:
        call = current_call.get()
        assert call is not None
        known.append((call.hook_type, call.hook_name, call.api_id))

    known: list[tuple[str, str, str]] = []
    answer(handler, make_object(HookType.Post, "name", api_id="a1"))
    assert known == [("Post", "name", "a1")]
    assert current_call.get() is None


def test_the_running_call_is_forgotten_when_it_fails() -> None:
    def handler() -> None:
        raise ValueError

    with pytest.raises(HandlerFailed):
        answer(handler)
    assert current_call.get() is None


def test_a_call_that_fails_was_work_for_the_garbage_collector() -> None:
    """Its body, too, waited for that."""

    class Failure(Exception):
        pass

    left: list[weakref.ref[Failure]] = []

    def handler() -> None:
        failure = Failure()
        left.append(weakref.ref(failure))
        try:
            raise failure
        finally:
            del failure

    gc.disable()
    try:
        with pytest.raises(HandlerFailed) as failed:
            answer(handler)
        del failed
        assert left[0]() is None
    finally:
        gc.enable()


def test_unchanged_ignores_what_the_handler_did() -> None:
    def handler(request: Any) -> None:
        request.headers["X-A"] = "1"
        request.body = b"new"

    call = open_call(handler)
    run_sync(call)
    reply = Object.FromString(call.unchanged())
    assert reply == make_object()


@pytest.mark.parametrize("hook_type", [t for t in HookType if t is not HookType.Event])
def test_refused_is_what_the_client_gets(hook_type: HookType) -> None:
    call = open_call(lambda: None, make_object(hook_type))
    reply = Object.FromString(call.refused(503, "Service unavailable", [("Retry-After", "5")]))
    body = '{\n    "error": "Service unavailable"\n}'
    if hook_type is HookType.Response:
        assert (reply.response.status_code, reply.response.raw_body) == (503, body.encode())
        assert dict(reply.response.headers) == {"Content-Type": "application/json", "Retry-After": "5"}
    else:
        overrides = reply.request.return_overrides
        assert (overrides.response_code, overrides.response_body) == (503, body)
        assert overrides.override_error
        assert dict(overrides.headers) == {"Content-Type": "application/json", "Retry-After": "5"}


def test_a_call_that_has_its_reply_knows_whose_it_was() -> None:
    """What it printed last, and what its tasks log, is told as its."""
    message = make_object(api_id="a1")
    message.spec["OrgID"] = "o1"
    call = open_call(lambda: None, message, full_reply=False)
    assert not Object.FromString(run_sync(call)).spec
    assert (call.api_id, call.org_id) == ("a1", "o1")


def test_arguments_by_name() -> None:
    def handler(spec: Any, metadata: Any, session: Any, request: Any) -> None:
        got.extend([spec.api_id, dict(metadata), session.alias, request.path])

    got: list[Any] = []
    message = make_object(HookType.Post, api_id="a1", metadata={"k": "v"}, session=SessionState(alias="anna"))
    answer(handler, message)
    assert got == ["a1", {"k": "v"}, "anna", "/keyless/a"]


def test_a_view_is_made_once() -> None:
    call = open_call(lambda: None, make_object(HookType.Response))
    assert call.request is call.request
    assert call.response is call.response
    assert call.session is call.session
    assert isinstance(call, TykCall)


def test_an_event_handler_cannot_answer() -> None:
    from coprocess import Reject, respond

    def reject() -> None:
        raise Reject(401, "no")

    payload = Event(payload=event_json()).SerializeToString()
    for function in (reject, lambda: respond(200)):
        call = Dispatcher(hook_table(HookType.Event, function, name="my_handler")).open_event(payload)
        with pytest.raises(HandlerFailed, match="nobody waits for it"):
            run_sync(call)


def test_allow_is_a_session_and_a_token() -> None:
    def declare() -> None:
        @CustomKeyCheck(name="hook")
        def check(session: Any) -> None:
            session.allow("tok", rate=1000)

    message = make_object(HookType.CustomKeyCheck)
    call = Dispatcher(table_of(declare)).open_dispatch(message.SerializeToString())
    reply = Object.FromString(run_sync(call))
    assert reply.session == SessionState(rate=1000, per=1)
    assert dict(reply.metadata) == {"token": "tok"}
