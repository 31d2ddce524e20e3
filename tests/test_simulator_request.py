"""What hooks see of a request, and what the gateway makes of their edits, trap by trap."""

from __future__ import annotations

import json

import pytest

from coprocess.desk.tyk.simulator import Gateway
from coprocess.desk.tyk.simulator.url import BadUrl, parse_request_uri
from tests.simulator import (
    KEYLESS,
    OK,
    Edit,
    Plugin,
    definition,
    fail,
    hook,
    keyless,
    named,
    sent,
    status,
    text,
    upstream_header,
    upstream_url,
)

# Objects


def test_spec_and_its_absent_config_data() -> None:
    exchange = keyless().request("GET", "/api/a")
    assert dict(sent(exchange, "Pre1").spec) == {
        "APIID": "api",
        "OrgID": "org",
        "bundle_hash": "d41d8cd98f00b204e9800998ecf8427e",
    }
    with_data = keyless(api={"config_data": {"a": "<"}, "custom_middleware_bundle": "b.zip"})
    spec = sent(with_data.request("GET", "/api/a"), "Pre1").spec
    assert spec["config_data"] == '{"a":"\\u003c"}'
    assert spec["bundle_hash"] == "a2bfc162fe5785e50946cccfb192a8b6"
    disabled = keyless(api={"config_data": {"a": 1}, "config_data_disabled": True})
    assert "config_data" not in sent(disabled.request("GET", "/api/a"), "Pre1").spec


def test_raw_body_only_leaves_body_empty() -> None:
    hooks = {"pre": [hook("A", raw_body_only=True)], "response": [hook("R", raw_body_only=True)]}
    exchange = Gateway(definition(hooks=hooks), Plugin(), OK).request("POST", "/api/a", body=b"in")
    assert (sent(exchange, "A").request.body, sent(exchange, "A").request.raw_body) == ("", b"in")
    assert (sent(exchange, "R").response.body, sent(exchange, "R").response.raw_body) == ("", b"fine")
    assert sent(exchange, "R").request.body == ""


@pytest.mark.parametrize(
    ("target", "headers"), [("/api/a", [("X-A", "caf\xe9")]), ("/api/a?x=%FF", []), ("/api/a?%FF=x", [])]
)
def test_text_that_is_not_utf8_never_reaches_a_hook(target: str, headers: list[tuple[str, str]]) -> None:
    exchange = keyless().request("GET", target, headers)
    assert status(exchange) == 500
    assert exchange.hooks == []


def test_utf8_header_reaches_hook_and_upstream() -> None:
    raw = "é".encode().decode("latin-1")
    exchange = keyless().request("GET", "/api/a", [("X-A", raw)])
    assert sent(exchange, "Pre1").request.headers["X-A"] == "é"
    assert upstream_header(exchange, "X-A") == [raw]


def test_host_of_the_client_is_kept() -> None:
    exchange = keyless().request("GET", "/api/a", [("host", "mine.test")])
    assert dict(sent(exchange, "Pre1").request.headers) == {"Host": "mine.test"}
    assert upstream_header(exchange, "Host") == ["upstream.test"]
    kept = keyless(
        api={
            "proxy": {
                "listen_path": "/api/",
                "target_url": "http://upstream.test/base/?k=1",
                "preserve_host_header": True,
            }
        }
    ).request("GET", "/api/a?q=2", [("Host", "mine.test")])
    assert upstream_header(kept, "Host") == ["mine.test"]
    assert upstream_url(kept) == "/base/api/a?k=1&q=2"


def test_request_outside_the_listen_path() -> None:
    exchange = keyless().request("GET", "/apiary")
    assert (status(exchange), text(exchange), exchange.hooks) == (404, "Not Found", [])


def test_target_that_is_none() -> None:
    with pytest.raises(ValueError, match="neither an absolute path"):
        keyless().request("GET", "api/a")


# Request edits


def edit_url(url: str) -> Edit:
    return lambda message: setattr(message.request, "url", url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/api/new", "/new?a=1&b=2"),
        ("/api/new?z=9", "/new?a=1&b=2"),
        ("/api/new?a=1&b=2", "/new?a=1&b=2"),
        ("/api/new?b=2&a=1", "/new?b=2&a=1"),
        ("http://elsewhere.test/api/x", "/x?a=1&b=2"),
        ("/other", "/other?a=1&b=2"),
        ("/api/a b", "/a%20b?a=1&b=2"),
    ],
)
def test_url_edit_takes_the_path_and_keeps_the_query(url: str, expected: str) -> None:
    exchange = keyless(Pre1=edit_url(url)).request("GET", "/api/q?b=2&a=1")
    assert upstream_url(exchange) == expected


@pytest.mark.parametrize("url", ["", "elsewhere", "/a%zz", "/a\x01"])
def test_url_edit_that_is_none(url: str) -> None:
    exchange = keyless(Pre1=edit_url(url)).request("GET", "/api/q")
    assert (status(exchange), named(exchange)) == (500, ["Pre1"])


def test_url_edit_shows_in_the_next_hook_but_not_in_request_uri() -> None:
    exchange = keyless(Pre1=edit_url("/api/new")).request("GET", "/api/old")
    assert sent(exchange, "Pre2").request.url == "/api/new"
    assert sent(exchange, "Pre2").request.request_uri == "/api/old"


def test_method_edit() -> None:
    exchange = keyless(Pre1=lambda m: setattr(m.request, "method", "PUT")).request("GET", "/api/a")
    assert exchange.upstream_request is not None
    assert exchange.upstream_request.method == "PUT"
    assert upstream_header(exchange, "Content-Length") == ["0"]


def test_raw_body_edit_changes_the_length_upstream() -> None:
    exchange = keyless(Pre1=lambda m: setattr(m.request, "raw_body", b"longer")).request(
        "POST", "/api/a", body=b"in"
    )
    assert sent(exchange, "Pre2").request.body == "longer"
    assert upstream_header(exchange, "Content-Length") == ["6"]


def test_header_that_http_does_not_allow_fails_the_proxying() -> None:
    exchange = keyless(Pre1=lambda m: m.request.set_headers.update({"X-A": "a\r\nb"})).request(
        "GET", "/api/a"
    )
    assert status(exchange) == 500
    assert json.loads(text(exchange)) == {"error": "There was a problem proxying the request"}
    assert exchange.upstream_request is None


@pytest.mark.parametrize(
    ("method", "headers", "encodings"),
    [
        ("GET", [], ["gzip"]),
        ("HEAD", [], []),
        ("GET", [("Accept-Encoding", "br")], ["br"]),
        ("GET", [("Range", "bytes=0-1")], []),
    ],
)
def test_accept_encoding_is_gos_client(
    method: str, headers: list[tuple[str, str]], encodings: list[str]
) -> None:
    exchange = keyless().request(method, "/api/a", headers)
    assert upstream_header(exchange, "Accept-Encoding") == encodings


def test_headers_that_end_at_the_gateway() -> None:
    headers = [("Connection", "x-a"), ("X-A", "1"), ("Te", "x"), ("X-Forwarded-For", "9.9.9.9")]
    exchange = keyless().request("GET", "/api/a", [*headers, ("User-Agent", "mine")])
    assert upstream_header(exchange, "X-A") == upstream_header(exchange, "Te") == []
    assert upstream_header(exchange, "X-Forwarded-For") == ["9.9.9.9, 127.0.0.1"]
    assert upstream_header(exchange, "User-Agent") == ["mine"]
    assert sent(exchange, "Resp").request.headers["X-A"] == "1"


def test_rpc_error_of_a_post_hook() -> None:
    exchange = keyless(Post=fail).request("GET", "/api/a")
    assert status(exchange) == 500
    call = exchange.hooks[-1]
    assert (call.hook_type, call.hook_name, call.reply) == ("Post", "Post", None)
    assert call.error is not None
    assert (call.error.code_name, call.error.message) == ("INTERNAL", "boom")


class Bytes(Plugin):
    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        return self.reply


def test_reply_that_is_no_object_or_too_large() -> None:
    for reply, code in ((b"\xff\xff", "INTERNAL"), (bytes(5_000_000), "RESOURCE_EXHAUSTED")):
        exchange = Gateway(definition(hooks=KEYLESS), Bytes(reply), OK).request("GET", "/api/a")
        assert status(exchange) == 500
        assert exchange.hooks[0].error is not None
        assert exchange.hooks[0].error.code_name == code


def test_object_that_is_too_large() -> None:
    # A text body travels twice.
    exchange = keyless().request("POST", "/api/a", body=b"x" * 2_200_000)
    assert exchange.hooks[0].error is not None
    assert exchange.hooks[0].error.code_name == "RESOURCE_EXHAUSTED"
    assert status(keyless().request("POST", "/api/a", body=b"x" * 2_000_000)) == 200


# URLs


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("/a?b", "/a?b"),
        ("/a?", "/a?"),
        ("/a/%2F/é", "/a/%2F/%C3%A9".replace("%2F", "/")),
        ("/a/%2Fb", "/a/%2Fb"),
        ("http://h.test/a?b=1", "http://h.test/a?b=1"),
        ("/a:b", "/a:b"),
    ],
)
def test_request_uri(given: str, written: str) -> None:
    assert str(parse_request_uri(given)) == written


def test_request_uri_that_is_none() -> None:
    with pytest.raises(BadUrl):
        parse_request_uri("mailto:me")
