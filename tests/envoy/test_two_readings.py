"""What handlers saw, or wrote, and another side read otherwise. Each was seen with a real Envoy."""

from __future__ import annotations

from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, Pre, Reject, Response, respond
from coprocess.gateways.envoy import guard, wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.pieces import Pieces
from coprocess.gateways.envoy.side import BUFFERED, RequestSide
from coprocess.runtime.registration import GatewayOptions
from tests.envoy.drive import (
    GET,
    POST,
    Pairs,
    Stream,
    check,
    check_request,
    edits,
    header_map,
    text_check_request,
)
from tests.envoy.served_stream import ServedStream
from tests.envoy.world import table_of

Message = wire.ProcessingRequest
RESET: Pairs = [(":status", "205"), ("content-length", "6")]


def send(served: ServedStream, message: Message) -> wire.ProcessingResponse:
    (reply,) = served.send(message.SerializeToString())
    return wire.ProcessingResponse.FromString(reply)


def asked(pairs: Pairs) -> Message:
    return Message(request_headers=wire.HttpHeaders(headers=header_map(pairs), end_of_stream=True))


def answered(pairs: Pairs, *, end: bool = False) -> Message:
    return Message(response_headers=wire.HttpHeaders(headers=header_map(pairs), end_of_stream=end))


def test_the_body_of_a_205_does_not_pass_by_who_reads_bodies() -> None:
    """Envoy takes one behind 205, which has none by HTTP: handlers saw it empty, and the client got it."""
    seen: list[bytes] = []

    @Response
    def reads(response: Any) -> None:
        seen.append(response.raw_body)
        if b"secret" in response.raw_body:
            raise Reject(502, "withheld")

    stream = Stream(reads)
    stream.request()
    assert stream.response(RESET).mode_override.response_body_mode == wire.ProcessingMode.BUFFERED
    (reply,) = stream.response_body(b"secret")
    assert seen[0] == b"secret"
    assert reply.immediate_response.status.code == 502
    # What a handler is content with is no body of a 205, either.
    stream = Stream(reads)
    stream.request()
    stream.response(RESET)
    (reply,) = stream.response_body(b"public")
    assert reply.response_body.response.body_mutation.clear_body


def test_the_body_of_a_205_does_not_pass_by_who_wants_headers() -> None:
    @Response
    def stamps(response: Any) -> None:
        response.headers["X-Seen"] = "1"

    served = ServedStream(EnvoyGateway(table_of(stamps), GatewayOptions()))
    send(served, asked(GET))
    common = send(served, answered(RESET)).response_headers.response
    assert common.status == wire.CommonResponse.CONTINUE_AND_REPLACE
    assert common.body_mutation.clear_body
    # Of one that has none, nothing is taken.
    served = ServedStream(EnvoyGateway(table_of(stamps), GatewayOptions()))
    send(served, asked(GET))
    common = send(served, answered([(":status", "205")], end=True)).response_headers.response
    assert edits(common) == [("x-seen", b"1", False)]
    assert common.status == wire.CommonResponse.CONTINUE


def test_the_body_of_a_205_does_not_pass_by_who_has_it_in_pieces() -> None:
    @Response
    def pieces(response: Any) -> None:
        for _ in response.stream():
            pass

    served = ServedStream(EnvoyGateway(table_of(pieces), GatewayOptions()))
    send(served, asked(GET))
    assert send(served, answered(RESET)).immediate_response.status.code == 500


def test_a_205_that_is_made_a_200_keeps_its_body() -> None:
    @Response
    def well(response: Any) -> None:
        response.status = 200

    stream = Stream(well)
    stream.request()
    common = stream.response(RESET).response_headers.response
    assert edits(common) == [(":status", b"200", False)]
    assert not common.body_mutation.clear_body


@pytest.mark.parametrize("value", [b" admin", b"admin \t", b"\tadmin "])
def test_blanks_around_a_value_hide_it_from_no_handler(value: bytes) -> None:
    """Over HTTP/2 they come through Envoy, and an upstream of HTTP/1 gets the value without them."""
    seen: list[str] = []

    @CustomKeyCheck
    def auth(request: Any, session: Any) -> None:
        seen.append(request.headers["X-Role"])
        seen.extend(request.headers.getall("X-Role"))
        session.allow("t")

    pairs = [*GET, ("x-role", value)]
    Stream(auth).request(pairs)
    check(auth, request=check_request(pairs))
    as_text = [(":method", "GET"), (":path", "/a"), ("x-role", value.decode())]
    check(auth, request=text_check_request(as_text))
    assert seen == ["admin"] * 6


def test_blanks_around_a_content_type_do_not_hide_a_grpc_call() -> None:
    @Post
    def reads(request: Any) -> None:
        assert request.raw_body

    reply = Stream(reads).request([*POST, ("content-type", " application/grpc")], end=False)
    assert reply.immediate_response.status.code == 500


CONNECT: Pairs = [(":authority", "a:1"), (":method", "CONNECT")]
UPGRADE: Pairs = [*GET, ("upgrade", "websocket")]


@pytest.mark.parametrize("pairs", [CONNECT, UPGRADE])
@pytest.mark.parametrize(("status", "sent"), [(200, 500), (204, 500), (299, 500), (302, 302), (403, 403)])
def test_an_answer_opens_no_tunnel(pairs: Pairs, status: int, sent: int) -> None:
    """To the client, 2xx says that CONNECT is done; so it does for an upgrade that came over HTTP/2."""

    @Pre(name="answers")
    def answers() -> Any:
        return respond(status, "GET / HTTP/1.1")

    @CustomKeyCheck(name="answers")
    def auth() -> Any:
        return respond(status, "GET / HTTP/1.1")

    @Response(name="answers")
    def replaces() -> Any:
        return respond(status, "GET / HTTP/1.1")

    served = ServedStream(EnvoyGateway(table_of(answers), GatewayOptions()))
    assert send(served, asked(pairs)).immediate_response.status.code == sent
    served = ServedStream(EnvoyGateway(table_of(replaces), GatewayOptions()))
    send(served, asked(pairs))
    assert send(served, answered([(":status", "403")])).immediate_response.status.code == sent
    assert check(auth, request=check_request(pairs)).denied_response.status.code == sent
    assert check(auth, request=text_check_request(pairs)).denied_response.status.code == sent


@pytest.mark.parametrize("body", [None, b"new"])
def test_a_304_that_is_made_a_205_announces_no_body(body: bytes | None) -> None:
    """To the client, the next response was the body of the length that came."""

    @Response
    def resets(response: Any) -> None:
        response.status = 205
        if body is not None:
            response.body = body

    stream = Stream(resets)
    stream.request()
    came: Pairs = [(":status", "304"), ("content-length", "6")]
    common = stream.response(came, end=True).response_headers.response
    assert ("content-length", b"0", False) in edits(common)
    assert not common.body_mutation.body


def test_a_length_that_the_filter_hides_is_not_left_with_a_body_that_is_replaced() -> None:
    side = RequestSide(BUFFERED)
    side.stream = Pieces(side, None, list, replace=True, wait_s=1.0)  # type: ignore[arg-type]  # nothing is sent
    common = wire.CommonResponse.FromString(side.headers_of_pieces(guard.Edits()))
    assert list(common.header_mutation.remove_headers) == ["content-length"]


def test_a_client_does_not_choose_the_bytes_of_what_a_handler_writes() -> None:
    """Where it sent the same text as Latin-1, in any header, that of the handler went out as Latin-1."""

    @Post
    def writes(request: Any) -> None:
        request.headers["X-Tenant"] = "Müller"
        request.headers.add("X-Copy", request.headers["X-Junk"])

    @CustomKeyCheck
    def auth(request: Any, session: Any) -> None:
        session.allow("t")
        assert request.headers["X-Junk"]
        request.headers["X-Tenant"] = "Müller"

    pairs = [*GET, ("x-junk", b"M\xfcller")]
    common = Stream(writes).request(pairs).request_headers.response
    assert edits(common) == [("x-copy", b"M\xfcller", False), ("x-tenant", "Müller".encode(), False)]
    (option,) = check(auth, request=check_request(pairs)).ok_response.headers
    assert option.header.value == "Müller"


def test_an_answer_is_text_also_with_what_came_as_other_bytes() -> None:
    """All that ext_authz takes is text."""

    @Pre(name="answers")
    def answers(request: Any) -> Any:
        return respond(403, headers={"X-Told": request.headers["X-Junk"]})

    @CustomKeyCheck(name="answers")
    def auth(request: Any) -> Any:
        return respond(403, headers={"X-Told": request.headers["X-Junk"]})

    pairs = [*GET, ("x-junk", b"M\xfcller")]
    (option,) = check(auth, request=check_request(pairs)).denied_response.headers
    assert option.header.value == "Müller"
    (option,) = Stream(answers).request(pairs).immediate_response.headers.set_headers
    assert option.header.raw_value == "Müller".encode()
