"""Headers and queries that belong to no gateway, and recorded HTTP requests."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess.api.http import MultiHeaders, canonical_name, header_name, header_value, parse_raw_request
from coprocess.errors import BadMessage


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x-request-id", "X-Request-Id"),
        ("X-REQUEST-ID", "X-Request-Id"),
        ("etag", "Etag"),
        ("x--a", "X--A"),
        ("has space", "has space"),
        ("é", "é"),
        ("", ""),
    ],
)
def test_canonical_name(name: str, expected: str) -> None:
    assert canonical_name(name) == expected


@given(st.text(max_size=20))
def test_canonical_name_is_stable(name: str) -> None:
    assert canonical_name(canonical_name(name)) == canonical_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a\n", "a\0", "\ud800"])
def test_names_that_http_does_not_allow(name: str) -> None:
    with pytest.raises(ValueError, match="no HTTP header name"):
        header_name(name)


def test_a_name_is_text() -> None:
    with pytest.raises(TypeError, match="not int"):
        header_name(5)  # type: ignore[arg-type]  # what handlers pass


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nb", "a\rb", "a\0b", "\x01", "\x7f"])
def test_control_characters_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="header X: a value has no line breaks"):
        header_value("X", value)


def test_surrogates_are_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        header_value("X", "\ud800")


@pytest.mark.parametrize("value", [None, 1, b"bytes"])
def test_a_value_is_text(value: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        header_value("X", value)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("value", ["", "plain", "tab\there", "é", "\u200b"])
def test_values_that_pass(value: str) -> None:
    assert header_value("X", value) == value


def test_multi_headers() -> None:
    headers = MultiHeaders([("set-cookie", "a"), ("X", "1")])
    headers.add("Set-Cookie", "b")
    assert headers["SET-COOKIE"] == "a"
    assert headers.getall("set-cookie") == ["a", "b"]
    assert headers.getall("absent") == []
    assert list(headers) == ["Set-Cookie", "X"]
    assert len(headers) == 2
    assert "x" in headers
    assert 5 not in headers  # type: ignore[comparison-overlap]  # what is tested
    headers["x"] = "2"
    assert headers.pairs() == [("Set-Cookie", "a"), ("X", "2"), ("Set-Cookie", "b")]
    del headers["SET-cookie"]
    assert headers.pairs() == [("X", "2")]
    with pytest.raises(KeyError):
        headers["Set-Cookie"]
    with pytest.raises(KeyError):
        del headers["Set-Cookie"]
    with pytest.raises(ValueError, match="line breaks"):
        headers["X"] = "a\nb"
    assert repr(headers) == "MultiHeaders([('X', ['2'])])"


def test_multi_headers_from_a_mapping() -> None:
    assert MultiHeaders({"a": "1"}).pairs() == [("A", "1")]


RAW = b"POST /a?b=1 HTTP/1.1\r\nHost: h\r\nX-A:  1 \r\nX-A: 2\r\n\r\nbody\r\n\r\nmore"


def test_raw_request() -> None:
    request = parse_raw_request(RAW)
    assert (request.method, request.target) == ("POST", "/a?b=1")
    assert request.headers["host"] == "h"
    assert request.headers.getall("x-a") == ["1", "2"]
    assert request.body == b"body\r\n\r\nmore"


def test_raw_request_without_headers() -> None:
    request = parse_raw_request(b"GET / HTTP/1.1\r\n\r\n")
    assert list(request.headers) == []
    assert request.body == b""


def test_raw_request_keeps_what_is_not_utf8() -> None:
    assert parse_raw_request(b"GET /\xff HTTP/1.1\r\nX: \xfe\r\n\r\n").target == "/\udcff"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "first line"),
        (b"GET /", "first line"),
        (b"GET / FTP/1\r\n\r\n", "first line"),
        (b" / HTTP/1.1\r\n\r\n", "first line"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "no colon"),
    ],
)
def test_what_is_no_request(raw: bytes, expected: str) -> None:
    with pytest.raises(BadMessage, match=expected):
        parse_raw_request(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_clear_error(raw: bytes) -> None:
    with suppress(BadMessage):
        assert parse_raw_request(raw).method
