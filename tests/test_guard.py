"""The reply guard: each trap of the gateway, by the name of the recording or rule that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess import Reject, Reply, respond
from coprocess.errors import HandlerFailed
from coprocess.hooks import HookTable, HookType
from coprocess.tyk.compat import decorators
from coprocess.tyk.dispatcher import Dispatcher
from coprocess.tyk.simulator.apply import apply_request_edits, apply_response_edits, apply_return_overrides
from coprocess.tyk.simulator.headers import GoHeader
from coprocess.tyk.simulator.objects import GatewayResponse
from coprocess.tyk.simulator.outcome import Answered, Failed
from coprocess.tyk.simulator.request import GatewayRequest
from coprocess.tyk.wire import MiniRequestObject, Object, ResponseObject
from tests.objects import answer, make_object, make_request, make_response, table_of

Edit = Callable[[MiniRequestObject], object]

REQUEST_HOOKS = [HookType.Pre, HookType.CustomKeyCheck, HookType.PostKeyAuth, HookType.Post]


def raw(edit: Edit, message: Object | None = None, **options: Any) -> Object:
    """The reply of a native handler that edits the protocol's own message."""

    def handler(request: Any) -> None:
        edit(request.object)

    return answer(handler, message, **options)


def raw_response(edit: Callable[[ResponseObject], object], message: Object | None = None) -> Object:
    def handler(response: Any) -> None:
        edit(response.object)

    return answer(handler, message or make_object(HookType.Response))


def embedded(function: Callable[..., Any], message: Object) -> Object:
    """The reply of a handler of the embedded driver's style."""
    table = table_of(lambda: decorators.Hook(function))
    message.hook_name = function.__name__
    return Object.FromString(
        Dispatcher(table, full_reply=True).open_dispatch(message.SerializeToString()).run()
    )


def at_the_gateway(reply: Object, body: bytes = b"old") -> GatewayRequest:
    """The gateway's request after `reply`. Raises what a reply that it cannot take raises there."""
    request = GatewayRequest.received("GET", "/keyless/a", [], body, host="h", client_address="127.0.0.1")
    apply_request_edits(reply, request)
    apply_return_overrides(reply, "", lambda token: None)
    return request


# Traps of the request.


def test_reply_without_request() -> None:
    """Without request, or its return_overrides, the gateway panics and its client's connection drops."""

    def drop(request: Any) -> None:
        request.object.Clear()

    for hook_type in REQUEST_HOOKS:
        for full_reply in (True, False):
            reply = answer(drop, make_object(hook_type), full_reply=full_reply)
            assert reply.HasField("request")
            assert reply.request.HasField("return_overrides")
            at_the_gateway(reply)


def test_reply_without_return_overrides() -> None:
    reply = raw(lambda request: request.ClearField("return_overrides"))
    assert reply.request.HasField("return_overrides")
    assert reply.request.return_overrides.response_code == 0


def test_what_came_without_request_is_answered_with_one() -> None:
    reply = answer(lambda: None, Object(hook_type="Pre", hook_name="hook"))
    assert reply.HasField("request")
    assert reply.request.HasField("return_overrides")


def test_url_empty() -> None:
    """An empty url is a 500 for the gateway's client."""
    reply = raw(lambda request: request.ClearField("url"))
    assert reply.request.url == "/keyless/a"
    assert str(at_the_gateway(reply).url) == "/keyless/a"


@pytest.mark.parametrize("url", ["relative", "a/b?c", "?a=1", "://x", "/%zz", "/a\nb", "/a\x7fb", "x?y=://"])
def test_url_relative(url: str) -> None:
    """So is one that is relative, or no URL: that is the handler's failure, and not a surprise."""
    with pytest.raises(HandlerFailed, match="set the URL to"):
        raw(lambda request: setattr(request, "url", url))
    reply = raw(lambda request: None)
    reply.request.url = url
    with pytest.raises(Failed):
        at_the_gateway(reply)


@pytest.mark.parametrize("url", ["/", "/a?b=%zz", "/é", "/a b", "http://h/x", "//x"])
def test_urls_that_the_gateway_takes_pass(url: str) -> None:
    reply = raw(lambda request: setattr(request, "url", url))
    assert reply.request.url == url
    at_the_gateway(reply)


def test_method_empty() -> None:
    reply = raw(lambda request: request.ClearField("method"))
    assert reply.request.method == "GET"


def test_body_only_is_ignored() -> None:
    """The gateway reads raw_body only: an edit of body alone would be lost."""
    message = make_object(request=make_request(body=b"old"))
    reply = raw(lambda request: setattr(request, "body", "new"), message)
    assert (reply.request.raw_body, reply.request.body) == (b"new", "new")


def test_body_only_emptied() -> None:
    message = make_object(request=make_request(body=b"old"))
    reply = raw(lambda request: setattr(request, "body", ""), message)
    assert (reply.request.raw_body, reply.request.body) == (b"", "")


def test_raw_body_edited() -> None:
    message = make_object(request=make_request(body=b"old"))
    for body, text in ((b"new", "new"), (b"\xff", "")):
        reply = raw(lambda request, body=body: setattr(request, "raw_body", body), message)  # type: ignore[misc]  # a default is no parameter
        assert (reply.request.raw_body, reply.request.body) == (body, text)


def test_raw_body_cleared() -> None:
    message = make_object(request=make_request(body=b"old"))
    reply = raw(lambda request: setattr(request, "raw_body", b""), message)
    assert (reply.request.raw_body, reply.request.body) == (b"", "")


def test_both_bodies_cleared() -> None:
    def clear(request: MiniRequestObject) -> None:
        request.raw_body, request.body = b"", ""

    reply = raw(clear, make_object(request=make_request(body=b"old")))
    assert (reply.request.raw_body, reply.request.body) == (b"", "")


def test_both_bodies_edited_differently() -> None:
    def edit(request: MiniRequestObject) -> None:
        request.raw_body, request.body = b"bytes", "text"

    reply = raw(edit, make_object(request=make_request(body=b"old")))
    assert (reply.request.raw_body, reply.request.body) == (b"bytes", "bytes")


def test_a_binary_body_that_nobody_edits_stays() -> None:
    reply = raw(lambda request: None, make_object(request=make_request(body=b"\xff\xfe")))
    assert (reply.request.raw_body, reply.request.body) == (b"\xff\xfe", "")


def test_a_binary_body_is_replaced_by_text() -> None:
    message = make_object(request=make_request(body=b"\xff\xfe"))
    reply = raw(lambda request: setattr(request, "body", "new"), message)
    assert (reply.request.raw_body, reply.request.body) == (b"new", "new")


@pytest.mark.parametrize("url", ["", "/other"])
def test_a_new_request_object_that_speaks_of_no_body_keeps_it(url: str) -> None:
    def handler(request: Any, session: Any, spec: Any) -> Any:
        return MiniRequestObject(url=url, set_headers={"X-A": "1"}), session

    reply = embedded(handler, make_object(request=make_request(body=b"old", method="POST")))
    assert (reply.request.raw_body, reply.request.body) == (b"old", "old")
    assert (reply.request.url, reply.request.method) == (url or "/keyless/a", "POST")
    assert reply.request.set_headers["X-A"] == "1"
    assert reply.request.HasField("return_overrides")


def test_a_new_request_object_with_a_body() -> None:
    def handler(request: Any, session: Any, spec: Any) -> Any:
        return MiniRequestObject(body="new"), session

    reply = embedded(handler, make_object(request=make_request(body=b"old")))
    assert (reply.request.raw_body, reply.request.body) == (b"new", "new")


# Traps of return_overrides.


@pytest.mark.parametrize("code", [1, 99, 1000, 70_000])
def test_override_code_that_is_no_status(code: int) -> None:
    with pytest.raises(HandlerFailed, match=f"set response_code to {code}"):
        raw(lambda request: setattr(request.return_overrides, "response_code", code))


@pytest.mark.parametrize("code", [0, -1, -5])
def test_override_code_that_is_none_is_passed_on(code: int) -> None:
    reply = raw(lambda request: setattr(request.return_overrides, "response_code", code))
    assert reply.request.HasField("return_overrides")
    at_the_gateway(reply)


@pytest.mark.parametrize("hook_type", REQUEST_HOOKS)
def test_respond_is_what_the_client_gets(hook_type: HookType) -> None:
    """With 400 and more, the gateway wraps the text as JSON and fires AuthFailure, unless told not to."""
    for status in (200, 204, 302, 400, 401, 503, 599, 999):
        reply = answer(
            lambda status=status: respond(status, "text", headers={"x-a": "1"}),
            make_object(hook_type),
            full_reply=False,
        )
        with pytest.raises(Answered) as answered:
            at_the_gateway(reply)
        assert (answered.value.status, answered.value.body) == (status, b"text")
        assert answered.value.headers.getall("X-A") == ["1"]


def test_reject_is_an_error_of_the_gateway() -> None:
    def handler() -> None:
        raise Reject(401, "No token", headers={"WWW-Authenticate": "Bearer"})

    with pytest.raises(Failed) as failed:
        at_the_gateway(answer(handler))
    assert (failed.value.status, failed.value.message) == (401, "No token")
    assert failed.value.headers.get("WWW-Authenticate") == "Bearer"


def test_response_error_replaces_response_body() -> None:
    """A reply takes the place of what the handler put into the overrides before."""

    def handler(request: Any) -> Reply:
        request.object.return_overrides.response_error = "left over"
        request.object.return_overrides.headers["X-Left"] = "over"
        return respond(200, "text")

    overrides = answer(handler).request.return_overrides
    assert (overrides.response_error, overrides.response_body) == ("", "text")
    assert not overrides.headers


@pytest.mark.parametrize("status", [0, -1, 100, 199, 1000])
def test_a_reply_made_by_hand_with_no_final_status(status: int) -> None:
    with pytest.raises(HandlerFailed, match=f"responded with status {status}"):
        answer(lambda: Reply(status))


def test_a_binary_reply_cannot_travel_as_text() -> None:
    with pytest.raises(HandlerFailed, match="not UTF-8"):
        answer(lambda: respond(200, b"\xff"))


def test_headers_of_a_reply_have_one_value() -> None:
    overrides = answer(lambda: respond(headers=[("Vary", "A"), ("vary", "B")])).request.return_overrides
    assert dict(overrides.headers) == {"Vary": "A, B"}
    with pytest.raises(HandlerFailed, match="several Set-Cookie"):
        answer(lambda: respond(headers=[("Set-Cookie", "A"), ("Set-Cookie", "B")]))


# Traps of the response.


def response_at_the_gateway(reply: Object, sent: Object | None = None) -> GatewayResponse:
    response = GatewayResponse(200, GoHeader(), b"")
    apply_response_edits(sent or make_object(HookType.Response), reply, response)
    response.headers.remove("Content-Length")
    return response


def test_reply_without_response() -> None:
    """A 500 for the gateway's client."""
    for full_reply in (True, False):
        reply = answer(
            lambda response: response.object.Clear(), make_object(HookType.Response), full_reply=full_reply
        )
        assert reply.HasField("response")
        response = response_at_the_gateway(reply)
        assert response.status == 200


def test_a_response_hook_that_came_without_response_fails() -> None:
    with pytest.raises(HandlerFailed, match="status_code"):
        answer(lambda: None, Object(hook_type="Response", hook_name="hook"))


def test_resp_status_zero() -> None:
    """The gateway drops the connection."""
    reply = raw_response(lambda response: setattr(response, "status_code", 0))
    assert reply.response.status_code == 200


@pytest.mark.parametrize("status", [1, 99, 1000, -1])
def test_resp_status_that_is_none(status: int) -> None:
    with pytest.raises(HandlerFailed, match=f"set status_code to {status}"):
        raw_response(lambda response: setattr(response, "status_code", status))


def test_resp_body_only_is_ignored() -> None:
    reply = raw_response(lambda response: setattr(response, "body", "new"))
    assert (reply.response.raw_body, reply.response.body) == (b"new", "new")


def test_resp_raw_body() -> None:
    reply = raw_response(lambda response: setattr(response, "raw_body", b"new"))
    assert (reply.response.raw_body, reply.response.body) == (b"new", "new")
    reply = raw_response(lambda response: setattr(response, "raw_body", b""))
    assert (reply.response.raw_body, reply.response.body) == (b"", "")


def test_resp_binary_body() -> None:
    reply = raw_response(lambda response: setattr(response, "raw_body", b"\xff"))
    assert (reply.response.raw_body, reply.response.body) == (b"\xff", "")


def with_cookies() -> Object:
    headers = [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    return make_object(HookType.Response, response=make_response(headers=headers))


def client_headers(edit: Callable[[ResponseObject], object]) -> dict[str, list[str]]:
    sent = with_cookies()
    response = response_at_the_gateway(raw_response(edit, sent), sent)
    return {name: response.headers.getall(name) for name in response.headers}


COOKIES = {"Content-Type": ["text/plain"], "Set-Cookie": ["a=1", "b=2"]}


def delete_multivalue(response: ResponseObject, name: str) -> None:
    (entry,) = [entry for entry in response.multivalue_headers if entry.key == name]
    response.multivalue_headers.remove(entry)


def test_resp_untouched() -> None:
    assert client_headers(lambda response: None) == COOKIES


def test_resp_add_multivalue() -> None:
    """Alone in multivalue_headers, and beside a changed map, which would make the gateway drop it."""

    def add(response: ResponseObject) -> None:
        response.multivalue_headers.add(key="X-Many", values=["1", "2"])

    def add_both(response: ResponseObject) -> None:
        add(response)
        response.headers["X-One"] = "3"

    assert client_headers(add) == {**COOKIES, "X-Many": ["1", "2"]}
    assert client_headers(add_both) == {**COOKIES, "X-Many": ["1", "2"], "X-One": ["3"]}


def test_resp_delete_multivalue_only() -> None:
    assert client_headers(lambda response: delete_multivalue(response, "Set-Cookie")) == {
        "Content-Type": ["text/plain"]
    }


def test_resp_delete_multivalue_change_map() -> None:
    def edit(response: ResponseObject) -> None:
        delete_multivalue(response, "Set-Cookie")
        response.headers["X-New"] = "1"

    assert client_headers(edit) == {"Content-Type": ["text/plain"], "X-New": ["1"]}


def test_resp_map_deleted() -> None:
    def edit(response: ResponseObject) -> None:
        del response.headers["Set-Cookie"]

    assert client_headers(edit) == {"Content-Type": ["text/plain"]}


def test_resp_map_changed_keeps_further_values() -> None:
    def edit(response: ResponseObject) -> None:
        response.headers["Set-Cookie"] = "a=9"

    assert client_headers(edit) == {**COOKIES, "Set-Cookie": ["a=9", "b=2"]}


def test_resp_map_in_another_spelling() -> None:
    def edit(response: ResponseObject) -> None:
        response.headers["content-type"] = "text/html"

    assert client_headers(edit)["Content-Type"] == ["text/html"]


def test_resp_override_is_ignored() -> None:
    """So a Response hook's reject and respond change the response itself."""

    def reject() -> None:
        raise Reject(403, 'No "entry"', headers={"X-A": "1"})

    sent = with_cookies()
    response = response_at_the_gateway(answer(reject, sent), sent)
    assert (response.status, response.body) == (403, b'{\n    "error": "No \\"entry\\""\n}')
    assert {name: response.headers.getall(name) for name in response.headers} == {
        "Content-Type": ["application/json"],
        "X-A": ["1"],
    }


def test_resp_request_edit_is_dropped() -> None:
    def handler(request: Any, response: Any) -> None:
        request.headers["X-A"] = "1"
        request.object.url = "not checked"

    assert answer(handler, make_object(HookType.Response)).HasField("response")


# What a handler returns.


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize("result", [1, "text", {}, object, b"", ("a",), Reject(401, "x"), Unspeakable()])
def test_nonsense_is_the_handlers_failure(result: Any) -> None:
    with pytest.raises(HandlerFailed, match=r'Pre hook "hook" returned'):
        answer(lambda: result)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError(), MemoryError(), Unspeakable()],
)
def test_whatever_a_handler_raises_is_its_failure(error: BaseException) -> None:
    def handler() -> None:
        raise error

    with pytest.raises(HandlerFailed) as failed:
        answer(handler)
    assert str(failed.value) == f'Pre hook "hook" raised {type(error).__name__}'
    assert failed.value.__cause__ is error


# Any raw edit whatever gives a reply that the gateway takes, or a failure that is told.


def outcome_of(action: Callable[[], object]) -> object:
    """What `action` gives, or what it raises."""
    try:
        return action()
    except (HandlerFailed, Answered, Failed) as error:
        return error


TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
STRANGE_REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "url": st.one_of(TEXT, st.just("/a"), st.just("")),
        "method": st.sampled_from(["", "GET", "X"]),
        "body": TEXT,
        "raw_body": st.binary(max_size=6),
        "request_uri": TEXT,
        "set_headers": st.dictionaries(TEXT, TEXT, max_size=2),
        "delete_headers": st.lists(TEXT, max_size=2),
        "add_params": st.dictionaries(TEXT, TEXT, max_size=2),
        "return_overrides": st.fixed_dictionaries(
            {}, optional={"response_code": st.integers(-2, 1200), "response_body": TEXT}
        ),
    },
)


@settings(deadline=None)
@given(fields=STRANGE_REQUEST, full_reply=st.booleans())
def test_any_request_that_a_handler_leaves(fields: dict[str, Any], *, full_reply: bool) -> None:
    replacement = MiniRequestObject(**fields)
    sent = make_object(request=make_request(body=b"old"))
    reply = outcome_of(
        lambda: raw(lambda request: request.CopyFrom(replacement), sent, full_reply=full_reply)
    )
    if isinstance(reply, HandlerFailed):
        refusals = ("set the URL", "set response_code", "set a header that cannot be sent")
        assert any(refusal in str(reply) for refusal in refusals)
        return
    assert isinstance(reply, Object)
    result = outcome_of(lambda: at_the_gateway(reply))
    if isinstance(result, Answered):
        assert 100 <= result.status <= 999
    elif isinstance(result, Failed):
        assert 400 <= result.status <= 999
        assert result.message != "Middleware error"
    else:
        assert isinstance(result, GatewayRequest)
        expected = fields.get("raw_body") or fields.get("body", "").encode()
        assert result.body == expected or (not expected and result.body in (b"", b"old"))
    if full_reply:
        text, body = reply.request.body, reply.request.raw_body
        assert text.encode() == body or (text == "" and b"\xff" not in text.encode())


@settings(deadline=None)
@given(
    status=st.integers(-1, 1100),
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    many=st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=3)), max_size=3),
)
def test_any_response_that_a_handler_leaves(
    status: int, headers: dict[str, str], many: list[tuple[str, list[str]]]
) -> None:
    def edit(response: ResponseObject) -> None:
        response.Clear()
        response.status_code = status
        response.headers.update(headers)
        for key, values in many:
            response.multivalue_headers.add(key=key, values=values)

    reply = outcome_of(lambda: raw_response(edit))
    if isinstance(reply, HandlerFailed):
        assert f"set status_code to {status}" in str(reply) or "set a header that cannot" in str(reply)
        return
    assert isinstance(reply, Object)
    assert 100 <= reply.response.status_code <= 999
    first = {entry.key: entry.values[0] for entry in reply.response.multivalue_headers}
    assert dict(reply.response.headers) == first


@pytest.mark.parametrize(
    ("name", "value"), [("Bad\nName", "v"), ("a b", "v"), ("", "v"), ("X-A", "v\r\nInjected: 1")]
)
def test_headers_that_http_does_not_allow_are_refused(name: str, value: str) -> None:
    def on_request(request: MiniRequestObject) -> None:
        request.set_headers[name] = value

    def on_override(request: MiniRequestObject) -> None:
        request.return_overrides.response_code = 401
        request.return_overrides.headers[name] = value

    def on_response(response: ResponseObject) -> None:
        response.headers[name] = value

    for outcome in (
        outcome_of(lambda: raw(on_request)),
        outcome_of(lambda: raw(on_override)),
        outcome_of(lambda: raw_response(on_response)),
    ):
        assert isinstance(outcome, HandlerFailed)
        assert "set a header that cannot be sent" in str(outcome)


def test_an_empty_table_has_no_handler() -> None:
    assert len(HookTable()) == 0
