"""What a client, an upstream, or the operator's own moves could make pass, or shut, and must not."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, Pre, Response
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.chain import chain_of
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.runtime.registration import GatewayOptions
from tests.envoy.call import Call
from tests.envoy.drive import GET, OK, POST, Pairs, Stream, check, check_request, edits, header_map
from tests.envoy.served_stream import ServedStream
from tests.envoy.world import serving, table_of
from tests.server import PATIENCE_S, Client

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

    def reloaded_meanwhile(*given: Any) -> Any:
        found = chain_of(*given)
        gateway.table = new
        return found

    def looked_up() -> Any:
        return gateway._chain_of_check(b"", []) if is_check else gateway.chain({}, "")

    monkeypatch.setattr("coprocess.gateways.envoy.gateway.chain_of", reloaded_meanwhile)
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
    stream = Stream(hides, response_mode=4)
    stream.request()
    stream.response()
    (reply,) = stream.response_body(b"HTTP/1.1 200 OK")
    assert not reply.response_body.response.body_mutation.streamed_response.body
    stream = Stream(empties)
    stream.request()
    stream.response()
    (reply,) = stream.response_body(b"HTTP/1.1 200 OK")
    assert reply.response_body.response.body_mutation.clear_body
    # Of one that had none to begin with, nothing is taken.
    stream = Stream(hides)
    stream.request()
    assert not stream.response(end=True).response_headers.response.body_mutation.clear_body


@pytest.mark.parametrize("length", [[("content-length", "5")], []])
def test_a_status_with_a_body_does_not_announce_that_of_a_response_without_one(length: Pairs) -> None:
    """Nor where the filter hides it, with `forward_rules`: the client waited for a body of that length."""

    @Response
    def well(response: Any) -> None:
        response.status = 200

    stream = Stream(well)
    stream.request()
    common = stream.response([(":status", "304"), *length], end=True).response_headers.response
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


def test_a_filter_that_does_not_wait_for_headers_is_asked_for_no_body() -> None:
    """With `send_body_without_waiting_for_header_response`, overrides are dropped: the first one passed."""
    assert immediate_of(Stream(reads, sends_at_once=True).request(POST, end=False)) == 500
    assert Stream(reads, sends_at_once=True).request(POST).WhichOneof("response") == "request_headers"
    stream = Stream(reads, sends_at_once=True, request_mode=2)
    stream.request(POST, end=False)
    (reply,) = stream.body(b"12345")
    assert reply.WhichOneof("response") == "request_body"


def test_who_forgets_to_say_which_api_it_is_lets_nobody_by() -> None:
    """No CustomKeyCheck ran where all of them were for an API, and the other handlers let all pass."""

    @CustomKeyCheck(api_id="orders")
    def check_key(session: Any) -> None:
        session.allow("somebody")

    @Post
    def stamp(request: Any) -> None:
        request.headers["X-Stamp"] = "1"

    served = ServedStream(EnvoyGateway(table_of(check_key, stamp), GatewayOptions()))
    (reply,) = send(served, ask(GET))
    assert immediate_of(reply) == 500
    assert "CustomKeyCheck are for APIs (orders)" in reply.immediate_response.details
    for says in (
        {"x-coprocess-api-id": "orders"},
        {"x-coprocess-api-id": "others"},
        {"x-coprocess-post": "stamp"},  # Who names the handlers has named them all.
    ):
        reply = Stream(check_key, stamp, says=says).request()
        assert reply.WhichOneof("response") == "request_headers"

    @CustomKeyCheck
    def check_all(session: Any) -> None:
        session.allow("anybody")

    assert Stream(check_key, check_all).request().WhichOneof("response") == "request_headers"


def test_a_filter_in_full_duplex_on_one_side_is_asked_for_no_body_of_the_other() -> None:
    """It takes no override then, whatever `allow_mode_override` says: three responses passed in a row."""

    @Response
    def reads_response(response: Any) -> None:
        response.headers["X-Length"] = str(len(response.raw_body))

    assert immediate_of(Stream(reads, response_mode=4).request(POST, end=False)) == 500
    stream = Stream(reads_response, request_mode=4)
    assert stream.request(GET).WhichOneof("response") == "request_headers"
    assert immediate_of(stream.response()) == 500
    assert Stream(reads, response_mode=4).request(GET).WhichOneof("response") == "request_headers"


def test_a_filter_that_ignores_replies_is_told_of_and_runs_nothing() -> None:
    """With observability_mode, handlers seemed to refuse, and nothing said that all passed."""
    ran: list[int] = []

    @Pre
    def notes() -> None:
        ran.append(1)

    served = ServedStream(EnvoyGateway(table_of(notes), GatewayOptions()))
    message = ask(GET)
    message.observability_mode = True
    (reply,) = send(served, message)
    assert immediate_of(reply) == 500
    assert "observability_mode" in reply.immediate_response.details
    assert not ran
    assert served.service.refused_calls == 1


@pytest.mark.parametrize(("came", "left"), [("200", 403), ("403", 200)])
def test_the_status_of_a_connect_stays_a_tunnels_or_none(came: str, left: int) -> None:
    """With 403 in the place of 200, what the client sent went on to the upstream all the same."""

    @Response
    def other(response: Any) -> None:
        response.status = left

    served = ServedStream(EnvoyGateway(table_of(other), GatewayOptions()))
    send(served, ask([(":authority", "a:1"), (":method", "CONNECT")]))
    (reply,) = send(served, answer([(":status", came)]))
    assert immediate_of(reply) == 500


def test_what_passes_after_a_connect_is_no_body() -> None:
    @Response
    def replaces(response: Any) -> None:
        response.body = b"none"

    @Response(body=True)
    def reads_it(response: Any) -> None:
        assert response.body

    for handler in (replaces, reads_it):
        stream = Stream(handler)
        stream.request([(":authority", "a:1"), (":method", "CONNECT")])
        assert immediate_of(stream.response([(":status", "200")])) == 500


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


# Routes that a client could shut, or get by, while nobody knows what Envoy makes of `mode_override`.


@Post
def reads(request: Any) -> None:
    request.headers["X-Length"] = str(len(request.raw_body))


@Post
def scans(request: Any) -> None:
    list(request.stream())


@Response
def reads_late(response: Any) -> None:
    response.body = response.raw_body.upper()


@Response(body=False)
def looks() -> None: ...


TRAILERS = Message(request_trailers=wire.HttpTrailers())
UPSTREAMS = ("x-envoy-upstream-service-time", "1")


def is_served(gateway: EnvoyGateway) -> bool:
    """Whether a request gets as far as to be asked for its body, or its first piece."""
    return immediate_of(Stream(gateway=gateway).request(POST, end=False)) == 0


@pytest.mark.parametrize("status", [400, 408, 413])
def test_a_body_that_envoy_refuses_shuts_its_route_for_nobody_else(status: int) -> None:
    """Of one that is too large, Envoy told as of any response: all that came later was refused."""
    gateway = EnvoyGateway(table_of(reads), GatewayOptions())
    for _ in range(5):
        stream = Stream(gateway=gateway)
        stream.request(POST, end=False)
        assert immediate_of(stream.response([(":status", str(status)), ("content-length", "17")])) == status
        assert is_served(gateway)


@pytest.mark.parametrize("more", [[], [UPSTREAMS]])
def test_a_response_without_the_body_of_its_request_shuts_the_route(more: list[tuple[str, str]]) -> None:
    gateway = EnvoyGateway(table_of(reads), GatewayOptions())
    stream = Stream(gateway=gateway)
    stream.request(POST, end=False)
    assert immediate_of(stream.response([(":status", "413" if more else "200"), *more])) == 500
    assert not is_served(gateway)


def send(served: ServedStream, message: wire.ProcessingRequest) -> list[wire.ProcessingResponse]:
    return [wire.ProcessingResponse.FromString(each) for each in served.send(message.SerializeToString())]


def ask(pairs: Any = POST) -> wire.ProcessingRequest:
    return Message(request_headers=wire.HttpHeaders(headers=header_map(pairs)))


def answer(pairs: Any = OK) -> wire.ProcessingRequest:
    return Message(response_headers=wire.HttpHeaders(headers=header_map(pairs)))


def test_an_upstream_that_does_not_wait_for_a_body_in_pieces_shuts_its_route_for_nobody_else() -> None:
    """A client needs only hold its body back: with one answer that came so, all was refused for good."""
    with serving(scans, looks) as running, Client(running.address) as client:
        early = Call(client.channel)
        early.request(POST, end=False)
        assert immediate_of(early.response()) == 500
        early.end()
        well = Call(client.channel)
        well.request(POST, end=False)
        assert well.request_body(b"12345").WhichOneof("response") == "request_body"
        well.end()
        for _ in range(5):  # Now that is known to work.
            early = Call(client.channel)
            assert early.request(POST, end=False).mode_override.request_body_mode
            assert immediate_of(early.response()) == 500
            early.end()


@pytest.mark.parametrize("of_response", [False, True])
def test_a_body_that_never_comes_is_told_of_and_at_last_shuts_the_route(*, of_response: bool) -> None:
    """Where Envoy drops the override, what was to be read passed in silence, for ever."""
    gateway = EnvoyGateway(table_of(reads_late if of_response else reads), GatewayOptions())

    def ends(*, well: bool) -> bool:
        served = ServedStream(gateway)
        replies = send(served, ask(GET if of_response else POST))
        if of_response:
            replies = send(served, answer())
        if well and of_response:
            send(served, Message(response_body=wire.HttpBody(body=b"12345", end_of_stream=True)))
        elif well:
            send(served, Message(request_body=wire.HttpBody(body=b"12345", end_of_stream=True)))
        served.rpc.cancel()
        assert well or served.service.refused_calls == 1
        return bool(replies[-1].mode_override.ByteSize())

    assert [ends(well=False) for _ in range(4)] == [True, True, True, False]
    gateway.table = table_of(reads_late if of_response else reads)
    assert ends(well=True)
    with pytest.raises(AssertionError):  # Nothing is told then: it is the client that has left.
        ends(well=False)
    assert all(ends(well=True) for _ in range(5))


@Post
def peeks(request: Any) -> None:
    assert not request.raw_body


@pytest.mark.parametrize("handler", [peeks, scans])
def test_trailers_are_no_empty_body_where_envoy_may_have_let_one_pass(handler: Any) -> None:
    """A filter may ask for trailers itself, and drop the override: handlers saw an empty body."""
    served = ServedStream(EnvoyGateway(table_of(handler), GatewayOptions()))
    if handler is scans:
        served = ServedStream(EnvoyGateway(table_of(handler), GatewayOptions()))
        asking = served.rpc.send
        messages = [TRAILERS.SerializeToString()]

        def sent(message: bytes) -> bool:
            taken = asking(message)
            if messages:  # While the handler waits.
                served.rpc.on_message(messages.pop())
            return taken

        served.rpc.send = sent  # type: ignore[method-assign]  # a part of Envoy
        (*_, reply) = send(served, ask())
    else:
        send(served, ask())
        (reply,) = send(served, TRAILERS)
    assert immediate_of(reply) == 500


CHUNKED = [*POST[:-1], ("transfer-encoding", "chunked")]


@pytest.mark.parametrize("mode", [1, 5])
def test_a_filter_that_streams_has_no_headers_go_on_before_a_whole_body_is_seen(mode: int) -> None:
    """Without allow_mode_override, they reached the upstream as the client sent them, whatever was edited."""
    stream = Stream(reads, request_mode=mode)
    assert immediate_of(stream.request(CHUNKED, end=False)) == 500
    without = Stream(reads, request_mode=mode).request(POST, end=True)
    assert without.WhichOneof("response") == "request_headers"


@pytest.mark.parametrize("mode", [1, 5])
def test_a_response_that_streams_does_not_begin_before_its_whole_body_is_seen(mode: int) -> None:
    stream = Stream(reads_late, response_mode=mode)
    stream.request()
    assert immediate_of(stream.response(OK)) == 500


def test_a_filter_that_drops_overrides_shuts_no_other_one_of_its_route() -> None:
    gateway = EnvoyGateway(table_of(reads), GatewayOptions())
    stream = Stream(gateway=gateway)
    stream.request(POST, end=False)
    stream.response([*OK, UPSTREAMS])
    assert not is_served(gateway)
    other = Stream(gateway=gateway, request_mode=3)
    assert other.request(POST, end=False).mode_override.request_body_mode == 2


def test_a_path_that_the_filter_hides_is_no_empty_path() -> None:
    """By `forward_rules`: handlers decided on an empty path, and the request went on with its own."""

    @Pre
    def not_admin(request: Any) -> None:
        assert not request.path.startswith("/admin")

    pairs = [pair for pair in GET if pair[0] != ":path"]
    assert immediate_of(Stream(not_admin).request(pairs)) == 500
    (reply,) = send(ServedStream(EnvoyGateway(table_of(not_admin), GatewayOptions())), ask(pairs))
    assert immediate_of(reply) == 500
    connect = [(":authority", "a:1"), (":method", "CONNECT")]
    assert Stream(not_admin).request(connect).WhichOneof("response") == "request_headers"


def test_a_body_of_a_response_whose_headers_are_not_sent_closes() -> None:
    """With `response_header_mode: SKIP`, it passed without its handlers."""
    for message in (
        Message(response_body=wire.HttpBody(body=b"12345", end_of_stream=True)),
        Message(response_trailers=wire.HttpTrailers()),
    ):
        for begins in (True, False):
            stream = Stream(looks)
            if begins:
                stream.request()
            reply = stream.one(message)
            assert immediate_of(reply) == 500
            assert "expected response_header_mode SEND" in reply.immediate_response.details


@pytest.mark.parametrize("mode", [1, 4])
def test_a_body_that_is_replaced_in_part_does_not_pass_where_its_handler_fails_open(mode: int) -> None:
    """The upstream took what was written so far for the whole."""

    @Post(on_error="open")
    def breaks(request: Any) -> None:
        body = request.stream(replace=True)
        for piece in body:
            if piece == b"two":
                raise ValueError
            body.write(piece.upper())

    @Post(on_error="open")
    def looks_on(request: Any) -> None:
        if next(request.stream()) == b"one":
            raise ValueError

    for handler in (breaks, looks_on):
        with serving(handler) as running, Client(running.address) as client:
            call = Call(client.channel)
            config = wire.ProtocolConfiguration(request_body_mode=mode)  # type: ignore[arg-type]  # its number
            first = ask()
            first.protocol_config.CopyFrom(config)
            assert call.ask(first).WhichOneof("response") == "request_headers"
            for piece in (b"one", b"two"):
                reply = call.ask(Message(request_body=wire.HttpBody(body=piece)))
                if handler is breaks and piece == b"two":
                    assert immediate_of(reply) == 500
                else:
                    assert reply.WhichOneof("response") == "request_body"
            call.end()


def test_who_gives_up_a_piece_has_no_body_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one went to it all the same, and had no reply."""
    monkeypatch.setattr("coprocess.gateways.envoy.streamed_bodies.PIECE_TIMEOUT_S", 0.3)

    @Post
    def gives_up(request: Any) -> None:
        with suppress(ConnectionError):
            list(request.stream())

    with serving(gives_up) as running, Client(running.address) as client:
        call = Call(client.channel)
        call.request(POST, end=False)
        call.ask(Message(request_body=wire.HttpBody(body=b"one")))
        assert immediate_of(next(call.replies)) == 500
        call.end()


# Errors of a stream let requests pass where the filter has `failure_mode_allow`.


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_a_stop_answers_the_streams_that_it_gives_up(engine: Any) -> None:
    """Also one that waits for its upstream: its response would pass without its handlers."""
    is_in, goes_on = threading.Event(), threading.Event()

    @Pre
    def hangs(request: Any) -> None:
        if "X-Hang" in request.headers:
            is_in.set()
            goes_on.wait(PATIENCE_S)

    with serving(hangs, looks, engine=engine) as running, Client(running.address) as client:
        waits, runs = Call(client.channel), Call(client.channel)
        assert immediate_of(waits.request()) == 0
        told: list[int] = []
        asks = threading.Thread(
            target=lambda: told.append(immediate_of(runs.request([*GET, ("x-hang", "1")])))
        )
        asks.start()
        assert is_in.wait(PATIENCE_S)
        assert not running.service.drain(0.05)
        asks.join(PATIENCE_S)
        assert told == [503]
        assert immediate_of(next(waits.replies)) == 503
        goes_on.set()


def test_more_messages_than_are_taken_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coprocess.gateways.envoy.early_messages.MOST_BYTES", 1000)
    body = Message(request_body=wire.HttpBody(body=bytes(1000))).SerializeToString()

    @Pre
    def floods(request: Any) -> None:
        served.rpc.on_message(body)

    gateway = EnvoyGateway(table_of(floods, looks), GatewayOptions())
    served = ServedStream(gateway)
    (reply,) = send(served, ask())
    assert immediate_of(reply) == 503
    assert served.rpc.ended == (None, "")
    assert not gateway.open_streams
    assert not gateway.early_bytes.kept_bytes


def test_what_fails_while_a_refusal_is_made_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @Pre
    def fails() -> None:
        raise ValueError

    def breaks(*given: Any) -> Any:
        raise ArithmeticError

    monkeypatch.setattr("coprocess.gateways.envoy.exchange.Exchange.replies", breaks)
    monkeypatch.setattr("coprocess.gateways.envoy.exchange.Exchange.refusal", breaks)
    gateway = EnvoyGateway(table_of(fails), GatewayOptions())
    served = ServedStream(gateway)
    (reply,) = send(served, ask())
    assert immediate_of(reply) == 500
    assert served.rpc.ended == (None, "")
    assert not gateway.open_streams


def test_a_message_that_the_engine_refuses_is_answered() -> None:
    """A client chooses how large a body is: with it, it chose whether handlers saw the request."""
    with serving(reads, looks) as running, Client(running.address) as client:
        call = Call(client.channel)
        call.request(POST, end=False)
        body = wire.HttpBody(body=bytes((16 << 20) + 1), end_of_stream=True)
        assert immediate_of(call.ask(Message(request_body=body))) == 503
        assert call.end() == []
