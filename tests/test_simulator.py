"""What the gateway does around hooks, trap by trap; the names are those of its behaviours."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coprocess.errors import ConfigError
from coprocess.tyk import wire
from coprocess.tyk.simulator import (
    ApiDefinition,
    AsgiUpstream,
    CannedUpstream,
    Exchange,
    Gateway,
    GatewayState,
    RpcError,
    Upstream,
    UrlUpstream,
    WsgiUpstream,
)
from coprocess.tyk.simulator.gojson import go_json
from coprocess.tyk.simulator.sniff import detect_content_type
from coprocess.tyk.simulator.url import BadUrl, parse_request_uri

Edit = Callable[[wire.Object], None]
NOW = 1_800_000_000.25
CALLER = "tok"
EVENTS = ("AuthFailure", "KeyExpired", "QuotaExceeded", "RatelimitExceeded")


class Plugin:
    """A plugin server whose hooks edit the Object in place."""

    def __init__(self, **hooks: Edit) -> None:
        self.hooks = hooks
        self.events: list[str] = []

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        message = wire.Object.FromString(serialized_object)
        edit = self.hooks.get(message.hook_name)
        if edit:
            edit(message)
        return message.SerializeToString()

    def dispatch_event(self, payload_json: str, /) -> None:
        self.events.append(payload_json)


def definition(**changes: Any) -> ApiDefinition:
    hooks = {"driver": "grpc"} | changes.pop("hooks", {})
    return ApiDefinition.parse(
        {
            "name": "api",
            "api_id": "api",
            "org_id": "org",
            "use_keyless": not hooks.get("auth_check"),
            "custom_plugin_auth_enabled": bool(hooks.get("auth_check")),
            "custom_middleware": hooks,
            "proxy": {
                "listen_path": "/api/",
                "target_url": "http://upstream.test/",
                "strip_listen_path": True,
            },
            "event_handlers": {
                "events": {
                    name: [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "heard"}}]
                    for name in EVENTS
                }
            },
        }
        | changes
    )


def hook(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


KEYLESS = {"pre": [hook("Pre1"), hook("Pre2")], "post": [hook("Post")], "response": [hook("Resp")]}
PROTECTED = {
    "auth_check": hook("Auth"),
    "post_key_auth": [hook("PostKeyAuth")],
    "post": [hook("Post")],
    "response": [hook("Resp")],
}
OK = CannedUpstream(200, [("Content-Type", "text/plain")], b"fine")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def keyless(upstream: Upstream = OK, *, api: dict[str, Any] | None = None, **hooks: Edit) -> Gateway:
    return Gateway(definition(hooks=KEYLESS, **api or {}), Plugin(**hooks), upstream, clock=Clock())


def accept(**fields: Any) -> Edit:
    def auth(message: wire.Object) -> None:
        message.session.MergeFrom(wire.SessionState(**fields))
        message.metadata["token"] = CALLER

    return auth


def protected(
    auth: Edit, *, extractor: dict[str, Any] | None = None, api: dict[str, Any] | None = None, **hooks: Edit
) -> Gateway:
    middleware = PROTECTED | ({"id_extractor": extractor} if extractor else {})
    return Gateway(definition(hooks=middleware, **api or {}), Plugin(Auth=auth, **hooks), OK, clock=Clock())


def named(exchange: Exchange) -> list[str]:
    return [call.hook_name for call in exchange.hooks]


def status(exchange: Exchange) -> int:
    assert exchange.http_response is not None, exchange.dropped
    return exchange.http_response.status


def text(exchange: Exchange) -> str:
    assert exchange.http_response is not None, exchange.dropped
    return exchange.http_response.body.decode()


def header(exchange: Exchange, name: str) -> str | None:
    assert exchange.http_response is not None, exchange.dropped
    return exchange.http_response.header(name)


def upstream_header(exchange: Exchange, name: str) -> list[str]:
    assert exchange.upstream_request is not None
    return [value for key, value in exchange.upstream_request.headers if key == name]


def upstream_url(exchange: Exchange) -> str:
    assert exchange.upstream_request is not None
    return exchange.upstream_request.url


def sent(exchange: Exchange, name: str) -> wire.Object:
    return next(call.object for call in exchange.hooks if call.hook_name == name)


def heard(exchange: Exchange) -> list[tuple[str, str]]:
    return [(event["message"]["Type"], event["message"]["Meta"]["Key"]) for event in exchange.events]


def fail(message: wire.Object) -> None:
    raise RpcError("INTERNAL", "boom")


def overrides(code: int, text: str = "", **more: Any) -> Edit:
    def edit(message: wire.Object) -> None:
        message.request.return_overrides.CopyFrom(
            wire.ReturnOverrides(response_code=code, response_body=text, **more)
        )

    return edit


# Definitions


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "the document"),
        ({}, "api_id"),
        ({"api_id": 3}, "api_id"),
        ({"api_id": "a"}, "proxy.listen_path"),
        ({"api_id": "a", "proxy": []}, "proxy"),
        ({"api_id": "a", "proxy": {"listen_path": "/a/", "target_url": "/b"}}, "proxy.target_url"),
        ({"api_id": "a", "proxy": {"listen_path": "/a/", "target_url": "ftp://b/"}}, "proxy.target_url"),
        ({"x-tyk-api-gateway": {"info": {"id": 1}}}, "x-tyk-api-gateway.info.id"),
    ],
)
def test_bad_definition_names_the_place(document: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=f"^my.json: {place}: "):
        ApiDefinition.parse(document, source="my.json")


@pytest.mark.parametrize(
    ("hooks", "place"),
    [
        ({"pre": [{"name": "a"}, {"name": 7}]}, r"custom_middleware.pre\[1\].name"),
        ({"pre": {"name": "a"}}, "custom_middleware.pre"),
        ({"pre": [{"name": "a", "raw_body_only": "yes"}]}, r"custom_middleware.pre\[0\].raw_body_only"),
        ({"pre": [{"name": "a"}], "driver": "lua"}, "custom_middleware.driver"),
        (
            {
                "auth_check": {"name": "a"},
                "id_extractor": {"extract_from": "cookie", "extract_with": "value"},
            },
            "custom_middleware.id_extractor.extract_from",
        ),
        (
            {"auth_check": {"name": "a"}, "id_extractor": {"extract_from": "body", "extract_with": "css"}},
            "custom_middleware.id_extractor.extract_with",
        ),
        (
            {
                "auth_check": {"name": "a"},
                "id_extractor": {
                    "extract_from": "body",
                    "extract_with": "regex",
                    "extractor_config": {"regex_match_index": True},
                },
            },
            "extractor_config.regex_match_index",
        ),
    ],
)
def test_bad_hook_names_the_place(hooks: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        definition(hooks=hooks)


def test_definition_file_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "api.json"
    path.write_text("{\n,}")
    with pytest.raises(ConfigError, match=r"api\.json: line 2: not JSON"):
        ApiDefinition.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiDefinition.load(tmp_path / "none.json")


def test_disabled_hooks_are_not_called() -> None:
    parsed = definition(hooks={"pre": [hook("A", disabled=True), hook("B")]})
    assert [one.name for one in parsed.pre] == ["B"]


def test_driver_python_is_simulated() -> None:
    assert definition(hooks={"pre": [hook("A")], "driver": "python"}).pre


def test_oas_with_older_plugin_groups() -> None:
    parsed = ApiDefinition.parse(
        {
            "x-tyk-api-gateway": {
                "info": {"id": "a", "orgId": "o"},
                "upstream": {"url": "http://up.test"},
                "server": {"listenPath": {"value": "/a/"}},
                "middleware": {
                    "global": {
                        "pluginConfig": {"driver": "grpc", "bundle": {"enabled": True, "path": "b.zip"}},
                        "prePlugin": {"plugins": [{"enabled": True, "functionName": "A"}]},
                    }
                },
            }
        }
    )
    assert [one.name for one in parsed.pre] == ["A"]
    assert parsed.keyless
    assert parsed.bundle == "b.zip"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, "x"]}, '{"a":[true,null,"x"],"b":1}'),
        ({"é": 1, "z": 2}, '{"z":2,"é":1}'),
        ("<a href='x'>&\u2028", "\"\\u003ca href='x'\\u003e\\u0026\\u2028\""),
        (3.0, "3"),
        (0.5, "0.5"),
        (-0.0, "-0"),
        (100, "100"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e-7, "1.5e-7"),
        (0.000001, "0.000001"),
        (12345678901234567890, "12345678901234567000"),
    ],
)
def test_config_data_is_in_gos_spelling(value: Any, expected: str) -> None:
    assert go_json(value) == expected


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


# Who calls


def test_auth_without_token_is_forbidden() -> None:
    for auth in (lambda _: None, lambda m: m.session.SetInParent()):
        exchange = protected(auth).request("GET", "/api/a", [("Authorization", "cred")])
        assert (status(exchange), json.loads(text(exchange))) == (403, {"error": "Forbidden"})
        assert heard(exchange) == [("AuthFailure", "cred")]


def test_auth_metadata_is_merged_into_the_session() -> None:
    def auth(message: wire.Object) -> None:
        message.session.metadata.update({"kept": "1", "both": "session"})
        message.metadata.update({"token": "tok", "both": "metadata"})

    post = sent(protected(auth).request("GET", "/api/a"), "Post")
    merged = {"kept": "1", "both": "metadata", "token": "tok"}
    assert dict(post.session.metadata) == dict(post.metadata) == merged


def test_auth_org_id_and_key_id_are_overwritten() -> None:
    gateway = protected(
        accept(org_id="mine", key_id="mine", alias="kept", certificate="c", max_query_depth=3)
    )
    session = sent(gateway.request("GET", "/api/a"), "Post").session
    assert (session.org_id, session.key_id, session.alias) == ("org", "tok", "kept")
    assert session.HasField("monitor")
    assert (session.certificate, session.max_query_depth) == ("", 0)


def test_auth_reply_is_kept_as_the_plugin_sent_it() -> None:
    exchange = protected(accept()).request("GET", "/api/a")
    assert exchange.hooks[0].reply is not None
    assert dict(exchange.hooks[0].reply.session.metadata) == {}


def test_auth_session_with_policies_that_are_nowhere() -> None:
    exchange = protected(accept(apply_policies=["gold"])).request(
        "GET", "/api/a", [("Authorization", "cred")]
    )
    assert (status(exchange), heard(exchange)) == (403, [("AuthFailure", "cred")])


def test_auth_session_with_rights_to_another_api() -> None:
    rights = {"other": wire.AccessDefinition(api_id="other")}
    exchange = protected(accept(access_rights=rights)).request("GET", "/api/a")
    assert json.loads(text(exchange)) == {"error": "Access to this API has been disallowed"}
    assert named(exchange) == ["Auth", "PostKeyAuth"]


def test_auth_allowed_urls_are_padded() -> None:
    spec = wire.AccessSpec(url="/a", methods=["GET"])
    rights = {"api": wire.AccessDefinition(api_id="api", allowed_urls=[spec])}
    exchange = protected(accept(access_rights=rights)).request("GET", "/api/a")
    got = sent(exchange, "Post").session.access_rights["api"].allowed_urls
    assert list(got) == [wire.AccessSpec(), spec]


def test_is_inactive() -> None:
    exchange = protected(accept(is_inactive=True, expires=1)).request("GET", "/api/a")
    assert (status(exchange), heard(exchange)) == (403, [("KeyExpired", "tok")])
    assert json.loads(text(exchange)) == {"error": "Key is inactive, please renew"}
    assert exchange.events[0]["message"]["Meta"]["Message"] == "Attempted access from inactive key."


@pytest.mark.parametrize(("expires", "code"), [(0, 200), (-1, 200), (int(NOW), 401), (int(NOW) + 1, 200)])
def test_expires(expires: int, code: int) -> None:
    assert status(protected(accept(expires=expires)).request("GET", "/api/a")) == code


def test_rate_limit_window() -> None:
    gateway = protected(accept(rate=2, per=10))
    clock = gateway.clock
    assert isinstance(clock, Clock)
    assert [status(gateway.request("GET", "/api/a")) for _ in range(3)] == [200, 200, 429]
    clock.now += 9
    limited = gateway.request("GET", "/api/a")
    assert (status(limited), heard(limited)) == (429, [("RatelimitExceeded", "tok")])
    clock.now += 2
    assert status(gateway.request("GET", "/api/a")) == 200


def test_rate_limit_starts_anew_with_last_updated() -> None:
    updates = iter("1122")
    gateway = protected(lambda m: accept(rate=1, per=60, last_updated=next(updates))(m))
    assert [status(gateway.request("GET", "/api/a")) for _ in range(4)] == [200, 429, 200, 429]


def test_rate_limit_disabled() -> None:
    gateway = protected(accept(rate=1, per=60), api={"disable_rate_limit": True})
    assert [status(gateway.request("GET", "/api/a")) for _ in range(2)] == [200, 200]


def test_quota_exceeded() -> None:
    gateway = protected(accept(quota_max=1, quota_renewal_rate=60, quota_remaining=1))
    clock = gateway.clock
    assert isinstance(clock, Clock)
    first = gateway.request("GET", "/api/a")
    renews = int(NOW) + 60
    assert sent(first, "PostKeyAuth").session.quota_remaining == 1
    assert sent(first, "Post").session.quota_remaining == 0
    assert sent(first, "Post").session.quota_renews == renews
    limits = [header(first, f"X-Ratelimit-{name}") for name in ("Limit", "Remaining", "Reset")]
    assert limits == ["1", "0", str(renews)]
    second = gateway.request("GET", "/api/a")
    assert (status(second), heard(second)) == (403, [("QuotaExceeded", "tok")])
    assert json.loads(text(second)) == {"error": "Quota exceeded"}
    assert sent(second, "PostKeyAuth").session.quota_renews == renews
    assert sent(second, "PostKeyAuth").session.quota_remaining == 0
    clock.now += 61
    assert status(gateway.request("GET", "/api/a")) == 200


def test_quota_that_never_renews() -> None:
    gateway = protected(accept(quota_max=1))
    clock = gateway.clock
    assert isinstance(clock, Clock)
    assert status(gateway.request("GET", "/api/a")) == 200
    clock.now += 1e9
    assert status(gateway.request("GET", "/api/a")) == 403


def test_state_is_shared_between_gateways() -> None:
    state = GatewayState()
    plugin = Plugin(Auth=accept(rate=1, per=60))
    gateways = [
        Gateway(definition(hooks=PROTECTED), plugin, OK, clock=Clock(), state=state) for _ in range(2)
    ]
    assert [status(gateway.request("GET", "/api/a")) for gateway in gateways] == [200, 429]


def test_api_that_relies_on_the_gateways_own_keys() -> None:
    gateway = Gateway(definition(use_keyless=False), Plugin(), OK)
    assert status(gateway.request("GET", "/api/a")) == 401
    assert status(gateway.request("GET", "/api/a", [("Authorization", "x")])) == 403
    disabled = definition(hooks={"auth_check": hook("Auth", disabled=True)})
    exchange = Gateway(disabled, Plugin(), OK).request("GET", "/api/a")
    assert status(exchange) == 400
    assert json.loads(text(exchange))["error"].startswith("Session state is missing or unset!")


# ID extractors


def extract(source: str, way: str, **config: Any) -> dict[str, Any]:
    return {"extract_from": source, "extract_with": way, "extractor_config": config}


def extracted(
    extractor: dict[str, Any],
    headers: list[tuple[str, str]] | None = None,
    body: bytes = b"",
    target: str = "/api/a",
) -> str | int:
    """The key of the session, or the status of the refusal."""
    gateway = protected(accept(), extractor=extractor)
    exchange = gateway.request("POST", target, headers or [], body)
    return sent(exchange, "Post").session.key_id if status(exchange) == 200 else status(exchange)


FORM = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")]


def key(value: str) -> str:
    return "org" + hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()


XML = b"<a><b n='1'>x</b><key>k<i>9</i></key><key id='7'>other</key></a>"


@pytest.mark.parametrize(
    ("extractor", "headers", "body", "target", "expected"),
    [
        (extract("header", "value", header_name="x-id"), [("X-Id", "k")], b"", "/api/a", "k"),
        (extract("form", "value", param_name="p"), FORM, b"p=k&p=2", "/api/a?p=q", "k2q"),
        (extract("form", "value", param_name="p"), [], b"p=k", "/api/a?p=q", "q"),
        (extract("form", "value", param_name="p"), FORM, b"q=k", "/api/a", None),
        (extract("form", "value"), FORM, b"=k", "/api/a", None),
        (extract("body", "regex", regex_expression="[a-z]+"), [], b"1ab2cd", "/api/a", "ab"),
        (
            extract("body", "regex", regex_expression="[a-z]+", regex_match_index=1),
            [],
            b"1ab2cd",
            "/api/a",
            "cd",
        ),
        (extract("body", "regex", regex_expression="(ab)(2)"), [], b"1ab2cd", "/api/a", "ab2"),
        (extract("body", "regex", regex_expression="z"), [], b"1ab2cd", "/api/a", None),
        (extract("body", "regex", regex_expression="("), [], b"1ab2cd", "/api/a", None),
        (extract("body", "regex"), [], b"1ab2cd", "/api/a", None),
        (extract("body", "xpath", xpath_expression="//key"), [], XML, "/api/a", "k9"),
        (extract("body", "xpath", xpath_expression="/a/key"), [], XML, "/api/a", "k9"),
        (extract("body", "xpath", xpath_expression="//key[2]"), [], XML, "/api/a", "other"),
        (extract("body", "xpath", xpath_expression="//key/text()"), [], XML, "/api/a", "k"),
        (extract("body", "xpath", xpath_expression="//key/@id"), [], XML, "/api/a", "7"),
        (extract("body", "xpath", xpath_expression="//none"), [], XML, "/api/a", None),
        (extract("body", "xpath", xpath_expression="key"), [], XML, "/api/a", None),
        (extract("body", "xpath", xpath_expression="//key["), [], XML, "/api/a", None),
        (extract("body", "xpath", xpath_expression="//key"), [], b"<a>", "/api/a", None),
    ],
)
def test_id_extractor(
    extractor: dict[str, Any], headers: list[tuple[str, str]], body: bytes, target: str, expected: str | None
) -> None:
    assert extracted(extractor, headers, body, target) == (400 if expected is None else key(expected))


def test_id_extractor_body_value_shares_one_session() -> None:
    gateway = protected(accept(id_extractor_deadline=int(NOW) + 60), extractor=extract("body", "value"))
    first, second = (gateway.request("POST", "/api/a", body=body) for body in (b"alice", b"bob"))
    assert named(first)[0] == "Auth"
    assert named(second)[0] == "PostKeyAuth"
    assert sent(second, "Post").session.key_id == key("")


def test_id_extractor_deadline() -> None:
    gateway = protected(
        accept(id_extractor_deadline=int(NOW) + 5), extractor=extract("header", "value", header_name="X-Id")
    )
    clock = gateway.clock
    assert isinstance(clock, Clock)
    request = ("GET", "/api/a", [("X-Id", "k")])
    assert "Auth" in named(gateway.request(*request))
    clock.now += 4
    assert "Auth" not in named(gateway.request(*request))
    clock.now += 1
    assert "Auth" in named(gateway.request(*request))


def test_id_extractor_disabled() -> None:
    extractor = extract("header", "value", header_name="X-Id") | {"disabled": True}
    exchange = protected(accept(), extractor=extractor).request("GET", "/api/a")
    assert sent(exchange, "Post").session.key_id == "tok"


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


# Events


def test_event_payload() -> None:
    gateway = keyless(Pre1=overrides(401))
    exchange = gateway.request(
        "POST",
        "/api/a%20b?x=1",
        [("X-Real-Ip", "1.2.3.4"), ("b", "2"), ("A", "1"), ("User-Agent", "mine")],
        b"body",
    )
    plugin = gateway.dispatcher
    assert isinstance(plugin, Plugin)
    assert [json.loads(event) for event in plugin.events] == exchange.events
    (event,) = exchange.events
    raw = base64.b64decode(event["message"]["Meta"].pop("OriginatingRequest"))
    assert raw == (
        b"POST /api/a%20b?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nUser-Agent: mine\r\n"
        b"Content-Length: 4\r\nA: 1\r\nB: 2\r\nX-Real-Ip: 1.2.3.4\r\n\r\nbody"
    )
    assert event == {
        "message": {
            "Type": "AuthFailure",
            "Meta": {"Message": "Auth Failure", "Path": "/api/a b", "Origin": "1.2.3.4", "Key": ""},
            "TimeStamp": "2027-01-15 08:00:00.25 +0000 UTC",
        },
        "handler_name": "heard",
        "spec": {"APIID": "api", "OrgID": "org"},
    }


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ([("X-Forwarded-For", "5.5.5.5, 6.6.6.6")], "5.5.5.5"),
        ([("X-Real-Ip", "nobody")], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_event_origin(headers: list[tuple[str, str]], origin: str) -> None:
    exchange = keyless(Pre1=overrides(401)).request("GET", "/api/a", headers)
    assert exchange.events[0]["message"]["Meta"]["Origin"] == origin


def test_event_shows_the_request_as_hooks_left_it() -> None:
    def edit(message: wire.Object) -> None:
        message.request.set_headers["X-Set"] = "1"
        message.request.url = "/api/new"
        overrides(401)(message)

    (event,) = keyless(Pre1=edit).request("GET", "/api/a").events
    assert event["message"]["Meta"]["Path"] == "/api/new"
    assert b"X-Set: 1" in base64.b64decode(event["message"]["Meta"]["OriginatingRequest"])


def test_event_that_nobody_listens_to() -> None:
    assert keyless(api={"event_handlers": {}}, Pre1=overrides(401)).request("GET", "/api/a").events == []


class Deaf(Plugin):
    def dispatch_event(self, payload_json: str, /) -> None:
        raise RpcError("NOT_FOUND")


def test_event_that_fails_changes_nothing() -> None:
    gateway = Gateway(definition(hooks=KEYLESS), Deaf(Pre1=overrides(401)), OK)
    exchange = gateway.request("GET", "/api/a")
    assert (status(exchange), len(exchange.events)) == (401, 1)


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
