"""Streams whose handlers want headers only go a shorter way: what they get, and leave, is the same."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Reject, Response, respond
from coprocess.gateways.envoy import encoding, headers_only, wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.header_messages import REQUEST, RESPONSE, header_message, method_in
from coprocess.gateways.envoy.headers_only import HeadersOnly
from coprocess.gateways.envoy.messages import UnreadFields
from coprocess.runtime.registration import GatewayOptions
from tests.envoy.call import Call
from tests.envoy.drive import GET, OK, Pairs, Stream, edits, header_map
from tests.envoy.served_stream import ServedStream
from tests.envoy.world import serving, table_of
from tests.server import Client, until

Message = wire.ProcessingRequest


@Pre
def sets(request: Any) -> None:
    request.headers["X-One"] = request.headers.get("X-Any", "none")


@Pre
def sets_two(request: Any) -> None:
    request.headers["X-One"] = "1"
    request.headers["X-Two"] = "2"


@Pre
def deletes(request: Any) -> None:
    del request.headers["X-Any"]
    request.headers.add("X-Any", "ä")


@Pre
def sets_what_is_envoys(request: Any) -> None:
    request.headers["Host"] = "other"


@Post
def sees(request: Any) -> None:
    request.headers["X-Seen"] = (
        f"{request.method} {request.path} {request.query_string} {request.scheme} {request.target} "
        f"{request.query.get('b')} {[(name, request.headers.getall(name)) for name in request.headers]}"
    )


@Post
def moves(request: Any) -> None:
    request.path = "/else"
    request.query["c"] = "d"
    request.method = "PUT"


@Post
def breaks_a_line(request: Any) -> None:
    request.headers["X-Seen"] = "a"
    request.headers.replaced = {"X-Seen": "a\r\nb: c"}


@Post(on_error="open")
def fails_open(request: Any) -> None:
    request.headers["X-Seen"] = "lost"
    raise ValueError("broken")


@Pre
def fails() -> None:
    raise ValueError("broken")


@Pre
def responds(request: Any) -> Any:
    return respond(418, "short and stout", headers={"X-Pot": "tea"})


@Pre
def rejects() -> None:
    raise Reject(429, "later", headers={"Retry-After": "1"})


@Pre
def tells(metadata: Any) -> None:
    metadata["told"] = metadata.get("came", "nothing")


@PostKeyAuth
def knows(session: Any, state: Any) -> None:
    state.known = session.alias


@CustomKeyCheck
def allows(session: Any) -> None:
    session.allow("token", alias="me")


@CustomKeyCheck
def knows_nobody() -> None: ...


@Response
def looks(response: Any) -> None: ...


@Response
def marks(response: Any, request: Any) -> None:
    length = response.headers.get("Content-Length", "")
    response.headers["X-After"] = f"{response.status} {length} {request.path}"


@Response
def changes_status(response: Any) -> None:
    response.status = 299


@Response
def replaces() -> Any:
    return respond(200, "instead")


@Response
def fails_late() -> None:
    raise ValueError("broken")


@Response
def bad_status(response: Any) -> None:
    response.status = 101


BEFORE: list[Any] = [
    sets,
    sets_two,
    deletes,
    sets_what_is_envoys,
    sees,
    moves,
    breaks_a_line,
    fails_open,
    fails,
    responds,
]
BEFORE += [rejects, tells, knows, allows, knows_nobody]
AFTER: list[Any] = [looks, marks, changes_status, replaces, fails_late, bad_status]

CONNECT: Pairs = [(":authority", "a:1"), (":method", "CONNECT")]
LONG: Pairs = [(":authority", "x" * 200), (":path", "/" + "y" * 200), *GET[2:], ("x-any", "z" * 300)]
LONGER: Pairs = [*LONG, ("x-more", "z" * 20_000)]
REQUESTS: list[Pairs] = [
    GET,
    [*GET, ("x-any", "1"), ("content-length", "5")],
    [*GET, ("x-any", b"\xff\xe9"), ("x-any", "2"), ("cookie", "a=b")],
    [(":method", "HEAD"), *GET[:2], GET[3]],
    [(":method", "PURGE"), *GET[:2]],
    [(":authority", "a"), (":path", b"/\xff?b=2"), (":method", "POST"), (":scheme", "https")],
    CONNECT,
    LONG,
    LONGER,
    [],
    [(":path", "/")],
    [*GET, *((f"x-{number}", "") for number in range(2000))],
]
RESPONSES: list[Pairs] = [
    OK,
    [(":status", "204")],
    [(":status", "503"), ("x-any", b"\xff"), ("content-length", "7" * 150)],
    [("server", "first"), (":status", "200")],
    [(":status", "99999")],
    [],
    [(":status", "200"), *((f"x-{number}", "") for number in range(2000))],
]


def headers(chance: random.Random, pairs: Pairs) -> wire.HttpHeaders:
    found = header_map(pairs)
    if chance.random() < 0.05:
        for each in found.headers:
            each.value, each.raw_value = each.raw_value.decode("latin-1"), b""
    return wire.HttpHeaders(headers=found, end_of_stream=chance.random() < 0.5)


def beside(chance: random.Random) -> Message:
    """What a message says beside its phase."""
    found = Message()
    if chance.random() < 0.3:
        found.metadata_context.SetInParent()
    if chance.random() < 0.1:
        found.metadata_context.filter_metadata["coprocess"].fields["came"].string_value = "before"
    if chance.random() < 0.2:
        told = found.attributes["envoy.filters.http.ext_proc"].fields
        told["request.id"].string_value = "x" * chance.randint(0, 80)
        if chance.random() < 0.5:
            told["xds.route_name"].string_value = "route"
    if chance.random() < 0.2:
        mode: Any = chance.choice(range(5))
        found.protocol_config.request_body_mode = mode
    if chance.random() < 0.2:
        mode = chance.choice(range(5))
        found.protocol_config.response_body_mode = mode
    return found


def phase(chance: random.Random, number: int) -> Message:
    kind = chance.random()
    if kind < 0.9:
        if number == 0 and kind < 0.85:
            return Message(request_headers=headers(chance, chance.choice(REQUESTS[: chance.choice((3, 99))])))
        return Message(response_headers=headers(chance, chance.choice(RESPONSES[: chance.choice((1, 99))])))
    body = wire.HttpBody(body=b"body", end_of_stream=True)
    return chance.choice(
        [
            Message(request_body=body),
            Message(response_body=body),
            Message(request_trailers=wire.HttpTrailers()),
            Message(response_trailers=wire.HttpTrailers()),
            Message(request_headers=headers(chance, GET)),
            Message(),
        ]
    )


def written(chance: random.Random, number: int) -> bytes:
    """A message, perhaps in another order than Envoy's, or cut, or with a fault in it."""
    parts = [phase(chance, number).SerializeToString(), beside(chance).SerializeToString()]
    if chance.random() < 0.05:
        parts.reverse()
    raw = b"".join(parts)
    if chance.random() < 0.03:
        raw = raw[: chance.randint(0, len(raw))]
    return raw


def test_both_ways_give_the_same_replies() -> None:
    chance = random.Random(9)  # noqa: S311 - no secret
    shorter = 0
    tables: dict[frozenset[Any], Any] = {}
    for _ in range(1200):
        handlers = frozenset(
            chance.sample(BEFORE, chance.choice((0, 1, 1, 2, 3)))
            + chance.sample(AFTER, chance.choice((0, 1, 1, 2)))
        )
        if not handlers:
            continue
        if handlers not in tables:
            in_order: list[Any] = sorted(handlers, key=lambda each: str(each.__name__))
            tables[handlers] = table_of(*in_order)
        gateway = EnvoyGateway(tables[handlers], GatewayOptions())
        general, served = Stream(gateway=gateway), ServedStream(gateway)
        general._config = None
        (stream,) = gateway._streams
        for number in range(4):
            message = written(chance, number)
            expected = general.send(message)
            replies = served.send(message)
            assert [wire.ProcessingResponse.FromString(each) for each in replies] == expected
            assert served.is_done == general.exchange.is_done
            shorter += isinstance(stream.traffic, HeadersOnly) and stream._exchange is None
            if served.is_done:
                break
        assert served.service.in_flight == (0 if served.is_done else 1)
    assert shorter > 80


def test_a_message_is_taken_apart_as_it_is_read() -> None:
    body = Message(request_body=wire.HttpBody(body=b"x")).SerializeToString()
    # About where a length takes another byte.
    for size in (0, 60, *range(10, 100), *range(16_200, 16_400), 70_000):
        for end in (False, True):
            found = wire.HttpHeaders(headers=header_map([*GET[:1], ("x-any", "x" * size)]), end_of_stream=end)
            raw = Message(request_headers=found).SerializeToString()
            expected = found.headers.SerializeToString(), end, (0, 0, "")
            apart = header_message(raw, REQUEST)
            # A longer one is read as a whole.
            assert apart == (expected if found.ByteSize() < 16_384 else None)
            assert header_message(raw, RESPONSE) is None
            assert header_message(raw[:-1], REQUEST) is None
            assert header_message(raw + raw, REQUEST) is None
            assert header_message(raw + body, REQUEST) is None


def test_the_phase_may_stand_last_as_clients_in_go_write_it() -> None:
    """Once, all of their streams went the longer way."""
    headers = b"\x12\x11\x0a\x0f\x0a\x0d\x0a\x07:method\x1a\x02GO"
    for beside in (b"", b"\x42\x00", b"\x5a\x00", b"\x42\x00\x5a\x00"):
        apart = header_message(beside + headers, REQUEST)
        assert apart is not None
        assert apart == header_message(headers + beside, REQUEST) == header_message(headers, REQUEST)
    assert header_message(b"\x42\x00\x5a\x00", REQUEST) is None


def test_what_is_too_short_is_no_message_with_headers() -> None:
    for length in range(8):
        assert header_message(b"\x12\x06\x0a\x80\x80\x01\x00"[:length], REQUEST) is None


def test_the_method_is_found_wherever_it_stands() -> None:
    for method, expected in (("GET", "GET"), ("OPTIONS", "OPTIONS"), ("PURGE", None), ("", None)):
        for pairs in (
            [(":method", method), *GET[:2]],
            [(":path", "/" + "x" * 300), ("x", ""), (":method", method)],
        ):
            assert method_in(header_map(pairs).SerializeToString()) == expected
    assert method_in(header_map(GET[:2]).SerializeToString()) is None
    assert method_in(header_map([("x-any", "x:method\x1a\x03GET"), ("y", "z")]).SerializeToString()) is None
    assert method_in(b"\x0a\x07:method\x1a\x03GET") is None
    assert method_in(header_map([(":method", "GET")]).SerializeToString()[:-4]) is None


def test_headers_that_are_none_fail_the_handler_that_reads_them() -> None:
    """As nobody else reads them: Envoy writes no such."""
    whole = Message(request_headers=wire.HttpHeaders(headers=header_map([*GET, ("x-any", "1")])))
    raw = whole.SerializeToString().replace(b"x-any", b"x-\xffny")
    served = ServedStream(EnvoyGateway(table_of(sets), GatewayOptions()))
    (reply,) = map(wire.ProcessingResponse.FromString, served.send(raw))
    assert reply.immediate_response.status.code == 500
    assert served.is_done


BROKEN_MAPS = {
    REQUEST: header_map(GET).SerializeToString() + b"\x0a\x03\x0a\x01\xff",
    RESPONSE: header_map(OK).SerializeToString() + b"\x0a\x03\x0a\x01\xff",
}


@pytest.mark.parametrize("name", ["opens", "swallows", "opens_after"])
def test_headers_that_are_none_let_nothing_by_whatever_a_handler_makes_of_them(name: str) -> None:
    @Pre(on_error="open")
    def opens(request: Any) -> None:
        assert request.headers["X-Any"]

    @Pre
    def swallows(request: Any) -> None:
        with contextlib.suppress(Exception):
            assert request.headers["X-Any"]
        request.headers["X-One"] = "1"

    @Response(on_error="open")
    def opens_after(response: Any) -> None:
        assert response.headers["X-Any"]

    handler = {each.__name__: each for each in (opens, swallows, opens_after)}[name]
    stream = ServedStream(EnvoyGateway(table_of(handler), GatewayOptions()))
    kind = REQUEST
    if name == "opens_after":
        kind = RESPONSE
        headers = wire.HttpHeaders(headers=header_map(GET), end_of_stream=True)
        stream.send(Message(request_headers=headers).SerializeToString())
    (raw,) = stream.send(encoding.field(kind >> 3, encoding.field(1, BROKEN_MAPS[kind])))
    assert wire.ProcessingResponse.FromString(raw).immediate_response.status.code == 500


@pytest.mark.parametrize("names", ["quick,waits,quick", "waits", "quick,quick"])
def test_async_handlers_take_their_turn_among_others(names: str) -> None:
    ran: list[str] = []

    @Pre
    def quick(request: Any) -> None:
        ran.append("quick")
        request.headers["X-Ran"] = str(len(ran))

    @Pre
    async def waits() -> None:
        await asyncio.sleep(0.001)
        ran.append("waits")

    with serving(quick, waits, looks) as running, Client(running.address) as client:
        for _ in range(3):
            ran.clear()
            call = Call(client.channel, pre=names, response="looks")
            reply = call.request().request_headers
            last = names.rpartition("quick")[0].count(",") + 1
            assert edits(reply.response) == ([("x-ran", b"%d" % last, False)] if "quick" in names else [])
            assert ran == names.split(",")
            assert call.response().response_headers == wire.HeadersResponse()
            assert call.end() == []
        until(lambda: running.gateway.open_streams == running.service.in_flight == 0)


def test_a_reload_knows_the_chain_of_a_stream_from_when_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would close what the handlers need, while their request is read."""
    gateway = EnvoyGateway(table_of(sets, looks), GatewayOptions())
    (hook,) = (each for each in gateway.table if each.name == "looks")
    held: list[bool] = []

    def read(raw: bytes, max_headers: int) -> UnreadFields:
        held.append(gateway.holds(hook))
        return UnreadFields(raw, max_headers)

    monkeypatch.setattr(headers_only, "UnreadFields", read)
    served = ServedStream(gateway)
    assert not gateway.holds(hook)
    served.send(Message(request_headers=wire.HttpHeaders(headers=header_map(GET))).SerializeToString())
    assert held == [True]
    # Nobody asked for a body: an Exchange answers it.
    served.send(Message(request_body=wire.HttpBody(body=b"x")).SerializeToString())
    assert gateway.holds(hook)
    served.send(Message(response_headers=wire.HttpHeaders(headers=header_map(OK))).SerializeToString())
    assert served.is_done
    assert not gateway.holds(hook)


def test_what_cannot_be_written_ends_with_an_answer_and_not_with_an_error() -> None:
    """An RPC error lets the request by, where the filter's failure mode allows it."""

    class Odd(str):
        __slots__ = ()

        def isascii(self) -> bool:
            raise RuntimeError("a secret")

    @Pre
    def sets_what_is_odd(request: Any) -> None:
        request.headers["X-Odd"] = Odd("value")

    stream = ServedStream(EnvoyGateway(table_of(sets_what_is_odd), GatewayOptions()))
    headers = wire.HttpHeaders(headers=header_map(GET), end_of_stream=True)
    (raw,) = stream.send(Message(request_headers=headers).SerializeToString())
    assert wire.ProcessingResponse.FromString(raw).immediate_response.status.code == 500
    assert b"a secret" not in raw
    assert stream.rpc.ended == (None, "")
