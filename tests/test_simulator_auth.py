"""Who calls, trap by trap: sessions, their limits, ID extractors, and the events of refusals."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from coprocess.desk.tyk.simulator import Gateway, GatewayState, RpcError
from coprocess.gateways.tyk import wire
from tests.simulator import (
    KEYLESS,
    NOW,
    OK,
    PROTECTED,
    Clock,
    Plugin,
    accept,
    definition,
    header,
    heard,
    hook,
    keyless,
    named,
    overrides,
    protected,
    sent,
    status,
    text,
)

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
