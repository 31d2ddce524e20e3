"""What the gateway makes of the answers of hooks and of upstreams, trap by trap."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from coprocess.desk.tyk.simulator import (
    AsgiUpstream,
    CannedUpstream,
    Exchange,
    Gateway,
    UrlUpstream,
    WsgiUpstream,
)
from coprocess.desk.tyk.simulator.sniff import detect_content_type
from coprocess.errors import ConfigError
from coprocess.gateways.tyk import wire
from tests.simulator import (
    Plugin,
    accept,
    definition,
    fail,
    header,
    heard,
    keyless,
    named,
    overrides,
    protected,
    sent,
    status,
    text,
)

# Return overrides


def test_reply_without_return_overrides_drops_the_connection() -> None:
    exchange = keyless(Pre1=lambda m: m.request.ClearField("return_overrides")).request("GET", "/api/a")
    assert exchange.http_response is None
    assert "no return_overrides" in str(exchange.dropped)


@pytest.mark.parametrize("code", [1, 99, 1000])
def test_override_with_a_code_that_is_none(code: int) -> None:
    exchange = keyless(Pre1=overrides(code, override_error=True)).request("GET", "/api/a")
    assert exchange.http_response is None
    assert f"status {code}" in str(exchange.dropped)


def test_override_304_has_no_body_and_no_type() -> None:
    exchange = keyless(Pre1=overrides(304, "x", headers={"Content-Type": "a/b", "etag": "1"})).request(
        "GET", "/api/a"
    )
    assert (status(exchange), text(exchange)) == (304, "")
    assert (header(exchange, "Content-Type"), header(exchange, "Etag")) == (None, "1")


def test_override_of_a_head_request() -> None:
    exchange = keyless(Pre1=overrides(200, "hello")).request("HEAD", "/api/a")
    assert (text(exchange), header(exchange, "Content-Length")) == ("", "5")


@pytest.mark.parametrize(("size", "framing"), [(2048, ("2048", None)), (2049, (None, "chunked"))])
def test_override_longer_than_go_holds_back(size: int, framing: tuple[str | None, str | None]) -> None:
    exchange = keyless(Pre1=overrides(200, "x" * size)).request("GET", "/api/a")
    assert (header(exchange, "Content-Length"), header(exchange, "Transfer-Encoding")) == framing


def test_override_headers_are_canonical_and_many() -> None:
    exchange = keyless(Pre1=overrides(403, headers={"x-a": "1", "www-authenticate": "Basic"})).request(
        "GET", "/api/a"
    )
    assert (header(exchange, "X-A"), header(exchange, "WWW-Authenticate")) == ("1", "Basic")
    assert exchange.http_response is not None
    assert ("Www-Authenticate", "Basic") in exchange.http_response.headers
    assert json.loads(text(exchange)) == {"error": "Key not authorised"}


def test_override_in_post_key_auth_names_the_key() -> None:
    exchange = protected(accept(rate=9, per=1), PostKeyAuth=overrides(402, "pay")).request("GET", "/api/a")
    assert (status(exchange), heard(exchange)) == (402, [("AuthFailure", "tok")])


def test_override_in_auth_with_an_answer_fires_nothing() -> None:
    exchange = protected(overrides(200, "hello")).request("GET", "/api/a")
    assert (status(exchange), text(exchange), exchange.events) == (200, "hello", [])
    assert named(exchange) == ["Auth"]


@pytest.mark.parametrize("content_type", ["application/xml", "text/xml; charset=utf-8"])
def test_error_for_a_client_that_sent_xml(content_type: str) -> None:
    exchange = keyless(Pre1=fail).request("POST", "/api/a", [("Content-Type", content_type)], b"<a/>")
    assert header(exchange, "Content-Type") == content_type.partition(";")[0]
    assert "<error>Middleware error</error>" in text(exchange)


@pytest.mark.parametrize(
    ("message", "page"), [("it's", r"it\'s"), ("a=b\n", r"a\u003Db\u000A"), ("é\u00a0", "é\\u00A0")]
)
def test_error_text_is_escaped_as_javascript(message: str, page: str) -> None:
    exchange = keyless(Pre1=overrides(400, message)).request("GET", "/api/a")
    assert text(exchange) == f'{{\n    "error": "{page}"\n}}'


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"hello", "text/plain; charset=utf-8"),
        (b"  <html >", "text/html; charset=utf-8"),
        (b"<!-- x", "text/html; charset=utf-8"),
        (b"<bold>", "text/plain; charset=utf-8"),
        (b"<?xml ?>", "text/xml; charset=utf-8"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"RIFF....WAVE", "audio/wave"),
        (b"FORM....AIFF", "audio/aiff"),
        (b"\x00\x00\x00\x18ftypmp42", "video/mp4"),
        (b"{}", "text/plain; charset=utf-8"),
        (b"a\x00b", "application/octet-stream"),
    ],
)
def test_guessed_content_type(body: bytes, kind: str) -> None:
    assert detect_content_type(body) == kind


# Responses


def test_response_absent_is_an_error() -> None:
    exchange = keyless(Resp=lambda m: m.ClearField("response")).request("GET", "/api/a")
    assert (status(exchange), header(exchange, "X-Ratelimit-Limit")) == (500, None)


def test_response_map_wins_over_multivalue() -> None:
    def edit(message: wire.Object) -> None:
        del message.response.headers["X-Gone"]
        message.response.headers.update({"Set-Cookie": "first", "x-new": "1"})

    upstream = CannedUpstream(200, [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("X-Gone", "1"), ("X-Up", "1")])
    exchange = keyless(upstream, Resp=edit).request("GET", "/api/a")
    assert exchange.http_response is not None
    headers = exchange.http_response.headers
    assert [value for name, value in headers if name == "Set-Cookie"] == ["first", "b"]
    assert header(exchange, "X-Gone") is None
    assert ("X-New", "1") in headers


def test_response_without_a_type_is_given_one() -> None:
    def edit(message: wire.Object) -> None:
        del message.response.headers["Content-Type"]
        message.response.raw_body = b"<html>"

    exchange = keyless(Resp=edit).request("GET", "/api/a")
    assert header(exchange, "Content-Type") == "text/html; charset=utf-8"
    assert header(exchange, "Content-Length") == "6"


def test_response_that_is_not_utf8() -> None:
    exchange = keyless(CannedUpstream(200, [("X-A", "\xff")])).request("GET", "/api/a")
    assert (status(exchange), named(exchange)) == (500, ["Pre1", "Pre2", "Post"])


def test_response_packed_by_gzip_of_the_gateways_own_asking() -> None:
    packed = CannedUpstream(
        200, [("Content-Encoding", "gzip"), ("Content-Type", "a/b")], gzip.compress(b"hello")
    )
    exchange = keyless(packed).request("GET", "/api/a")
    seen = sent(exchange, "Resp").response
    assert (seen.raw_body, dict(seen.headers)) == (b"hello", {"Content-Type": "a/b"})
    untouched = keyless(packed).request("GET", "/api/a", [("Accept-Encoding", "gzip")])
    assert sent(untouched, "Resp").response.headers["Content-Encoding"] == "gzip"
    broken = CannedUpstream(200, [("Content-Encoding", "gzip")], b"no gzip")
    assert status(keyless(broken).request("GET", "/api/a")) == 500


def test_response_in_chunks_stays_in_chunks() -> None:
    chunked = CannedUpstream(200, [("Transfer-Encoding", "chunked"), ("Connection", "close")], b"hello")
    exchange = Gateway(definition(), Plugin(), chunked).request("GET", "/api/a")
    assert (header(exchange, "Transfer-Encoding"), header(exchange, "Content-Length")) == ("chunked", None)
    assert header(exchange, "Connection") is None


# Upstreams


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{self.path} {self.headers['Host']} {body.decode()}".encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_url_upstream(service: str) -> None:
    exchange = keyless(UrlUpstream(f"{service}/base")).request("POST", "/api/a?q=1", body=b"in")
    assert (status(exchange), text(exchange)) == (201, "/base/a?q=1 upstream.test in")
    assert exchange.upstream_reply is not None
    assert exchange.upstream_reply.status == 201


def test_url_upstream_that_is_not_there(service: str) -> None:
    exchange = keyless(UrlUpstream("http://127.0.0.1:1")).request("GET", "/api/a")
    assert json.loads(text(exchange)) == {"error": "There was a problem proxying the request"}
    assert exchange.upstream_reply is None
    with pytest.raises(ConfigError, match="not an http URL"):
        UrlUpstream("ftp://x")


def test_wsgi_upstream() -> None:
    closed = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
        keys = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_X_A", "CONTENT_LENGTH", "SERVER_NAME")
        write = start_response("202 Accepted", [("X-W", "1")])
        write(b"> ")
        return Body([json.dumps([environ[key] for key in keys]).encode(), environ["wsgi.input"].read()])

    headers = [("X-A", "1"), ("X-A", "2")]
    exchange = keyless(WsgiUpstream(app)).request("POST", "/api/a%20b?q=1", headers, b"in")
    assert (status(exchange), header(exchange, "X-W"), closed) == (202, "1", [True])
    assert text(exchange) == '> ["POST", "/a b", "q=1", "1,2", "2", "upstream.test"]in'


async def asgi_app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    request = await receive()
    assert (await receive())["type"] == "http.disconnect"
    await send({"type": "http.response.start", "status": 203, "headers": [(b"x-s", b"1")]})
    await send({"type": "http.response.body", "body": scope["path"].encode() + b" ", "more_body": True})
    await send({"type": "http.response.body", "body": request["body"] + scope["query_string"]})


def test_asgi_upstream() -> None:
    exchange = keyless(AsgiUpstream(asgi_app)).request("POST", "/api/a%20b?q=1", body=b"in")
    assert (status(exchange), header(exchange, "X-S"), text(exchange)) == (203, "1", "/a b inq=1")


def test_asgi_upstream_within_a_running_loop() -> None:
    async def call() -> Exchange:
        return keyless(AsgiUpstream(asgi_app)).request("POST", "/api/a", body=b"in")

    assert status(asyncio.run(call())) == 203
