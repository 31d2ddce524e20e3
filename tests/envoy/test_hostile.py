"""Clients of ext_proc that keep to no order, and those that send what is no message."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, Pre, Response
from coprocess.gateways.envoy import wire
from tests.envoy.drive import GET, OK, POST, Stream, check, check_request, header_map
from tests.envoy.world import serving
from tests.server import PATIENCE_S, Client, until


@Pre
def early(request: Any) -> None:
    request.headers["X-Early"] = request.headers.get("X-Any", "none")


@CustomKeyCheck
def key(session: Any) -> None:
    session.allow("token")


@Post
def late(request: Any) -> None:
    request.body = request.body[::-1]


@Response
def after(response: Any) -> None:
    response.body = response.body.upper()


HANDLERS = (early, key, late, after)


def messages() -> list[wire.ProcessingRequest]:
    """One of each kind, well-formed and not."""
    found = []
    for pairs in (GET, POST, [], [(":method", "")], [(":method", "GET"), ("", "x"), ("a b", "c\r\nd: e")]):
        for end in (False, True):
            headers = wire.HttpHeaders(headers=header_map(pairs), end_of_stream=end)
            found.append(wire.ProcessingRequest(request_headers=headers))
    found += [
        wire.ProcessingRequest(response_headers=wire.HttpHeaders(headers=header_map(pairs)))
        for pairs in (OK, [], [(":status", "99999")], [(":status", "²00")])
    ]
    for body in (b"", b"x", b"\xff" * 3000):
        for end in (False, True):
            found.append(wire.ProcessingRequest(request_body=wire.HttpBody(body=body, end_of_stream=end)))
            found.append(wire.ProcessingRequest(response_body=wire.HttpBody(body=body, end_of_stream=end)))
    found.append(wire.ProcessingRequest(request_trailers=wire.HttpTrailers()))
    found.append(wire.ProcessingRequest(response_trailers=wire.HttpTrailers()))
    found.append(wire.ProcessingRequest())
    return found


def test_messages_in_any_order_are_answered_as_their_kind_or_refused() -> None:
    chance = random.Random(15)  # noqa: S311 - no secret
    kinds = messages()
    for _ in range(400):
        mode, response_mode = chance.choice(range(5)), chance.choice(range(5))
        stream = Stream(*HANDLERS, request_mode=mode, response_mode=response_mode, max_body_bytes=2000)
        for _ in range(chance.randint(1, 8)):
            message = wire.ProcessingRequest()
            message.CopyFrom(chance.choice(kinds))
            for reply in stream.send(message):
                kind = reply.WhichOneof("response")
                assert kind is not None
                if kind == "immediate_response":
                    assert 400 <= reply.immediate_response.status.code < 600
                    assert stream.exchange.is_done
            if stream.exchange.is_done:
                break


def test_a_second_request_or_response_on_a_stream_is_refused() -> None:
    stream = Stream(*HANDLERS)
    stream.request()
    assert stream.request().immediate_response.status.code == 500
    stream = Stream(*HANDLERS, response_mode=2)
    stream.request()
    stream.response()
    assert stream.response().immediate_response.status.code == 500


def test_more_headers_than_are_taken_are_refused() -> None:
    many = [*GET, *((f"x-{number}", "1") for number in range(2000))]
    assert Stream(*HANDLERS).request(many).immediate_response.status.code == 500
    assert check(key, request=check_request(many)).denied_response.status.code == 500


@pytest.mark.parametrize("raw", [b"\xff", b"", b"\x12\xff\xff\xff\xff\x0f", b"\x00" * 5000])
def test_what_is_no_message_closes_and_the_next_stream_is_served(raw: bytes) -> None:
    with serving(*HANDLERS) as running, Client(running.address) as client:
        method: Any = client.channel.stream_stream(wire.PROCESS, None, wire.ProcessingResponse.FromString)
        (reply,) = method(iter([raw, raw]), timeout=PATIENCE_S)
        assert reply.immediate_response.status.code == 500
        headers = wire.HttpHeaders(headers=header_map(GET), end_of_stream=True)
        good = wire.ProcessingRequest(request_headers=headers).SerializeToString()
        (reply,) = method(iter([good]), timeout=PATIENCE_S)
        assert reply.WhichOneof("response") == "request_headers"
        until(lambda: running.gateway.open_streams == 0)


def test_an_attribute_that_is_no_utf8_closes_and_says_why() -> None:
    """As Envoy sends `request.useragent` of a client that says `\xe9`."""
    message = wire.ProcessingRequest(request_headers=wire.HttpHeaders(headers=header_map(GET)))
    told = message.attributes["envoy.filters.http.ext_proc"].fields["request.useragent"]
    told.string_value = "AA"
    raw = message.SerializeToString().replace(b"AA", b"\xe9A")
    with serving(*HANDLERS) as running, Client(running.address) as client:
        method: Any = client.channel.stream_stream(wire.PROCESS, None, wire.ProcessingResponse.FromString)
        (reply,) = method(iter([raw]), timeout=PATIENCE_S)
    assert reply.immediate_response.status.code == 500
    assert "UTF-8" in reply.immediate_response.details


def test_a_client_that_sends_without_reading_is_ended() -> None:
    """Its messages wait for the one in front, and are bounded."""
    gate = threading.Event()

    @Pre
    def waits() -> None:
        gate.wait(PATIENCE_S)

    body = wire.ProcessingRequest(request_body=wire.HttpBody(body=bytes(1 << 20))).SerializeToString()
    headers = wire.HttpHeaders(headers=header_map(POST))
    first = wire.ProcessingRequest(request_headers=headers).SerializeToString()
    with serving(waits) as running, Client(running.address) as client:
        method: Any = client.channel.stream_stream(wire.PROCESS)
        try:
            (reply,) = method(iter([first, *[body] * 40]), timeout=PATIENCE_S)
            assert wire.ProcessingResponse.FromString(reply).immediate_response.status.code == 503
        finally:
            gate.set()
        until(lambda: running.gateway.open_streams == 0)
