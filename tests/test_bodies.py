"""Bodies as handlers see and set them: decoded, in their charset, and without headers that are wrong now."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from coprocess import BadBody
from coprocess.api.moments import HookType
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.request import TykRequest
from coprocess.gateways.tyk.response import TykResponse
from coprocess.gateways.tyk.wire import Object
from tests.guard.edits import REQUEST_HOOKS, at_the_gateway
from tests.objects import answer, make_object, make_request, make_response

DATA = {"name": "Änna"}
JSON = json.dumps(DATA, ensure_ascii=False).encode()

#: All that tells of the bytes of a body.
OF_THE_BYTES = {
    "Content-Encoding": "gzip",
    "Content-Md5": "x",
    "Digest": "x",
    "Content-Digest": "x",
    "Repr-Digest": "x",
    "Etag": '"1"',
    "Accept-Ranges": "bytes",
}


def request_of(body: bytes, **headers: str) -> TykRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return TykRequest(make_request(body=body, headers=named))


def response_of(body: bytes, status: int = 200, **headers: str) -> TykResponse:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return TykResponse(make_response(status, body, named))


@pytest.mark.parametrize("view", [request_of, response_of])
def test_a_body_that_came_encoded_is_read_decoded(view: Any) -> None:
    message = view(gzip.compress(JSON), Content_Encoding="gzip")
    assert message.json() == DATA
    assert message.text == JSON.decode()
    assert message.body == JSON
    assert gzip.decompress(message.raw_body) == JSON
    assert message.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("view", [request_of, response_of])
def test_a_body_is_read_as_it_came_when_its_header_was_edited(view: Any) -> None:
    message = view(gzip.compress(JSON), Content_Encoding="gzip")
    del message.headers["Content-Encoding"]
    assert message.json() == DATA
    other = view(JSON)
    other.headers["Content-Encoding"] = "gzip"
    assert other.json() == DATA


def test_a_rewritten_response_loses_what_told_of_the_old_bytes() -> None:
    def rewrite(response: Any) -> None:
        response.body = response.body.replace(b"nna", b"nton")

    headers = {**OF_THE_BYTES, "Vary": "Accept-Encoding", "Content-Type": "application/json"}
    sent = make_response(body=gzip.compress(JSON), headers=headers.items())
    reply = answer(rewrite, make_object(HookType.Response, response=sent)).response
    assert json.loads(reply.raw_body) == {"name": "Änton"}
    assert dict(reply.headers) == {"Vary": "Accept-Encoding", "Content-Type": "application/json"}
    assert sorted(entry.key for entry in reply.multivalue_headers) == ["Content-Type", "Vary"]


def test_a_rewritten_request_loses_what_told_of_the_old_bytes() -> None:
    def rewrite(request: Any) -> None:
        request.set_json({**request.json(), "seen": True})

    headers = {**OF_THE_BYTES, "If-None-Match": '"1"', "Content-Range": "bytes 0-1/2"}
    sent = make_object(request=make_request(method="POST", body=gzip.compress(JSON), headers=headers))
    reply = answer(rewrite, sent)
    assert json.loads(reply.request.raw_body) == {**DATA, "seen": True}
    assert sorted(reply.request.delete_headers) == sorted(OF_THE_BYTES)
    assert dict(reply.request.set_headers) == {"Content-Type": "application/json"}


@pytest.mark.parametrize("view", [request_of, response_of])
@pytest.mark.parametrize("header_first", [True, False])
def test_a_handler_that_encodes_by_itself_says_so(view: Any, header_first: bool) -> None:
    message = view(gzip.compress(JSON), Content_Encoding="gzip", Etag='"1"')
    encoded = gzip.compress(b"new")
    if header_first:
        message.headers["Content-Encoding"] = "gzip"
        message.headers["ETag"] = '"2"'
    message.body = encoded
    if not header_first:
        message.headers["Content-Encoding"] = "gzip"
        message.headers["ETag"] = '"2"'
    assert (message.headers["Content-Encoding"], message.headers["ETag"]) == ("gzip", '"2"')
    assert message.raw_body == message.body == encoded


def test_a_header_that_was_deleted_stays_deleted() -> None:
    request = request_of(gzip.compress(JSON), Content_Encoding="gzip", Etag="1")
    del request.headers["Etag"]
    request.body = b"a"
    request.body = b"b"
    assert sorted(request._message.delete_headers) == ["Content-Encoding", "Etag"]


def test_a_part_that_is_rewritten_is_no_part_any_more() -> None:
    response = response_of(b"bc", 206, Content_Range="bytes 1-2/9")
    response.text = "new"
    assert (response.status, dict(response.headers)) == (200, {})
    unsatisfied = response_of(b"no", 416, Content_Range="bytes */9")
    unsatisfied.text = "never"
    assert (unsatisfied.status, dict(unsatisfied.headers)) == (416, {"Content-Range": "bytes */9"})


# Text


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("", "é".encode(), "é"),
        ("text/plain", "é".encode(), "é"),
        ("text/plain; charset=ISO-8859-1", b"\xe9", "é"),
        ('text/plain;charset="windows-1252"; x=y', b"\x80", "€"),
        ("text/plain; charset=utf-16", "é".encode("utf-16"), "é"),
        ("text/plain; charset=", "é".encode(), "é"),
    ],
)
@pytest.mark.parametrize("view", [request_of, response_of])
def test_text_is_in_its_charset(view: Any, content_type: str, body: bytes, text: str) -> None:
    assert view(body, Content_Type=content_type).text == text


def test_text_that_is_set_is_utf8_and_says_so() -> None:
    response = response_of(b"\xe9", Content_Type="text/html; charset=iso-8859-1; x=y")
    response.text += "€"
    assert response.raw_body == "é€".encode()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8; x=y"
    assert response.text == "é€"
    plain = response_of(b"", Content_Type="text/html")
    plain.body = "é"
    assert plain.headers["Content-Type"] == "text/html"


@pytest.mark.parametrize("charset", ["klingon", "rot13", "zip", "idna", "punycode", "unicode_escape", "a\0b"])
def test_an_unknown_charset_is_named(charset: str) -> None:
    with pytest.raises(BadBody, match="text in an unknown charset") as bad:
        assert request_of(b"x", Content_Type=f"text/plain; charset={charset}").text
    assert bad.value.http_status == 415


def test_bytes_that_are_no_text_are_an_error() -> None:
    with pytest.raises(BadBody, match=r"^the request's body is not utf-8 text: invalid start byte$") as bad:
        assert request_of(b"\xff").text
    assert isinstance(bad.value, UnicodeDecodeError)


# JSON


def test_json_in_another_charset() -> None:
    assert request_of(b'"\xe9"', Content_Type="application/json; charset=latin-1").json() == "é"
    assert request_of('"é"'.encode("utf-16"), Content_Type="application/json").json() == "é"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"{'a': 1}"])
def test_what_is_no_json_is_one_error(body: bytes) -> None:
    with pytest.raises(BadBody, match=r"^the response's body is not JSON") as bad:
        response_of(body).json()
    assert isinstance(bad.value, json.JSONDecodeError)


@pytest.mark.parametrize("view", [request_of, response_of])
def test_set_json(view: Any) -> None:
    message = view(b"old", Content_Type="text/plain; charset=latin-1")
    message.set_json({"name": "é", "n": [1, None]})
    assert message.raw_body == '{"name":"é","n":[1,null]}'.encode()
    assert message.headers["Content-Type"] == "application/json"
    problem = view(b"", Content_Type="application/problem+json")
    problem.set_json([])
    assert (problem.text, problem.headers["Content-Type"]) == ("[]", "application/problem+json")
    with pytest.raises(TypeError, match="not JSON serializable"):
        problem.set_json(object())
    assert problem.text == "[]"


@pytest.mark.parametrize("value", [{"a": 1}, [1], (1,)])
def test_a_body_that_is_to_be_json_is_refused_with_what_to_write(value: Any) -> None:
    for message, owner in ((request_of(b""), "request"), (response_of(b""), "response")):
        with pytest.raises(
            TypeError, match=rf"a body is bytes or str, not \w+: write {owner}\.set_json\(…\)"
        ):
            message.body = value
    with pytest.raises(TypeError, match=r"a body is bytes or str, not NoneType$"):
        request_of(b"").body = None  # type: ignore[assignment]  # what is tested
    with pytest.raises(TypeError, match=r"request\.text is a str, not bytes: write ….decode\(\)"):
        request_of(b"").text = b"x"  # type: ignore[assignment]  # what is tested


# What the client broke


def ask(handler: Any, hook_type: HookType, body: bytes, **headers: str) -> Object:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(handler, make_object(hook_type, request=make_request(body=body, headers=named)))


@pytest.mark.parametrize("hook_type", REQUEST_HOOKS)
@pytest.mark.parametrize(
    ("status", "body", "headers", "text"),
    [
        (400, b"{", {}, "the request's body is not JSON: Expecting property name"),
        (400, b"", {}, "the request's body is not JSON: Expecting value"),
        (400, b"[" * 100_000, {}, "it is too deep"),
        (400, b"{}", {"Content_Encoding": "gzip"}, "is not gzip, as its Content-Encoding says"),
        (
            413,
            gzip.compress(bytes(17 * 2**20), mtime=0),
            {"Content_Encoding": "gzip"},
            "more than 16777216 bytes",
        ),
        (415, b"{}", {"Content_Encoding": "lz4"}, "the content coding 'lz4', which is not known"),
        (415, b"{}", {"Content_Type": "text/json; charset=klingon"}, "unknown charset, 'klingon'"),
    ],
)
def test_what_the_client_broke_is_its_error(
    hook_type: HookType, status: int, body: bytes, headers: dict[str, str], text: str
) -> None:
    overrides = ask(lambda request: request.json(), hook_type, body, **headers).request.return_overrides
    assert overrides.response_code == status
    assert text in json.loads(overrides.response_body)["error"]
    assert overrides.headers["Content-Type"] == "application/json"
    # Not an error of the gateway's, which would fire AuthFailure.
    assert overrides.override_error
    assert not overrides.response_error


def test_a_handler_may_answer_for_it_in_its_own_way() -> None:
    def handler(request: Any) -> None:
        try:
            request.json()
        except json.JSONDecodeError:
            request.headers["X-Broken"] = "1"

    assert at_the_gateway(ask(handler, HookType.Pre, b"{")).headers.get("X-Broken") == "1"


@pytest.mark.parametrize("part", ["request", "response"])
def test_in_a_response_hook_it_is_a_failure(part: str) -> None:
    def of_request(request: Any) -> None:
        request.json()

    def of_response(response: Any) -> None:
        response.json()

    sent = make_object(HookType.Response, response=make_response(body=b"<html>"))
    handler = of_request if part == "request" else of_response
    with pytest.raises(HandlerFailed, match=r'Response hook "\w+" raised BadJson') as failed:
        answer(handler, sent)
    assert f"the {part}'s body is not JSON" in str(failed.value.__cause__)


def test_cookies() -> None:
    header = ' a=1; b = "x\\"\\054y" ;a=2; =lost; none; c=d=e; Päth=/; q="; e=; $Version=1'
    cookies = request_of(b"", Cookie=header).cookies
    assert dict(cookies) == {
        "a": "1",
        "b": 'x",y',
        "c": "d=e",
        "Päth": "/",
        "q": '"',
        "e": "",
        "$Version": "1",
    }
    assert "none" not in cookies
    assert not request_of(b"").cookies
    with pytest.raises(TypeError):
        cookies["a"] = "2"  # type: ignore[index]  # what is tested


def test_cookies_are_those_that_go_on() -> None:
    request = request_of(b"", Cookie="a=1")
    request.headers["Cookie"] = "a=2"
    assert request.cookies["a"] == "2"
