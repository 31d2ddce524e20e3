"""`Response` over Tyk's message, and the two forms of its headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess import respond
from coprocess.api.http import canonical_name
from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator.apply import apply_response_edits
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.objects import GatewayResponse
from coprocess.gateways.tyk.response import TykResponse, reconcile_headers
from coprocess.gateways.tyk.wire import Object, ResponseObject
from tests.objects import answer, make_object, make_response

HEADERS = [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]

Edit = Callable[[TykResponse], object]


def view(**response: Any) -> TykResponse:
    return TykResponse(make_response(**response))


def sent_object(headers: list[tuple[str, str]], body: bytes = b"old") -> Object:
    """As the gateway sends it: Content-Length is in the map alone."""
    response = make_response(200, body, headers)
    response.headers["Content-Length"] = str(len(body))
    return make_object(HookType.Response, response=response)


def through_the_gateway(sent: Object, edit: Edit, *, full_reply: bool = False) -> GatewayResponse:
    """What the gateway makes of the reply of a handler that makes `edit`."""

    def handler(response: Any) -> None:
        edit(response)

    received = GatewayResponse(sent.response.status_code, GoHeader(), sent.response.raw_body)
    apply_response_edits(sent, answer(handler, sent, full_reply=full_reply), received)
    received.headers.remove("Content-Length")
    return received


def everything(headers: Any) -> dict[str, list[str]]:
    return {name: headers.getall(name) for name in headers}


def test_headers_have_all_values() -> None:
    headers = view(headers=HEADERS).headers
    assert headers["set-cookie"] == "a=1"
    assert headers.getall("SET-COOKIE") == ["a=1", "b=2"]
    assert list(headers) == ["Content-Type", "Set-Cookie"]
    assert len(headers) == 2
    assert "set-cookie" in headers
    assert 5 not in headers  # type: ignore[comparison-overlap]  # what is tested
    assert headers.getall("absent") == []
    with pytest.raises(KeyError):
        headers["absent"]
    with pytest.raises(KeyError):
        del headers["absent"]


def test_edits_keep_both_forms_in_step() -> None:
    response = view(headers=HEADERS)
    response.headers.add("set-cookie", "c=3")
    response.headers["content-type"] = "text/html"
    response.headers["x-new"] = "1"
    message = response.object
    assert dict(message.headers) == {"Content-Type": "text/html", "Set-Cookie": "a=1", "X-New": "1"}
    assert [(entry.key, list(entry.values)) for entry in message.multivalue_headers] == [
        ("Content-Type", ["text/html"]),
        ("Set-Cookie", ["a=1", "b=2", "c=3"]),
        ("X-New", ["1"]),
    ]
    del response.headers["SET-cookie"]
    response.headers.clear()
    assert not message.headers
    assert not message.multivalue_headers


def test_entries_of_one_name_under_two_spellings_become_one() -> None:
    message = ResponseObject(status_code=200)
    message.multivalue_headers.add(key="x-a", values=["1"])
    message.multivalue_headers.add(key="X-A", values=["2"])
    headers = TykResponse(message).headers
    assert headers.getall("X-a") == ["1", "2"]
    headers.add("x-A", "3")
    assert [list(entry.values) for entry in message.multivalue_headers] == [["1", "2", "3"]]


@pytest.mark.parametrize("value", ["a\r\nX: 1", "\0", "\ud800"])
def test_values_that_would_break_the_response_are_refused(value: str) -> None:
    response = view(headers=HEADERS)
    before = response._message.SerializeToString(deterministic=True)
    with pytest.raises(ValueError, match="header X-A"):
        response.headers["X-A"] = value
    with pytest.raises(ValueError, match="header X-A"):
        response.headers.add("X-A", value)
    with pytest.raises(ValueError, match="no HTTP header name"):
        response.headers["a b"] = "1"
    assert response._message.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 1000, -1, "200", None, 200.5])
def test_statuses_that_are_refused(status: Any) -> None:
    response = view()
    with pytest.raises(ValueError, match="200 to 999"):
        response.status = status
    assert response.status == 200


def test_status_and_body() -> None:
    response = view(body=b"old")
    response.status = 418
    response.text = "é"
    assert (response.object.status_code, response.object.raw_body, response.object.body) == (
        418,
        "é".encode(),
        "é",
    )
    response.body = b"\xff"
    assert (response.object.raw_body, response.object.body) == (b"\xff", "")
    response.body = "text"
    assert response.json is not None
    assert (response.object.raw_body, response.object.body) == (b"text", "text")
    assert repr(response) == "<Response 418, 4 bytes>"


NAMES = st.sampled_from(["Set-Cookie", "set-cookie", "X-A", "x-a", "Content-Type", "x-new"])
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8)
EDITS = st.lists(st.tuples(st.sampled_from(["set", "add", "delete"]), NAMES, VALUES), max_size=12)
PRESENT = st.lists(st.tuples(st.sampled_from(["Set-Cookie", "X-A", "Content-Type"]), VALUES), max_size=6)


@settings(deadline=None)
@given(present=PRESENT, edits=EDITS, full_reply=st.booleans())
def test_the_client_gets_the_headers_that_the_handler_left(
    present: list[tuple[str, str]], edits: list[tuple[str, str, str]], *, full_reply: bool
) -> None:
    model: dict[str, list[str]] = {}
    for name, value in present:
        model.setdefault(name, []).append(value)

    def edit(response: TykResponse) -> None:
        headers = response.headers
        for action, name, value in edits:
            key = canonical_name(name)
            if action == "set":
                headers[name] = value
                model[key] = [value]
            elif action == "add":
                headers.add(name, value)
                model.setdefault(key, []).append(value)
            elif key in model:
                del headers[name], model[key]
        assert everything(headers) == model

    received = through_the_gateway(sent_object(present), edit, full_reply=full_reply)
    assert everything(received.headers) == model
    assert (received.status, received.body) == (200, b"old")


RAW_EDITS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["map", "multivalue"]), NAMES, st.lists(VALUES, min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["map", "multivalue"]), NAMES, st.just([])),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(present=PRESENT, edits=RAW_EDITS)
def test_after_raw_edits_both_forms_agree_and_the_client_gets_what_they_say(
    present: list[tuple[str, str]], edits: list[tuple[str, str, list[str]]]
) -> None:
    sent = sent_object(present)
    touched: dict[str, set[str]] = {"map": set(), "multivalue": set()}
    left_map: dict[str, str] = {}
    left_many: dict[str, list[str]] = {}

    def edit(response: TykResponse) -> None:
        message = response.object
        for form, spelled, values in edits:
            name = canonical_name(spelled)
            if form == "map":
                if values:
                    message.headers[name] = values[0]
                elif name in message.headers:
                    del message.headers[name]
            else:
                others = [(e.key, list(e.values)) for e in message.multivalue_headers if e.key != name]
                del message.multivalue_headers[:]
                for key, kept in others:
                    message.multivalue_headers.add(key=key, values=kept)
                if values:
                    message.multivalue_headers.add(key=name, values=values)
            touched[form].add(name)
        left_map.update(message.headers)
        left_many.update({e.key: list(e.values) for e in message.multivalue_headers})

    received = everything(through_the_gateway(sent, edit).headers)
    for name in touched["multivalue"] - touched["map"]:
        assert received.get(name) == left_many.get(name)
    for name in touched["map"] - touched["multivalue"]:
        values = received.get(name)
        assert (values[0] if values else None) == left_map.get(name)
    for name in {name for name, _ in present} - touched["map"] - touched["multivalue"]:
        assert received[name] == [value for key, value in present if key == name]


def test_reconciling_what_nobody_edited_changes_nothing() -> None:
    sent = sent_object(HEADERS).response
    edited = ResponseObject.FromString(sent.SerializeToString())
    reconcile_headers(edited, sent)
    assert edited == sent
    assert edited.headers["Content-Length"] == "3"


@settings(deadline=None)
@given(before=st.binary(max_size=20), after=st.binary(max_size=20), as_text=st.booleans())
def test_the_client_gets_the_body_that_the_handler_left(
    before: bytes, after: bytes, *, as_text: bool
) -> None:
    def edit(response: TykResponse) -> None:
        if as_text:
            response.text = after.decode("latin-1")
        else:
            response.body = after

    received = through_the_gateway(sent_object([], before), edit)
    assert received.body == (after.decode("latin-1").encode() if as_text else after)


def test_respond_replaces_the_response() -> None:
    sent = sent_object(HEADERS)
    reply = answer(lambda: respond(503, "busy", headers=[("X-A", "1"), ("X-A", "2")]), sent)
    received = GatewayResponse(200, GoHeader(), b"")
    apply_response_edits(sent, reply, received)
    assert (received.status, received.body) == (503, b"busy")
    received.headers.remove("Content-Length")
    assert everything(received.headers) == {"X-A": ["1", "2"]}
