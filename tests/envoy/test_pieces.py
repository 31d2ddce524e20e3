"""Bodies that pass in pieces: what a handler reads and writes, and what Envoy is answered."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from coprocess import CustomKeyCheck, Post, Reject, Response
from coprocess.desk.envoy.wanted import wanted_of
from coprocess.errors import HandlerError, UnknownHook
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.kong.home import HOME as KONG
from coprocess.gateways.tyk.home import HOME as TYK
from coprocess.gateways.web.home import HOME as WEB
from coprocess.loading.home import Home
from coprocess.loading.objects import load_objects
from coprocess.process.settings_loading import load_settings
from coprocess.runtime.registration import GatewayOptions
from coprocess.runtime.service_options import ServiceOptions
from tests.envoy.drive import GET, OK, POST, Pairs, edits, header_map
from tests.envoy.world import Running, serving, table_of
from tests.server import PATIENCE_S, Client, until

STREAMED, BUFFERED, FULL_DUPLEX = 1, 2, 4
Reply = wire.ProcessingResponse


class Call:
    """A stream with a real client: messages go out one by one, and replies are waited for."""

    def __init__(self, client: Client, *, request_mode: int = 0, response_mode: int = 0) -> None:
        self._asks: queue.SimpleQueue[wire.ProcessingRequest | None] = queue.SimpleQueue()
        method: Any = client.channel.stream_stream(
            wire.PROCESS, wire.ProcessingRequest.SerializeToString, Reply.FromString
        )
        self._config: Any = wire.ProtocolConfiguration(
            request_body_mode=request_mode,  # type: ignore[arg-type]  # its number
            response_body_mode=response_mode,  # type: ignore[arg-type]  # as above
        )
        self.replies: Any = method(self._messages(), timeout=PATIENCE_S)

    def _messages(self) -> Iterator[wire.ProcessingRequest]:
        while (message := self._asks.get()) is not None:
            if self._config is not None:
                message.protocol_config.CopyFrom(self._config)
                self._config = None
            yield message

    def put(self, **message: Any) -> None:
        self._asks.put(wire.ProcessingRequest(**message))

    def next(self) -> Reply:
        reply: Reply = next(self.replies)
        return reply

    def request(self, pairs: Pairs = POST, *, end: bool = False) -> Reply:
        self.put(request_headers=wire.HttpHeaders(headers=header_map(pairs), end_of_stream=end))
        return self.next()

    def response(self, *, end: bool = False) -> Reply:
        self.put(response_headers=wire.HttpHeaders(headers=header_map(OK), end_of_stream=end))
        return self.next()

    def piece(self, body: bytes, *, end: bool = False) -> wire.CommonResponse:
        self.put(request_body=wire.HttpBody(body=body, end_of_stream=end))
        return self.next().request_body.response

    def response_piece(self, body: bytes, *, end: bool = False) -> wire.CommonResponse:
        self.put(response_body=wire.HttpBody(body=body, end_of_stream=end))
        return self.next().response_body.response

    def end(self) -> list[Reply]:
        self._asks.put(None)
        return list(self.replies)


@contextmanager
def streams(*handlers: Callable[..., Any], **options: Any) -> Iterator[tuple[Running, Client]]:
    with serving(*handlers, **options) as running, Client(running.address) as client:
        yield running, client
        until(lambda: running.gateway.open_streams == 0 and running.service.in_flight == 0)


def scanner(seen: list[bytes], *, is_async: bool) -> Callable[..., Any]:
    if is_async:

        @Post(name="scan")
        async def scan_async(request: Any) -> None:
            nonlocal seen
            request.headers["X-Before"] = "1"
            async for piece in request.stream():
                seen += [piece]

        return scan_async

    @Post(name="scan")
    def scan(request: Any) -> None:
        nonlocal seen
        request.headers["X-Before"] = "1"
        for piece in request.stream():
            seen += [piece]

    return scan


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
@pytest.mark.parametrize("is_async", [False, True])
def test_pieces_are_read_while_they_pass(*, is_async: bool, engine: Any) -> None:
    seen: list[bytes] = []
    with streams(scanner(seen, is_async=is_async), engine=engine) as (_, client):
        call = Call(client)
        reply = call.request()
        assert edits(reply.request_headers.response) == [("x-before", b"1", False)]
        assert reply.mode_override.request_body_mode == STREAMED
        assert reply.mode_override.request_trailer_mode == 1
        assert call.piece(b"one") == wire.CommonResponse()
        assert seen == [b"one"]
        assert call.piece(b"two") == wire.CommonResponse()
        assert call.piece(b"", end=True) == wire.CommonResponse()
        assert seen == [b"one", b"two"]
        assert call.end() == []


def shout(request: Any) -> None:
    body = request.stream(replace=True)
    for piece in body:
        body.write(piece.upper())
    body.write(b"!")


@pytest.mark.parametrize("mode", [0, STREAMED])
def test_pieces_are_replaced_and_nothing_else_passes(mode: int) -> None:
    @Post
    async def shout(request: Any) -> None:
        body = request.stream(replace=True)
        async for piece in body:
            if piece != b"drop":
                body.write(piece.upper())
        body.write(b"!")

    with streams(shout) as (_, client):
        call = Call(client, request_mode=mode)
        reply = call.request()
        assert list(reply.request_headers.response.header_mutation.remove_headers) == ["content-length"]
        assert reply.mode_override.request_body_mode == STREAMED
        # Else the end of a body that trailers follow is not seen.
        assert reply.mode_override.request_trailer_mode == 1
        assert call.piece(b"one").body_mutation.body == b"ONE"
        assert call.piece(b"drop").body_mutation.clear_body
        assert call.piece(b"two", end=True).body_mutation.body == b"TWO!"
        call.end()


def test_what_is_buffered_is_whole_also_where_trailers_follow() -> None:
    @Response
    def last() -> None:
        pass

    with streams(Post(shout), last) as (_, client):
        call = Call(client, request_mode=BUFFERED)
        call.request()
        assert call.piece(b"hi").body_mutation.body == b"HI!"
        call.put(request_trailers=wire.HttpTrailers())
        assert call.next().WhichOneof("response") == "request_trailers"
        assert call.response(end=True).WhichOneof("response") == "response_headers"
        call.end()


def test_nothing_is_written_where_no_piece_came_but_trailers_in_full_duplex() -> None:
    """Envoy takes none, and lets the request by where its failure mode allows it."""

    with streams(Post(shout)) as (_, client):
        call = Call(client, request_mode=FULL_DUPLEX)
        assert call.request().WhichOneof("response") == "request_headers"
        call.put(request_trailers=wire.HttpTrailers())
        assert call.next().immediate_response.status.code == 500
        call.end()


def test_pieces_in_full_duplex_and_trailers() -> None:
    with streams(Post(shout)) as (_, client):
        call = Call(client, request_mode=FULL_DUPLEX)
        assert call.request().WhichOneof("response") == "request_headers"
        sent = call.piece(b"one").body_mutation.streamed_response
        assert (sent.body, sent.end_of_stream) == (b"ONE", False)
        call.put(request_trailers=wire.HttpTrailers())
        sent = call.next().request_body.response.body_mutation.streamed_response
        assert (sent.body, sent.end_of_stream) == (b"!", False)
        assert call.next().WhichOneof("response") == "request_trailers"
        call.end()
        call = Call(client, request_mode=FULL_DUPLEX)
        call.request()
        sent = call.piece(b"two", end=True).body_mutation.streamed_response
        assert (sent.body, sent.end_of_stream) == (b"TWO!", True)
        call.end()


def test_the_response_in_pieces_after_the_request() -> None:
    @Response
    async def shout(response: Any) -> None:
        response.status = 203
        body = response.stream(replace=True)
        async for piece in body:
            body.write(piece[::-1])

    with streams(shout) as (_, client):
        call = Call(client)
        call.request(GET, end=True)
        reply = call.response()
        assert edits(reply.response_headers.response) == [(":status", b"203", False)]
        assert list(reply.response_headers.response.header_mutation.remove_headers) == ["content-length"]
        assert reply.mode_override.response_body_mode == STREAMED
        assert call.response_piece(b"abc").body_mutation.body == b"cba"
        assert call.response_piece(b"de", end=True).body_mutation.body == b"ed"
        assert call.end() == []
        assert call.replies.code() is grpc.StatusCode.OK


def test_a_handler_that_ends_early_lets_the_rest_pass_or_where_it_replaces_none() -> None:
    @Post
    def first(request: Any) -> None:
        next(request.stream())

    @Response
    def new(response: Any) -> None:
        body = response.stream(replace=True)
        next(body)
        body.write(b"new")

    with streams(first, new) as (_, client):
        call = Call(client)
        call.request()
        assert call.piece(b"one") == wire.CommonResponse()
        assert call.piece(b"two", end=True) == wire.CommonResponse()
        call.response()
        assert call.response_piece(b"one").body_mutation.body == b"new"
        assert call.response_piece(b"two").body_mutation.clear_body
        assert call.response_piece(b"", end=True) == wire.CommonResponse()
        assert call.end() == []


def test_no_body_is_no_piece_and_what_is_written_becomes_one() -> None:
    @Post
    async def made(request: Any) -> None:
        body = request.stream(replace=True)
        assert [piece async for piece in body] == []
        body.write(b"made here")

    with streams(made) as (_, client):
        reply = Call(client).request(GET, end=True)
        assert reply.request_headers.response.body_mutation.body == b"made here"


def test_a_body_that_is_written_and_never_asked_for_closes_in_full_duplex() -> None:
    """Envoy took the reply for its own failure, in some cases after the upstream had the new body."""

    @Post
    def made(request: Any) -> None:
        request.stream(replace=True).write(b"made here")

    @Response
    def made_too(response: Any) -> None:
        response.stream(replace=True).write(b"made here")

    with streams(made, made_too) as (_, client):
        refused = Call(client, request_mode=FULL_DUPLEX).request()
        assert refused.immediate_response.status.code == 500
        for mode in (STREAMED, BUFFERED):
            call = Call(client, request_mode=mode)
            passed = call.request()
            assert passed.request_headers.response.body_mutation.body == b"made here"
            call.end()  # Else it is open until Python's collector finds it.
        call = Call(client, request_mode=FULL_DUPLEX, response_mode=FULL_DUPLEX)
        assert call.request(GET, end=True).request_headers.response.body_mutation.body == b"made here"
        assert call.response().immediate_response.status.code == 500


def test_a_rejection_in_the_middle_refuses_the_request() -> None:
    @Post
    def virus(request: Any) -> None:
        for piece in request.stream():
            if b"virus" in piece:
                raise Reject(422, "a virus")

    with streams(virus) as (_, client):
        call = Call(client)
        call.request()
        call.piece(b"well")
        call.put(request_body=wire.HttpBody(body=b"virus"))
        assert call.next().immediate_response.status.code == 422
        call.end()


def test_what_is_edited_too_late_closes() -> None:
    @Post
    def late(request: Any) -> None:
        for _ in request.stream():
            request.headers["X-Late"] = "1"

    with streams(late) as (_, client):
        call = Call(client)
        call.request()
        call.put(request_body=wire.HttpBody(body=b"x", end_of_stream=True))
        assert call.next().immediate_response.status.code == 500
        call.end()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_client_that_leaves_ends_the_handler(*, is_async: bool) -> None:
    ended = threading.Event()

    @Post(name="scan")
    def scan(request: Any) -> None:
        try:
            list(request.stream())
        finally:
            ended.set()

    @Post(name="scan")
    async def scan_async(request: Any) -> None:
        try:
            async for _ in request.stream():
                pass
        finally:
            ended.set()

    with streams(scan_async if is_async else scan) as (_, client):
        call = Call(client)
        call.request()
        call.piece(b"one")
        call.replies.cancel()
        assert ended.wait(PATIENCE_S)


def test_waiting_for_the_client_is_no_time_of_the_handlers() -> None:
    seen: list[bytes] = []
    options = ServiceOptions(timeout_s=0.2)
    with streams(scanner(seen, is_async=False), options=options) as (_, client):
        call = Call(client)
        call.request()
        threading.Event().wait(0.5)
        assert call.piece(b"one", end=True) == wire.CommonResponse()
        call.end()


def test_an_upstream_that_answers_early_ends_the_body_and_its_answer_counts() -> None:
    seen: list[bytes] = []

    @Response
    def stamp(response: Any) -> None:
        response.headers["X-Seen"] = str(len(seen))

    with streams(scanner(seen, is_async=False), stamp) as (_, client):
        call = Call(client)
        call.request()
        call.piece(b"one")
        assert edits(call.response().response_headers.response) == [("x-seen", b"1", False)]
        call.end()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_body_that_is_cut_is_no_failure_of_its_handler(*, is_async: bool) -> None:
    @Response
    def look() -> None:
        pass

    with capture_logs() as logged, streams(scanner([], is_async=is_async), look) as (running, client):
        early = Call(client)
        early.request()
        early.piece(b"one")
        early.response()
        early.end()
        leaving = Call(client)
        leaving.request()
        leaving.piece(b"one")
        leaving.replies.cancel()
        until(lambda: not running.gateway.open_streams)
        until(lambda: not running.service.in_flight)
        assert not any(counts.failed for counts in running.service.gates.totals().values())
    assert not any(entry["log_level"] == "error" for entry in logged)
    # Of the one that left, an async handler is cancelled.
    assert [entry["event"] for entry in logged].count("a body ended before its handler had all of it") >= 1


def test_an_override_that_envoy_drops_closes() -> None:
    with streams(scanner([], is_async=False)) as (_, client):
        for _ in "12":
            call = Call(client)
            reply = call.request()
            if reply.WhichOneof("response") != "immediate_response":
                reply = call.response()
            assert reply.immediate_response.status.code == 500
            call.end()


def test_what_has_to_be_last_is_found_when_chains_are_made() -> None:
    @Post(order=2)
    def after(request: Any) -> None:
        pass

    gateway = EnvoyGateway(table_of(scanner([], is_async=False), after), GatewayOptions())
    with pytest.raises(UnknownHook, match=r'"scan" asks for stream\(\): expected as the last'):
        gateway.chain({}, "")


@pytest.mark.parametrize("home", [WEB, KONG, TYK], ids=lambda home: str(home.name))
def test_homes_that_have_no_pieces_say_so_at_load(home: Home) -> None:
    def load(handler: Callable[..., Any]) -> None:
        load_objects([handler], home)

    with pytest.raises(HandlerError, match=f"asks for stream.., and bodies come whole at {home.name}"):
        load(scanner([], is_async=True))


def test_a_moment_that_would_be_too_late_is_refused_at_load() -> None:
    @CustomKeyCheck
    def check(request: Any, session: Any) -> None:
        for _ in request.stream():
            pass

    with pytest.raises(HandlerError, match="Expected: a handler of Post or Response"):
        table_of(check)


def test_the_configuration_and_the_doctor_know_of_pieces() -> None:
    settings = load_settings({"envoy": True})
    wanted = wanted_of(settings, table_of(scanner([], is_async=True)), {}, "")
    assert wanted.reads_body


def test_a_request_whose_body_was_replaced_lets_the_response_pass_in_pieces() -> None:
    """What a handler did to the request's body was held against the response's."""

    @Post
    def replaces(request: Any) -> None:
        request.body = b"new"

    @Response
    async def loud(response: Any) -> None:
        body = response.stream(replace=True)
        async for piece in body:
            body.write(piece.upper())

    with serving(replaces, loud) as running, Client(running.address) as client:
        call = Call(client)
        assert call.request([*GET], end=True).request_headers.response.body_mutation.body == b"new"
        assert call.response().mode_override.response_body_mode == STREAMED
        assert call.response_piece(b"hello", end=True).body_mutation.body == b"HELLO"
        assert call.end() == []
