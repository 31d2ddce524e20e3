"""`Request` over Tyk's message: what a handler reads, and what becomes of its edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess.api.http import canonical_name
from coprocess.desk.tyk.simulator.apply import apply_request_edits
from coprocess.desk.tyk.simulator.definition import HookDefinition
from coprocess.desk.tyk.simulator.objects import build_object
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.desk.tyk.simulator.url import parse_request_uri
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.request import TykRequest
from tests.objects import answer, make_object, make_request
from tests.simulator import definition

Edit = Callable[[TykRequest], object]


def edited(edit: Edit, **request: Any) -> Any:
    """The request of the reply, after a handler that makes `edit`."""
    return answer(lambda request: _run(edit, request), make_object(request=make_request(**request))).request


def _run(edit: Edit, request: TykRequest) -> None:
    edit(request)


def view(**request: Any) -> TykRequest:
    return TykRequest(make_request(**request))


# Headers.


def test_headers_that_did_not_come_in_canonical_spelling_are_found_too() -> None:
    headers = view(headers={"x-lower": "1", "custom_header": "2", "X-Odd-name": "3"}).headers
    assert {**headers, "Host": ""} == {"X-Lower": "1", "Custom_header": "2", "X-Odd-Name": "3", "Host": ""}
    assert headers["x-LOWER"] == "1"
    del headers["X-Lower"]
    assert "x-lower" not in headers
    assert set(headers) == {"Custom_header", "X-Odd-Name", "Host"}


def test_headers_are_read_under_any_spelling() -> None:
    headers = view(headers={"X-Lower": "1"}).headers
    assert headers["x-lower"] == headers["X-LOWER"] == "1"
    assert "x-LOWER" in headers
    assert headers.get("absent") is None
    assert headers.getall("x-lower") == ["1"]
    assert headers.getall("absent") == []
    assert sorted(headers) == ["Host", "X-Lower"]
    assert len(headers) == 2
    assert 5 not in headers  # type: ignore[comparison-overlap]  # what is tested
    with pytest.raises(KeyError):
        headers["absent"]


def test_reading_changes_nothing() -> None:
    request = view(headers={"X-A": "1"})
    before = request._message.SerializeToString(deterministic=True)
    assert "absent" not in request.headers
    assert request.headers.get("absent") is None
    assert request.query.get("absent") is None
    assert request._message.SerializeToString(deterministic=True) == before


def test_an_edit_becomes_set_headers_in_the_users_spelling() -> None:
    def edit(request: TykRequest) -> None:
        request.headers["x-My-header"] = "1"
        assert request.headers["X-MY-HEADER"] == "1"
        assert "X-My-Header" in list(request.headers)

    assert dict(edited(edit).set_headers) == {"x-My-header": "1"}


def test_setting_twice_under_two_spellings_leaves_one() -> None:
    def edit(request: TykRequest) -> None:
        request.headers["x-a"] = "1"
        request.headers["X-A"] = "2"

    assert dict(edited(edit).set_headers) == {"x-a": "2"}


def test_delete_after_set() -> None:
    def edit(request: TykRequest) -> None:
        request.headers["x-a"] = "2"
        del request.headers["X-A"]
        assert "x-a" not in request.headers

    reply = edited(edit, headers={"X-A": "1"})
    assert not reply.set_headers
    assert list(reply.delete_headers) == ["X-A"]


def test_delete_after_set_of_a_new_header_leaves_no_trace() -> None:
    def edit(request: TykRequest) -> None:
        request.headers["x-new"] = "1"
        del request.headers["X-New"]

    reply = edited(edit)
    assert not reply.set_headers
    assert not reply.delete_headers


def test_set_after_delete() -> None:
    def edit(request: TykRequest) -> None:
        del request.headers["x-a"]
        request.headers["x-a"] = "2"
        assert request.headers["X-A"] == "2"

    reply = edited(edit, headers={"X-A": "1"})
    assert dict(reply.set_headers) == {"x-a": "2"}
    assert list(reply.delete_headers) == ["X-A"]


def test_deleting_what_is_absent_is_a_key_error() -> None:
    headers = view(headers={"X-A": "1"}).headers
    with pytest.raises(KeyError):
        del headers["absent"]
    del headers["x-a"]
    with pytest.raises(KeyError):
        del headers["x-a"]


def test_delete_takes_all_spellings_that_the_message_holds() -> None:
    request = view()
    request.object.set_headers["x-a"] = "1"
    request.object.set_headers["X-A"] = "2"
    del request.headers["X-a"]
    assert "X-A" not in request.headers
    assert not request.object.set_headers


def test_adding_joins_by_comma() -> None:
    def edit(request: TykRequest) -> None:
        request.headers.add("x-a", "2")
        request.headers.add("X-New", "1")

    assert dict(edited(edit, headers={"X-A": "1"}).set_headers) == {"x-a": "1, 2", "X-New": "1"}


@pytest.mark.parametrize("name", ["Host", "host", "HOST"])
def test_host_is_refused(name: str) -> None:
    headers = view().headers
    with pytest.raises(ValueError, match="Host"):
        headers[name] = "other"
    with pytest.raises(ValueError, match="Host"):
        del headers[name]
    assert headers["host"] == "127.0.0.1:8081"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "\0", "\ud800"])
def test_values_that_would_break_the_request_are_refused(value: str) -> None:
    request = view()
    with pytest.raises(ValueError, match="header X-A"):
        request.headers["X-A"] = value
    with pytest.raises(ValueError, match="header X-A"):
        request.headers.add("X-A", value)
    assert not request._message.set_headers


def test_edits_of_the_message_itself_are_seen() -> None:
    request = view(headers={"X-A": "1", "X-B": "2"})
    request.object.set_headers["x-a"] = "9"
    request.object.delete_headers.append("x-b")
    assert request.headers["X-A"] == "9"
    assert "X-B" not in request.headers


# Query.


def test_query_has_all_values_of_the_url() -> None:
    query = view(url="/q?b=2&a=1&a=x+y%26&empty=&A=3").query
    assert query.getall("a") == ["1", "x y&"]
    assert query["a"] == "1"
    assert query["empty"] == ""
    assert query["A"] == "3"
    assert list(query) == ["b", "a", "empty", "A"]
    assert len(query) == 4
    assert query.getall("absent") == []
    with pytest.raises(KeyError):
        query["absent"]


def test_query_edits_become_params() -> None:
    def edit(request: TykRequest) -> None:
        request.query["a"] = "9"
        request.query["c"] = "x y"
        del request.query["b"]
        assert request.query.getall("a") == ["9"]
        assert "b" not in request.query

    reply = edited(edit, url="/q?b=2&a=1&a=3")
    assert dict(reply.add_params) == {"a": "9", "c": "x y"}
    assert list(reply.delete_params) == ["b"]
    assert reply.url == "/q?b=2&a=1&a=3"


def test_query_delete_after_set() -> None:
    def edit(request: TykRequest) -> None:
        request.query["a"] = "9"
        del request.query["a"]

    reply = edited(edit, url="/q?a=1")
    assert not reply.add_params
    assert list(reply.delete_params) == ["a"]


def test_query_refuses_what_is_no_text() -> None:
    request = view()
    with pytest.raises(TypeError, match="is text"):
        request.query["a"] = 1  # type: ignore[assignment]  # what is tested
    with pytest.raises(ValueError, match="surrogate"):
        request.query["a"] = "\ud800"
    assert "a" not in request.query
    assert not request._message.add_params


def test_the_query_that_came_stays_when_the_url_changes() -> None:
    """The gateway takes the path of `url` and keeps the query that the request had."""

    def edit(request: TykRequest) -> None:
        request.url = "/other"
        assert request.query["a"] == "1"

    assert edited(edit, url="/q?a=1").url == "/other"

    def raw_edit(request: TykRequest) -> None:
        request.object.url = "/other?b=2"
        assert list(request.query) == ["a"]

    edited(raw_edit, url="/q?a=1")


def test_a_new_query_in_the_url_is_refused() -> None:
    request = view(url="/q?a=1")
    with pytest.raises(ValueError, match=r"request\.query"):
        request.url = "/q?a=2"
    request.url = "/other?a=1"
    assert request.path == "/other"


# URL, method, body.


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/a/b?c=d", "/a/b"),
        ("//host/a", "//host/a"),
        ("/a#b", "/a#b"),
        ("http://127.0.0.1:8098/c?x=1", "/c"),
        ("http://host", ""),
        ("/[x", "/[x"),
        ("//[x?a=1", "//[x"),
    ],
)
def test_path(url: str, path: str) -> None:
    assert view(url=url).path == path


def test_setting_the_path_keeps_the_query() -> None:
    request = view(url="/a?b=1")
    request.path = "/c"
    assert request.url == "/c?b=1"
    assert request.query["b"] == "1"
    assert request.target == "/a?b=1"


@pytest.mark.parametrize("path", ["", "relative", "/a?b", "http://h/a", "/%zz", "/\n"])
def test_paths_that_are_refused(path: str) -> None:
    request = view()
    with pytest.raises(ValueError, match="a path begins with a slash"):
        request.path = path


@pytest.mark.parametrize("url", ["", "relative", "a?b=://", "/%zz", "/a\nb", "://a", "1http://a"])
def test_urls_that_are_refused(url: str) -> None:
    request = view()
    with pytest.raises(ValueError, match="a URL begins with a slash"):
        request.url = url


@pytest.mark.parametrize("url", ["/", "/é", "/a%20b", "/a b", "http://h/a", "h2c+x://h", "/%41"])
def test_urls_that_pass(url: str) -> None:
    request = view()
    request.url = url
    assert request.url == url


@pytest.mark.parametrize("method", ["BAD METHOD", "GET\r\nX: 1", "GET/"])
def test_a_method_that_is_no_word_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="an HTTP method is a word"):
        view().method = method


def test_method() -> None:
    request = view()
    request.method = "PUT"
    assert request._message.method == "PUT"
    with pytest.raises(ValueError, match="an HTTP method is a word"):
        request.method = ""


def test_what_is_read_only() -> None:
    request = view(url="/a?b=1")
    assert request.scheme == "http"
    assert request.target == "/a?b=1"
    assert repr(request) == "<Request GET /a?b=1>"
    for name in ("scheme", "target", "headers", "query"):
        with pytest.raises(AttributeError):
            setattr(request, name, "x")
    with pytest.raises(AttributeError):
        request.unknown = 1  # type: ignore[attr-defined]  # what is tested


def test_body_text_and_json() -> None:
    request = view(body='{"a": "é"}'.encode())
    assert request.body == b'{"a": "\xc3\xa9"}'
    assert request.text == '{"a": "é"}'
    assert request.json() == {"a": "é"}
    with pytest.raises(UnicodeDecodeError):
        assert view(body=b"\xff").text
    with pytest.raises(ValueError, match="Expecting value"):
        view(body=b"").json()


@pytest.mark.parametrize("body", [b"new", "new", bytearray(b"new"), memoryview(b"new")])
def test_setting_the_body_sets_both_forms(body: Any) -> None:
    reply = edited(lambda request: setattr(request, "body", body), body=b"old")
    assert (reply.raw_body, reply.body) == (b"new", "new")


def test_setting_the_text() -> None:
    reply = edited(lambda request: setattr(request, "text", "é"), body=b"\xff")
    assert (reply.raw_body, reply.body) == ("é".encode(), "é")


def test_a_body_that_is_no_text_has_one_form() -> None:
    reply = edited(lambda request: setattr(request, "body", b"\xff"), body=b"old")
    assert (reply.raw_body, reply.body) == (b"\xff", "")


def test_a_body_of_another_type_is_refused() -> None:
    with pytest.raises(HandlerFailed, match="raised TypeError"):
        edited(lambda request: setattr(request, "body", {"a": 1}))


# Any sequence of edits, held against what the gateway makes of the reply.

NAMES = st.sampled_from(["X-A", "x-a", "X-B", "x-B", "Accept", "Etag", "x-new"])
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8).map(str.strip)
PARAMETERS = st.sampled_from(["a", "b", "A", "c d", "é", ""])
HEADER_EDITS = st.one_of(
    st.tuples(st.just("set"), NAMES, VALUES),
    st.tuples(st.just("add"), NAMES, VALUES),
    st.tuples(st.just("delete"), NAMES, st.just("")),
)
QUERY_EDITS = st.one_of(
    st.tuples(st.just("set"), PARAMETERS, VALUES),
    st.tuples(st.just("delete"), PARAMETERS, st.just("")),
)


def through_the_gateway(gateway: GatewayRequest, edit: Edit) -> None:
    """Build the Object as the gateway does, run the handler, apply its reply."""
    from coprocess.gateways.tyk import wire

    sent = build_object(wire.HookType.Pre, HookDefinition("hook"), definition(), gateway, None)
    apply_request_edits(answer(lambda request: _run(edit, request), sent, full_reply=False), gateway)


def gateway_request(
    target: str = "/a", headers: list[tuple[str, str]] | None = None, body: bytes = b""
) -> GatewayRequest:
    return GatewayRequest.received(
        "POST", target, headers or [], body, host="h:1", client_address="127.0.0.1"
    )


@settings(deadline=None)
@given(
    present=st.dictionaries(st.sampled_from(["X-A", "X-B", "Accept"]), st.sampled_from(["1", "2"])),
    edits=st.lists(HEADER_EDITS, max_size=12),
)
def test_header_edits_reach_the_upstream_as_the_handler_saw_them(
    present: dict[str, str], edits: list[tuple[str, str, str]]
) -> None:
    model = dict(present)
    seen: dict[str, str] = {}

    def edit(request: TykRequest) -> None:
        for action, name, value in edits:
            key = canonical_name(name)
            if action == "set":
                request.headers[name] = model[key] = value
            elif action == "add":
                request.headers.add(name, value)
                model[key] = f"{model[key]}, {value}" if key in model else value
            elif key in model:
                del request.headers[name], model[key]
            else:
                with pytest.raises(KeyError):
                    del request.headers[name]
        seen.update(request.headers)

    gateway = gateway_request(headers=list(present.items()))
    through_the_gateway(gateway, edit)
    del seen["Host"]
    assert seen == model
    assert gateway.headers.first_values() == model
    assert all(len(gateway.headers.getall(name)) == 1 for name in gateway.headers)


@settings(deadline=None)
@given(
    present=st.lists(st.tuples(PARAMETERS.filter(bool), VALUES), max_size=5),
    edits=st.lists(QUERY_EDITS, max_size=10),
    move=st.booleans(),
)
def test_query_edits_reach_the_upstream_as_the_handler_saw_them(
    present: list[tuple[str, str]], edits: list[tuple[str, str, str]], move: bool
) -> None:
    model: dict[str, list[str]] = {}
    for name, value in present:
        model.setdefault(name, []).append(value)
    query = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in present)

    def edit(request: TykRequest) -> None:
        if move:
            request.url = "/moved"
        for action, name, value in edits:
            if action == "set":
                request.query[name] = value
                model[name] = [value]
            elif name in model:
                del request.query[name], model[name]
            else:
                with pytest.raises(KeyError):
                    del request.query[name]
        assert {name: request.query.getall(name) for name in request.query} == model

    gateway = gateway_request(f"/a?{query}" if query else "/a")
    through_the_gateway(gateway, edit)
    assert gateway.url.values() == model
    assert gateway.url.path == ("/moved" if move else "/a")


@settings(deadline=None)
@given(
    before=st.binary(max_size=20),
    edits=st.lists(st.one_of(st.binary(max_size=10), st.text(st.characters(codec="utf-8"), max_size=10))),
)
def test_the_body_reaches_the_upstream_as_the_handler_left_it(
    before: bytes, edits: list[bytes | str]
) -> None:
    expected = before

    def edit(request: TykRequest) -> None:
        nonlocal expected
        for body in edits:
            request.body = body
            expected = body.encode() if isinstance(body, str) else body
            assert request.body == expected

    gateway = gateway_request(body=before)
    through_the_gateway(gateway, edit)
    assert gateway.body == expected


@given(st.text(max_size=12).map("/".__add__))
def test_a_url_that_the_view_takes_is_one_that_the_gateway_takes(url: str) -> None:
    request = view()
    try:
        request.url = url
        url.encode()
    except ValueError:
        return
    parse_request_uri(url)
