"""The reply guard, over the response: each trap of the gateway, by the name of what shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coprocess import Reject
from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator.apply import apply_response_edits
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.objects import GatewayResponse
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.wire import Object, ResponseObject
from tests.guard.edits import raw_response
from tests.objects import answer, make_object, make_response


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


@pytest.mark.parametrize("status", [1, 99, 100, 101, 199, 1000, -1])
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


def test_a_line_break_in_a_header_that_came_is_refused_as_in_a_new_one() -> None:
    def break_map(response: Any) -> None:
        response.headers["Content-Type"] = "a\r\nSet-Cookie: b"

    def break_values(response: Any) -> None:
        response.multivalue_headers[0].values.append("a\r\nSet-Cookie: b")

    for edit in (break_map, break_values):
        with pytest.raises(HandlerFailed, match="cannot be sent"):
            raw_response(edit)


def test_what_the_upstream_has_sent_in_its_headers_passes_beside_an_edit() -> None:
    message = make_object(HookType.Response)
    message.response.headers["X-Odd"] = "a\x01b"
    message.response.multivalue_headers.add(key="X-Odd", values=["a\x01b", "c\x01d"])

    def edit(response: Any) -> None:
        response.object.headers["X-New"] = "1"

    reply = answer(edit, message)
    odd = [entry for entry in reply.response.multivalue_headers if entry.key == "X-Odd"]
    assert [list(entry.values) for entry in odd] == [["a\x01b", "c\x01d"]]
