"""A stream, from its first message to its last: which handlers run, on what, and what goes back."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format

from coprocess import CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Reject, Response, respond
from coprocess.api.moments import HookType
from coprocess.errors import ConfigError
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.route import as_text
from coprocess.loading.hooks import HookTable
from coprocess.runtime.registration import GatewayOptions
from tests.envoy.drive import GET, OK, POST, Stream, check, check_request, edits, header_map
from tests.envoy.world import table_of

SILENT = b"\x0a\x00"


def metadata_of(reply: wire.ProcessingResponse) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json_format.MessageToDict(reply.dynamic_metadata)
    return found


def test_moments_run_in_order_and_share_state_and_metadata() -> None:
    ran: list[str] = []

    @Post
    def last(state: Any, metadata: Any) -> None:
        ran.append("post")
        state.post = metadata["from-pre"]

    @Pre
    def first(state: Any, metadata: Any) -> None:
        ran.append("pre")
        metadata["from-pre"] = "1"

    @CustomKeyCheck
    async def check_key(session: Any) -> None:
        ran.append("check")
        session.allow("token", alias="me", tags=["gold"], metadata={"plan": "big"})

    @PostKeyAuth
    def known(session: Any, metadata: Any) -> None:
        ran.append(f"known {session.alias} {metadata['plan']}")

    @Response
    def after(response: Any, state: Any, session: Any, request: Any) -> None:
        ran.append("response")
        response.headers["X-Post"] = state.post + session.alias + request.path

    stream = Stream(last, first, check_key, known, after)
    reply = stream.request()
    assert ran == ["pre", "check", "known me big", "post"]
    assert reply.request_headers == wire.HeadersResponse()
    assert metadata_of(reply) == {
        "coprocess": {"from-pre": "1"},
        "coprocess.session": {"token": "token", "alias": "me", "tags": ["gold"], "metadata": {"plan": "big"}},
    }
    assert not stream.exchange.is_done
    reply = stream.response()
    assert edits(reply.response_headers.response) == [("x-post", b"1me/a", False)]
    # What was told is not told again.
    assert metadata_of(reply) == {}
    assert stream.exchange.is_done


def test_without_response_handlers_the_stream_is_done_after_the_request() -> None:
    @Post
    def handler() -> None:
        pass

    stream = Stream(handler)
    assert stream.request(POST, end=False).SerializeToString() == SILENT
    assert stream.exchange.is_done


def test_the_request_is_as_it_came() -> None:
    seen: list[Any] = []

    @Pre
    def handler(request: Any) -> None:
        seen.append((request.method, request.path, dict(request.query), request.scheme, request.target))
        seen.append((request.headers["Host"], request.headers.getall("X-Many"), request.body))

    Stream(handler).request([*GET, ("x-many", "1"), ("x-many", "2")])
    assert seen == [("GET", "/a", {"b": "1"}, "http", "/a?b=1"), ("example.test", ["1", "2"], b"")]


@pytest.mark.parametrize("clears", [False, True])
def test_an_edited_path_chooses_the_route_anew_where_the_route_asks_for_it(*, clears: bool) -> None:
    @Post
    def handler(request: Any) -> None:
        request.path = "/b c"
        request.query["d"] = "ä"
        request.method = "PUT"

    says = {"x-coprocess-clear-route-cache": "true"} if clears else {}
    common = Stream(handler, says=says).request().request_headers.response
    assert edits(common) == [(":method", b"PUT", False), (":path", b"/b%20c?b=1&d=%C3%A4", False)]
    assert common.clear_route_cache is clears


def test_a_route_names_its_handlers_in_their_order() -> None:
    @Post
    def one(request: Any) -> None:
        request.headers["X-A"] = request.headers.get("X-A", "") + "1"

    @Post
    def two(request: Any) -> None:
        request.headers["X-A"] = request.headers.get("X-A", "") + "2"

    def says(names: str) -> bytes:
        common = Stream(one, two, says={"x-coprocess-post": names}).request().request_headers.response
        return edits(common)[0][1]

    assert [says("one,two"), says("two, one"), says("two")] == [b"12", b"21", b"2"]


def test_a_chain_of_the_settings_file() -> None:
    @Post
    def one(request: Any, spec: Any) -> None:
        request.headers["X-A"] = spec.api_id + spec.config["limit"]

    from coprocess.api.moments import HookType

    gateway = EnvoyGateway(
        table_of(one), GatewayOptions(chains=lambda: {"orders": {HookType.Post: ("one",)}})
    )
    gateway.table = gateway.table
    says = {
        "x-coprocess-chain": "orders",
        "x-coprocess-api-id": "api",
        "x-coprocess-config": "%7B%22limit%22%3A%20%229%22%7D",
    }
    common = Stream(gateway=gateway, says=says).request().request_headers.response
    assert edits(common) == [("x-a", b"api9", False)]
    refused = Stream(gateway=gateway, says={"x-coprocess-chain": "order"}).request().immediate_response
    assert "there are: orders" in refused.details


def test_metadata_that_is_not_ascii_is_read_as_it_was_written() -> None:
    """A chain of such a name, which the configuration prints, was not found."""
    assert as_text("ü") == as_text("ü".encode().decode("latin-1")) == "ü"
    assert as_text("a") == as_text(b"a") == "a"
    assert as_text("€") == "€"


@pytest.mark.parametrize(
    "says",
    [
        {"x-coprocess-post": "nobody"},
        {"x-coprocess-pots": "handler"},
        {"x-coprocess-chain": "none"},
        {"x-coprocess-post": ""},
        {"x-coprocess-config": "[1]"},
        {"x-coprocess-config": "%FF"},
        {"x-coprocess-clear-route-cache": "yes"},
        {"x-coprocess-post": "handler", "x-coprocess-chain": "none"},
    ],
)
def test_what_is_not_there_or_misspelt_closes(says: Mapping[str, str]) -> None:
    @Post
    def handler() -> None:
        pass

    answer = Stream(handler, says=says).request().immediate_response
    assert answer.status.code == 500
    assert answer.details
    extensions = check_request(extensions=says)
    assert check(handler, request=extensions).denied_response.status.code == 500


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ({HookType.Post: ("gone",)}, 'chains.a: expected a handler of Post, and "gone" is not loaded'),
        (
            {HookType.Response: ("one",)},
            'expected a handler of Response, and "one" is a handler of Post and Pre',
        ),
        ({}, "chains.a: names no handler"),
    ],
)
def test_chains_are_checked_when_handlers_are_loaded(
    chain: Mapping[HookType, tuple[str, ...]], said: str
) -> None:
    @Post(name="one")
    def first() -> None:
        pass

    @Pre(name="one")
    def second() -> None:
        pass

    gateway = EnvoyGateway(table_of(first), GatewayOptions(chains=lambda: {"a": chain}))
    with pytest.raises(ConfigError, match=re.escape(said)):
        gateway.check_table(table_of(first, second))


def test_chains_are_those_that_were_checked_whatever_the_file_says_since() -> None:
    @Post
    def one() -> None:
        pass

    found = iter([{"a": {HookType.Post: ("one",)}}, {}])
    gateway = EnvoyGateway(HookTable(), GatewayOptions(chains=lambda: next(found)))
    gateway.check_table(table_of(one))
    gateway.table = table_of(one)
    assert gateway.chain({"x-coprocess-chain": "a"}, "").before


def test_authentication_runs_before_a_body_is_asked_for() -> None:
    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        session.allow(request.headers["Authorization"])

    @Post
    def handler(request: Any) -> None:
        request.headers["X-Body"] = request.text

    assert Stream(check_key, handler).request(POST, end=False).immediate_response.status.code == 500
    stream = Stream(check_key, handler)
    reply = stream.request([*POST, ("authorization", "a")], end=False)
    assert reply.HasField("mode_override")
    (reply,) = stream.body(b"12345")
    assert edits(reply.request_body.response) == [("x-body", b"12345", False)]


def test_pre_cannot_say_who_calls() -> None:
    @Pre
    def forger(session: Any, metadata: Any) -> None:
        session.allow("forged")
        metadata["token"] = "forged"

    @CustomKeyCheck
    def nobody() -> None:
        pass

    assert Stream(forger, nobody).request().immediate_response.status.code == 403


def test_metadata_that_names_the_caller_as_drivers_do() -> None:
    @CustomKeyCheck
    def check_key(session: Any, metadata: Any) -> None:
        session.alias, metadata["token"] = "ann", "abc"

    @Post
    def handler(request: Any, session: Any) -> None:
        request.headers["X-Token"] = session.token

    common = Stream(check_key, handler).request().request_headers.response
    assert edits(common) == [("x-token", b"abc", False)]


def test_metadata_of_filters_before_this_one() -> None:
    @Pre
    def handler(request: Any, metadata: Any) -> None:
        request.headers["X-A"] = f"{metadata['jwt:sub']} {metadata['jwt:n']} {metadata['mine']}"
        assert "token" not in metadata

    context = wire.Metadata()
    context.filter_metadata["jwt"].update({"sub": "me", "n": 3})
    context.filter_metadata["coprocess"].update({"mine": "yes"})
    context.filter_metadata["coprocess.session"].update({"token": "forged"})
    reply = Stream(handler).request(metadata_context=context)
    assert edits(reply.request_headers.response) == [("x-a", b"me 3 yes", False)]
    assert metadata_of(reply) == {}


@pytest.mark.parametrize(
    ("promise", "status"),
    [
        ({"expires_at": 1}, 401),
        ({"expires_at": int(time.time()) + 100_000}, 0),
        ({"rate": 2, "per": 100}, 429),
        ({"quota_max": 2}, 403),
    ],
)
def test_what_allow_promises_is_kept(promise: Mapping[str, Any], status: int) -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token", **promise)

    told: list[str] = []

    @Event
    def tell(event: Any) -> None:
        told.append(event.type)

    gateway = EnvoyGateway(table_of(check_key, tell), GatewayOptions())
    answers = [Stream(gateway=gateway).request().immediate_response.status.code for _ in range(3)]
    assert answers[-1] == status
    if "expires_at" not in promise:
        assert answers[:2] == [0, 0]
        other = Stream(gateway=gateway, says={"x-coprocess-api-id": "another"})
        assert other.request().immediate_response.status.code == 0


def test_a_limit_that_cannot_be_kept_lets_nobody_pass() -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token", rate=100)

    gateway = EnvoyGateway(table_of(check_key), GatewayOptions(limits_store=lambda: "redis://127.0.0.1:1/0"))
    assert Stream(gateway=gateway).request().immediate_response.status.code == 500


def test_an_answer_ends_the_stream() -> None:
    @Pre
    def handler() -> Any:
        return respond(418, "tea", headers={"X-A": "1"})

    @Post
    def never() -> None:
        raise AssertionError

    stream = Stream(handler, never)
    answer = stream.request().immediate_response
    assert (answer.status.code, answer.body) == (418, b"tea")
    assert stream.exchange.is_done


def test_a_rejection_tells_its_reason_to_access_logs() -> None:
    @Pre
    def handler() -> None:
        raise Reject(403, "not you", headers={"X-Why": "because"})

    answer = Stream(handler).request().immediate_response
    assert answer.details == "not you"
    assert b'"error": "not you"' in answer.body
    assert [each.header.key for each in answer.headers.set_headers] == ["content-type", "x-why"]


def test_a_response_handler_that_answers_replaces_the_response() -> None:
    @Response
    def replace(response: Any) -> Any:
        return respond(200, b"mine", headers={"X-A": "1"})

    @Response
    def after(response: Any) -> None:
        response.headers["X-Body"] = response.text

    stream = Stream(replace, after)
    stream.request()
    stream.response()
    (reply,) = stream.response_body(b"theirs")
    answer = reply.immediate_response
    assert (answer.status.code, answer.body) == (200, b"mine")
    assert {each.header.key for each in answer.headers.set_headers} == {"x-a", "x-body"}


def test_a_stream_of_events_is_not_waited_for() -> None:
    @Response
    def handler(response: Any) -> None:
        response.headers["X-A"] = "1"
        if response.headers["Content-Type"] == "text/plain":
            response.body = response.body + b"!"

    stream = Stream(handler)
    stream.request()
    events = [(":status", "200"), ("content-type", "text/event-stream")]
    assert edits(stream.response(events).response_headers.response) == [("x-a", b"1", False)]


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "204"), ("GET", "304")])
def test_a_response_without_body_gets_none(method: str, status: str) -> None:
    @Response
    def handler(response: Any) -> None:
        response.headers["X-A"] = "1"
        response.body = response.body + b"!"

    stream = Stream(handler)
    stream.request([(name, method if name == ":method" else value) for name, value in GET])
    common = stream.response([(":status", status)], end=method != "HEAD").response_headers.response
    assert edits(common) == [("x-a", b"1", False)]
    assert not common.HasField("body_mutation")


def test_bodies_that_are_too_large_are_refused_before_they_come() -> None:
    @Post
    def handler(request: Any) -> None:
        request.headers["X-A"] = request.text

    stream = Stream(handler, max_body_bytes=4)
    assert stream.request(POST, end=False).immediate_response.status.code == 413
    stream = Stream(handler, max_body_bytes=4)
    stream.request([pair for pair in POST if pair[0] != "content-length"], end=False)
    assert stream.body(b"12345")[0].immediate_response.status.code == 413


def test_full_duplex_gathers_the_body_and_answers_in_pieces() -> None:
    @Post
    def handler(request: Any) -> None:
        request.body = request.body.upper()

    @Response
    def after(response: Any) -> None:
        response.headers["X-A"] = "1"

    mode = wire.ProcessingMode.FULL_DUPLEX_STREAMED
    stream = Stream(handler, after, request_mode=mode, response_mode=mode)
    headers = wire.HttpHeaders(headers=header_map(POST))
    assert stream.send(wire.ProcessingRequest(request_headers=headers)) == []
    assert stream.body(b"on", end=False) == []
    first, second = stream.body(b"e", end=True)
    assert first.WhichOneof("response") == "request_headers"
    piece = second.request_body.response.body_mutation.streamed_response
    assert (piece.body, piece.end_of_stream) == (b"ONE", True)
    assert edits(stream.response(OK).response_headers.response) == [("x-a", b"1", False)]
    (reply,) = stream.response_body(b"abc", end=False)
    assert reply.response_body.response.body_mutation.streamed_response.body == b"abc"


def test_a_stream_that_begins_with_a_response_has_an_empty_request() -> None:
    @Pre
    def never() -> None:
        raise AssertionError

    @Response
    def handler(response: Any, request: Any) -> None:
        response.headers["X-A"] = f"{request.method}{request.path}{dict(request.headers)}"

    stream = Stream(never, handler)
    assert edits(stream.response().response_headers.response) == [("x-a", b"{}", False)]


def test_one_edit_in_full_duplex_leaves_the_pieces_of_the_body_their_replies() -> None:
    """Once, the stream ended after the headers, and with it the bodies that Envoy had sent."""

    @Pre
    def before(request: Any) -> None:
        request.headers["X-One"] = "1"

    @Response
    def after(response: Any) -> None:
        response.headers["X-Two"] = "2"

    mode = wire.ProcessingMode.FULL_DUPLEX_STREAMED
    for handlers in ([before, after], [before]):
        stream = Stream(*handlers, request_mode=mode, response_mode=mode)
        assert edits(stream.request(POST, end=False).request_headers.response) == [("x-one", b"1", False)]
        assert not stream.exchange.is_done
        (piece,) = stream.body(b"hello", end=True)
        assert piece.request_body.response.body_mutation.streamed_response.body == b"hello"
    stream = Stream(before, after, request_mode=mode, response_mode=mode)
    stream.request(GET)
    assert edits(stream.response(OK).response_headers.response) == [("x-two", b"2", False)]
    assert not stream.exchange.is_done
    (piece,) = stream.response_body(b"hello", end=True)
    assert piece.response_body.response.body_mutation.streamed_response.body == b"hello"


def test_checks_of_ext_authz_tell_who_calls() -> None:
    @Pre
    def never() -> None:
        raise AssertionError

    @CustomKeyCheck
    def check_key(request: Any, session: Any, metadata: Any, spec: Any) -> None:
        metadata["api"] = spec.api_id
        session.allow(request.headers["Host"], alias="me")

    request = check_request(extensions={"x-coprocess-api-id": "orders"})
    reply = check(never, check_key, request=request)
    told = json_format.MessageToDict(reply.dynamic_metadata)
    assert told["coprocess.session"]["alias"] == "me"
    assert told["coprocess"] == {"api": "orders"}
    named = check_request(extensions={"x-coprocess-pre": "never", "x-coprocess-auth-check": "check_key"})
    assert "CustomKeyCheck only" in check(never, check_key, request=named).status.message


def test_a_check_without_raw_headers_has_the_map() -> None:
    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        session.allow(request.headers["Authorization"] + request.headers["Host"] + request.path)

    request = wire.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", "/a?b=1", "example.test"
    http.headers.update({"authorization": "k", ":path": "/a"})
    told = json_format.MessageToDict(check(check_key, request=request).dynamic_metadata)
    assert told["coprocess.session"]["token"] == "kexample.test/a"


def test_a_body_that_may_never_end_is_known_by_what_came_and_not_by_what_a_handler_edits() -> None:
    @Post
    def disguise(request: Any) -> None:
        request.headers["Content-Type"] = "text/plain"
        request.body = b"mine"

    pairs = [*GET[:2], (":method", "POST"), (":scheme", "http"), ("content-type", "application/grpc")]
    reply = Stream(disguise).request(pairs, end=False)
    assert reply.immediate_response.status.code == 500
