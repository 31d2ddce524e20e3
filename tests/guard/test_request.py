"""The reply guard, over the request: each trap of the gateway, by the name of what shows it."""

from __future__ import annotations

from typing import Any

import pytest

from coprocess import Reject, Reply, respond
from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator.outcome import Answered, Failed
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.wire import MiniRequestObject, Object
from tests.guard.edits import REQUEST_HOOKS, at_the_gateway, embedded, raw
from tests.objects import answer, make_object, make_request

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


@pytest.mark.parametrize("code", [1, 99, 100, 101, 199, 1000, 70_000])
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


def test_the_length_of_another_body_in_an_answers_headers_is_left_to_the_gateway() -> None:
    """It would send none of the body, as that is longer than was said."""
    headers = {"content-length": "1", "Transfer-Encoding": "chunked", "X-A": "1"}
    reply = answer(lambda: respond(200, "abc", headers=headers), make_object(HookType.Pre))
    assert dict(reply.request.return_overrides.headers) == {"X-A": "1"}

    def refuse() -> None:
        raise Reject(403, "no", headers=headers)

    reply = answer(refuse, make_object(HookType.Pre))
    assert dict(reply.request.return_overrides.headers) == {"X-A": "1"}

    def by_hand(request: Any) -> None:
        request.return_overrides.response_code = 200
        request.return_overrides.headers.update(headers)

    assert dict(raw(by_hand).request.return_overrides.headers) == {"X-A": "1"}


def test_an_answer_to_head_may_tell_a_length() -> None:
    def handler() -> Any:
        return respond(200, headers={"Content-Length": "9"})

    message = make_object(HookType.Pre)
    message.request.method = "HEAD"
    assert dict(answer(handler, message).request.return_overrides.headers) == {"Content-Length": "9"}


@pytest.mark.parametrize("values", [("1", "2"), ("1", "1")])
def test_a_header_in_two_spellings_has_one_value_or_is_refused(values: tuple[str, str]) -> None:
    """The gateway goes over them in an order of chance, and the last one stays."""

    def edit(request: Any) -> None:
        request.set_headers["X-A"], request.set_headers["x-a"] = values

    if values == ("1", "1"):
        assert set(raw(edit).request.set_headers.values()) == {"1"}
    else:
        with pytest.raises(HandlerFailed, match="X-A twice"):
            raw(edit)


@pytest.mark.parametrize("method", ["A B", "GET\r\nX: 1", "G\u00c9T"])
def test_a_method_that_is_no_word_is_refused(method: str) -> None:
    with pytest.raises(HandlerFailed, match="set the method to"):
        raw(lambda request: setattr(request, "method", method))
