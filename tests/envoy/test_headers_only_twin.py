"""The shorter way of a stream and the general one, side by side: messages of any form, at any moment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess import CustomKeyCheck, Post, Pre, Reject, Response, respond
from coprocess.gateways.envoy import encoding, stream, wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.header_messages import (
    REQUEST,
    RESPONSE,
    has_path,
    header_message,
    method_in,
    route_name,
    status_in,
)
from coprocess.gateways.envoy.messages import Fields, request_of, response_of
from coprocess.runtime.registration import GatewayOptions
from coprocess.transport.engines import is_compiled
from tests.envoy.drive import GET, OK, Pairs, header_map
from tests.envoy.served_stream import ServedStream
from tests.envoy.world import table_of

Message = wire.ProcessingRequest
Reply = wire.ProcessingResponse


def asked(pairs: Pairs = GET) -> bytes:
    return Message(request_headers=wire.HttpHeaders(headers=header_map(pairs))).SerializeToString()


# Messages, written by hand: in any order, with lengths of more bytes than they need, and fields twice.


def varint(value: int, padded: int) -> bytes:
    found = encoding.varint(value)
    if padded:
        found = found[:-1] + bytes((found[-1] | 0x80,)) + b"\x80" * (padded - 1) + b"\x00"
    return found


LONGER = st.sampled_from([0] * 12 + [1, 2])


@st.composite
def of_field(draw: st.DrawFn, number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(content), draw(LONGER)) + content


NAMES = st.sampled_from([b":method", b":path", b":status", b":scheme", b":authority", b"x-any", b"x:method"])
VALUES = st.sampled_from(
    [
        b"GET",
        b"HEAD",
        b"PURGE",
        b"200",
        b"204",
        b"\x0a\x0e\x0a\x07:method\x1a\x03GET",
        b"",
        b"\xff",
        b"z" * 130,
    ]
)


@st.composite
def header_maps(draw: st.DrawFn) -> bytes:
    found = b""
    usual = [(b":method", b"GET"), (b":status", b"200")]
    for name, value in draw(st.lists(st.sampled_from(usual), max_size=2, unique=True)) + draw(
        st.lists(st.tuples(NAMES, VALUES), max_size=5)
    ):
        entry = draw(of_field(1, name)) + draw(of_field(draw(st.sampled_from((3, 3, 3, 2))), value))
        found += draw(of_field(1, entry))
    return found


END = st.sampled_from([b"", b"", b"\x18\x01", b"\x18\x00", b"\x18\x81\x00", b"\x12\x00"])
BESIDE = [
    b"",
    b"\x42\x00",
    b"\x5a\x00",
    b"\x42\x00\x5a\x00",
    b"\x50\x01",
    b"\x08\x01",
    Message(protocol_config=wire.ProtocolConfiguration(request_body_mode=2)).SerializeToString(),  # type: ignore[arg-type]  # its number
    Message(protocol_config=wire.ProtocolConfiguration(response_body_mode=4)).SerializeToString(),  # type: ignore[arg-type]  # as above
    Message(request_body=wire.HttpBody(body=b"x")).SerializeToString(),
]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """As what Envoy writes, and near to it; perhaps with a byte that is another."""
    phase = draw(st.sampled_from([2, 2, 2, 3, 3, 4]))
    parts = [draw(of_field(phase, draw(of_field(1, draw(header_maps()))) + draw(END)))]
    parts += draw(st.lists(st.sampled_from(BESIDE), max_size=2))
    if draw(st.integers(0, 9)) == 0:
        parts.append(parts[0])
    found = b"".join(draw(st.permutations(parts)))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(found) - 1))
        found = found[:at] + draw(st.binary(max_size=2)) + found[at + 1 :]
    return found


def found_by(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - compared
        return error


def breaks_a_line(headers: wire.HttpHeaders) -> bool:
    """Envoy lets no such value in."""
    return any(b"\n" in each.raw_value or "\n" in each.value for each in headers.headers.headers)


@settings(max_examples=300)
@given(messages())
def test_what_is_taken_apart_is_what_protobuf_reads(raw: bytes) -> None:
    for tag, phase in ((REQUEST, "request_headers"), (RESPONSE, "response_headers")):
        apart = header_message(raw, tag)
        if apart is None:
            continue
        header_map, ends, beside = apart
        try:
            whole = Message.FromString(raw)
        except DecodeError:
            # Headers only can be broken: whoever reads them finds out.
            with pytest.raises(DecodeError):
                wire.HeaderMap.FromString(header_map)
            continue
        assert whole.WhichOneof("request") == phase
        headers: wire.HttpHeaders = getattr(whole, phase)
        assert wire.HeaderMap.FromString(header_map) == headers.headers
        config = whole.protocol_config
        assert (ends, *beside) == (
            headers.end_of_stream,
            config.request_body_mode,
            config.response_body_mode,
            route_name(whole),
        )
        assert not whole.metadata_context.filter_metadata
        fields = Fields(headers.headers.headers)
        if tag == RESPONSE and (status := status_in(header_map)) is not None:
            assert found_by(lambda fields=fields: response_of(fields, bytes).status) == status  # type: ignore[misc]
        if tag != REQUEST or breaks_a_line(headers) or not has_path(header_map):
            continue
        if (method := method_in(header_map)) is not None:
            assert found_by(lambda fields=fields: request_of(fields, bytes).method) == method  # type: ignore[misc]


def test_a_method_that_comes_twice_is_read_as_a_whole() -> None:
    """Which one counts is for one place to say: the first."""
    twice: Pairs = [(":method", "GET"), *GET[:2], (":method", "DELETE")]
    assert method_in(header_map(twice).SerializeToString()) is None
    old = header_map(twice)
    old.headers[0].value, old.headers[0].raw_value = "DELETE", b""
    assert method_in(old.SerializeToString()) is None
    seen: list[str] = []

    @Pre
    def sees(request: Any) -> None:
        seen.append(request.method)

    ServedStream(EnvoyGateway(table_of(sees), GatewayOptions())).send(asked(twice))
    assert seen == ["GET"]


def test_a_path_that_comes_twice_is_the_first_on_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @Pre
    def sees(request: Any) -> None:
        seen.append(f"{request.path} {request.scheme}")

    twice: Pairs = [*GET, (":path", "/b"), (":scheme", "https"), (":path", "/c")]
    gateway = EnvoyGateway(table_of(sees), GatewayOptions())
    for pairs in (twice, [twice[1], *twice]):
        ServedStream(gateway).send(asked(pairs))
    monkeypatch.setattr(stream, "headers_only", lambda *arguments: None)
    for pairs in (twice, [twice[4], *twice], [twice[1], *twice]):
        ServedStream(gateway).send(asked(pairs))
    assert seen == ["/a http"] * 3 + ["/b http", "/a http"]


class Unusual(str):
    """A text of a handler's own."""

    __slots__ = ()

    def encode(self, *arguments: Any, **more: Any) -> bytes:
        raise ArithmeticError


@pytest.mark.skipif(is_compiled(), reason="compiled code asks no text for its bytes")
def test_what_nobody_expects_while_a_reply_is_made_closes() -> None:
    """An abort of the stream lets the request pass where the filter has `failure_mode_allow`."""

    @Pre
    def leaves(request: Any) -> None:
        request.headers["X-Any"] = Unusual("1")

    served = ServedStream(EnvoyGateway(table_of(leaves), GatewayOptions()))
    (reply,) = map(Reply.FromString, served.send(asked()))
    assert reply.immediate_response.status.code == 500
    assert served.rpc.ended == (None, "")


def test_a_handler_may_copy_what_it_gets() -> None:
    seen: list[tuple[str, ...]] = []

    @Pre
    def copies(request: Any) -> None:
        for twin in (copy.copy(request), copy.deepcopy(request)):
            twin.headers["X-Any"] = "twin's"
            seen.append((twin.method, twin.path, twin.headers["Host"]))
        copy.copy(request.headers)["X-Any"] = "twin's"

    @Response
    def copies_too(response: Any) -> None:
        twin = copy.copy(response)
        twin.status = 503
        seen.append((copy.deepcopy(response.headers)["Content-Length"],))

    served = ServedStream(EnvoyGateway(table_of(copies, copies_too), GatewayOptions()))
    (reply,) = map(Reply.FromString, served.send(asked()))
    assert reply == Reply(request_headers=wire.HeadersResponse())
    answer = Message(response_headers=wire.HttpHeaders(headers=header_map(OK)))
    (reply,) = map(Reply.FromString, served.send(answer.SerializeToString()))
    assert reply == Reply(response_headers=wire.HeadersResponse())
    assert seen == [("GET", "/a", "example.test")] * 2 + [("5",)]


def test_what_a_stranger_says_at_length_is_not_kept() -> None:
    """A thousand routes are: of large ones, that would be all memory."""

    @Pre
    def looks(request: Any) -> None: ...

    @CustomKeyCheck
    def allows(session: Any) -> None:
        session.allow("token")

    gateway = EnvoyGateway(table_of(looks, allows), GatewayOptions())
    long = "x" * 100_000
    assert gateway.chain({}, long).spec.api_id == long
    assert gateway.chain({"x-coprocess-api-id": long}, "").spec.api_id == long
    entry = encoding.field(1, b"x-coprocess-api-id") + encoding.field(2, long.encode())
    assert gateway._chain_of_check(entry, [entry]).spec.api_id == long
    assert not gateway._kept
    assert gateway.chain({}, "short") is gateway.chain({}, "short")


# Whole streams.


class Outcome(NamedTuple):
    replies: list[list[wire.ProcessingResponse]]
    #: How the stream ended; what handlers saw; what was counted of each.
    ended: Any
    seen: list[str]
    counted: list[tuple[Any, ...]]


SEEN: list[str] = []


@Pre(on_error="open", body=False)
def opens(request: Any) -> None:
    request.headers["X-Open"] = "1"
    request.method = "POST"
    if "X-Any" in request.headers:
        raise ValueError


@Pre(body=False)
def reflects(request: Any) -> None:
    request.headers["X-Reflected"] = request.headers.get("X-Any", "")


@Pre(body=False)
def is_named_at_length(request: Any) -> None:
    request.headers["X-" + "n" * 80] = "a\tb"


@Pre(body=False)
def smuggles(request: Any) -> None:
    request.headers["Transfer-Encoding"] = "chunked"


@Pre(body=False)
def names(session: Any, state: Any) -> None:
    session.alias = state.alias = "me"


@CustomKeyCheck(body=False)
def limits(session: Any) -> None:
    session.allow("token", rate=1, per=60)


@Post(body=False)
def changes_nothing(request: Any) -> None:
    request.method = "GET"
    request.path = "/a"


@Post(body=False)
def answers() -> Any:
    return respond(204, "no body")


@Response(body=False)
def sees(request: Any, response: Any, session: Any) -> None:
    items = [*request.headers.items(), *response.headers.items()]
    SEEN.append(f"{request.method} {request.path} {response.status} {session.alias} {items}")


@Response(on_error="open", body=False)
def opens_late(response: Any) -> None:
    response.status = 201
    if "Content-Length" in response.headers:
        raise ValueError


@Response(body=False)
def is_named_late(session: Any, response: Any) -> None:
    session.alias += "+"
    response.headers["X-Late"] = "1"


@Response(body=False)
def tells_late(metadata: Any) -> None:
    metadata["late"] = "1"


@Response(body=False)
def refuses_late() -> None:
    raise Reject(403, "late")


HANDLERS: list[Any] = [opens, reflects, is_named_at_length, smuggles, names, limits, changes_nothing, answers]
HANDLERS += [sees, opens_late, is_named_late, tells_late, refuses_late]
PLAIN = [asked(), asked([*GET, ("x-any", b"\xff")]), asked([(":method", "HEAD"), *GET[:2]])]
PLAIN_ANSWERS = [
    Message(
        response_headers=wire.HttpHeaders(headers=header_map(pairs), end_of_stream=ends)
    ).SerializeToString()
    for pairs, ends in ((OK, False), ([(":status", "204"), ("x-any", "1")], True))
]


def is_read(raw: bytes) -> bool:
    """Else a handler that does not look at its headers lets it by, as nobody reads them."""
    whole = found_by(lambda: Message.FromString(raw))
    return isinstance(whole, Message) and not breaks_a_line(whole.request_headers)


ANY = messages().filter(is_read)
FIRST = st.one_of(st.sampled_from(PLAIN), ANY)
LATER = st.one_of(st.sampled_from(PLAIN_ANSWERS), ANY, st.sampled_from(["half-close", "reset"]))


def outcome(table: Any, sent: list[bytes | str]) -> Outcome:
    gateway = EnvoyGateway(table, GatewayOptions())
    served = ServedStream(gateway)
    SEEN.clear()
    replies: list[list[wire.ProcessingResponse]] = []
    for each in sent:
        if each == "half-close":
            served.rpc.on_half_close()
        elif each == "reset":
            served.rpc.cancel()
        elif isinstance(each, bytes):
            replies.append([Reply.FromString(reply) for reply in served.send(each)])
    counted = [
        (hook.name, sum(counts.durations), counts.failed, len(gate.inside))
        for hook, gate in served.service.gates.items()
        for counts in gate.counts.values()
    ]
    served.rpc.cancel()
    assert gateway.open_streams == served.service.in_flight == 0
    return Outcome(replies, served.rpc.ended, list(SEEN), counted)


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(HANDLERS), min_size=1, max_size=4, unique=True),
    FIRST,
    st.lists(LATER, max_size=2),
)
def test_streams_end_the_same_on_both_ways(
    handlers: list[Any], first: bytes, later: list[bytes | str]
) -> None:
    table = table_of(*handlers)
    sent = [first, *later]
    shorter = outcome(table, sent)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "headers_only", lambda *arguments: None)
        general = outcome(table, sent)
    assert shorter == general
