"""What a client, an upstream, or the operator's own moves could make pass, or shut, and must not."""

from __future__ import annotations

from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, Pre, Response
from coprocess.gateways.envoy import gateway as gateway_module
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.runtime.registration import GatewayOptions
from tests.envoy.drive import GET, POST, Stream, check, check_request, edits, header_map
from tests.envoy.served_stream import ServedStream
from tests.envoy.world import table_of

Message = wire.ProcessingRequest


# Reloads.


@pytest.mark.parametrize("is_check", [False, True])
def test_a_chain_that_was_looked_up_during_a_reload_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, *, is_check: bool
) -> None:
    """Handlers of before would have run for that route until the next reload."""

    @CustomKeyCheck(name="check")
    def before(session: Any) -> None:
        session.allow("anybody")

    @CustomKeyCheck(name="check")
    def after() -> None: ...

    gateway = EnvoyGateway(table_of(before), GatewayOptions())
    new = table_of(after)
    chain_of = gateway_module.chain_of

    def reloaded_meanwhile(*given: Any) -> Any:
        found = chain_of(*given)
        gateway.table = new
        return found

    def looked_up() -> Any:
        return gateway._chain_of_check(b"", []) if is_check else gateway.chain({}, "")

    monkeypatch.setattr(gateway_module, "chain_of", reloaded_meanwhile)
    looked_up()
    monkeypatch.undo()
    assert looked_up().table is new


def test_a_reload_keeps_what_waits_for_a_body() -> None:
    """What the handlers' app had opened was closed, and they failed once the body was there."""
    seen: list[bytes] = []

    @Post
    def reads(request: Any) -> None:
        seen.append(request.raw_body)

    gateway = EnvoyGateway(table_of(reads), GatewayOptions())
    (hook,) = gateway.table
    served = ServedStream(gateway)
    served.send(Message(request_headers=wire.HttpHeaders(headers=header_map(POST))).SerializeToString())
    served.service.use(table_of())
    assert served.service.has_calls(hook)
    served.send(Message(request_body=wire.HttpBody(body=b"12345", end_of_stream=True)).SerializeToString())
    assert seen == [b"12345"]
    assert served.is_done
    assert not served.service.has_calls(hook)


# What a handler leaves, and two sides would read in two ways.


def immediate_of(reply: wire.ProcessingResponse) -> int:
    return reply.immediate_response.status.code


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_without_a_body_lets_none_of_the_upstreams_pass(status: int) -> None:
    """Envoy sent it on: behind such a status, it was another response to the client."""

    @Response
    def hides(response: Any) -> None:
        response.status = status

    @Response
    def empties(response: Any) -> None:
        response.status = status
        response.body = b""

    stream = Stream(hides)
    stream.request()
    common = stream.response().response_headers.response
    assert common.status == wire.CommonResponse.CONTINUE_AND_REPLACE
    assert common.body_mutation.clear_body
    assert edits(common) == [(":status", str(status).encode(), False), ("content-length", b"0", False)]
    stream = Stream(empties)
    stream.request()
    stream.response()
    (reply,) = stream.response_body(b"HTTP/1.1 200 OK")
    assert reply.response_body.response.body_mutation.clear_body
    # Of one that had none to begin with, nothing is taken.
    stream = Stream(hides)
    stream.request()
    assert not stream.response(end=True).response_headers.response.body_mutation.clear_body


def test_a_status_with_a_body_does_not_announce_that_of_a_response_without_one() -> None:
    @Response
    def well(response: Any) -> None:
        response.status = 200

    stream = Stream(well)
    stream.request()
    common = stream.response(
        [(":status", "304"), ("content-length", "5")], end=True
    ).response_headers.response
    assert ("content-length", b"0", False) in edits(common)


@pytest.mark.parametrize("came", ["101", "200"])
def test_a_body_in_pieces_and_an_upgrade_keep_what_they_are(came: str) -> None:
    @Response
    def pieces(response: Any) -> None:
        response.status = 204
        next(response.stream())

    @Response
    def well(response: Any) -> None:
        response.status = 200

    served = ServedStream(EnvoyGateway(table_of(well if came == "101" else pieces), GatewayOptions()))
    served.send(Message(request_headers=wire.HttpHeaders(headers=header_map(GET))).SerializeToString())
    answer = Message(response_headers=wire.HttpHeaders(headers=header_map([(":status", came)])))
    (reply,) = served.send(answer.SerializeToString())
    assert immediate_of(wire.ProcessingResponse.FromString(reply)) == 500


@pytest.mark.parametrize(("came", "left"), [("HEAD", "GET"), ("GET", "HEAD"), ("GET", "CONNECT")])
def test_a_method_whose_answer_has_another_form_closes(came: str, left: str) -> None:
    """Envoy sends to who asked by HEAD the body that came for GET: to the client, it is the next response."""

    @Pre(name="changes")
    def changes(request: Any) -> None:
        request.method = left

    @CustomKeyCheck(name="changes")
    def changes_too(request: Any, session: Any) -> None:
        request.method = left
        session.allow("token")

    pairs = [(":method", came), *GET[:2]]
    assert immediate_of(Stream(changes).request(pairs)) == 500
    assert check(changes_too, request=check_request(pairs)).denied_response.status.code == 500
