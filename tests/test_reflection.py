"""Server reflection: what one stream asks for is answered in order, and holds up nobody."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from hpack import Decoder

from coprocess.transport.engine import Methods, Rpc
from coprocess.transport.engines import EngineChoice
from coprocess.transport.health import CHECK
from coprocess.transport.http2 import frames
from coprocess.transport.http2_engine import Http2Engine
from coprocess.transport.reflection import REFLECT, Reflection
from tests.engines.hooks import bare, tcp_connection
from tests.engines.test_http2_connections import read_frames
from tests.http2.peer import CALL, START, Fields, call, data, headers, message
from tests.server import PATIENCE_S, engine_options, status_of

_REFLECT_CALL: Fields = [*CALL[:2], (b":path", REFLECT.encode()), *CALL[3:]]
_CHECK_CALL: Fields = [*CALL[:2], (b":path", CHECK.encode()), *CALL[3:]]


def asking(symbol: str) -> bytes:
    return reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol).SerializeToString()


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_what_was_asked_for_before_the_end_is_answered_in_order(engine: EngineChoice) -> None:
    asked = [f"no.{number}" for number in range(20)]
    with bare(engine, Methods(bidi={REFLECT: Reflection([], []).begin})) as (client, _):
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = client.channel.stream_stream(REFLECT)
        replies = [
            reflection_pb2.ServerReflectionResponse.FromString(each)
            for each in stream(iter([asking(each) for each in asked]), timeout=PATIENCE_S)
        ]
    assert [each.original_request.file_containing_symbol for each in replies] == asked


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_what_is_no_request_ends_the_stream(engine: EngineChoice) -> None:
    with bare(engine, Methods(bidi={REFLECT: Reflection([], []).begin})) as (client, _):
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = client.channel.stream_stream(REFLECT)
        with pytest.raises(grpc.RpcError) as error:
            list(stream(iter([asking("a"), b"\xff"]), timeout=PATIENCE_S))
    assert status_of(error.value)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_others_are_answered_between_what_one_stream_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, all that came in one read was answered before anything else was read: a frame has thousands."""
    reflection = Reflection([], [])
    answered: list[int] = []
    by_library = reflection._servicer.ServerReflectionInfo

    def answer(*given: Any) -> Any:
        time.sleep(0.001)
        answered.append(1)
        return by_library(*given)

    monkeypatch.setattr(reflection._servicer, "ServerReflectionInfo", answer)
    before_check: list[int] = []

    def check(rpc: Rpc) -> None:
        before_check.append(len(answered))
        rpc.respond(b"")

    engine = Http2Engine(engine_options())
    address = engine.listen("127.0.0.1:0")
    with tcp_connection(address) as first, tcp_connection(address) as second:
        first.sendall(START + headers(1, _REFLECT_CALL) + data(1, message(asking("a")) * 60))
        second.sendall(START + call(1, b"", _CHECK_CALL))
        engine.start(Methods(unary={CHECK: check}, bidi={REFLECT: reflection.begin}))
        try:
            while not before_check:
                assert second.recv(frames.FRAME_HEADER_BYTES)
        finally:
            engine.stop()
    assert before_check[0] < 60


def test_a_stream_that_asks_for_too_much_at_one_time_is_ended() -> None:
    decoder = Decoder()
    with (
        bare("http2", Methods(bidi={REFLECT: Reflection([], []).begin})) as (client, _),
        tcp_connection(client.address) as connection,
    ):
        connection.sendall(START + headers(1, _REFLECT_CALL) + data(1, message(asking("a")) * 400))
        for frame in read_frames(connection):
            if frame.kind == frames.HEADERS:
                fields = dict(decoder.decode(frame.payload, raw=True))
                if frame.flags & frames.END_STREAM:
                    break
    assert fields[b"grpc-status"] == b"8"
    assert fields[b"grpc-message"] == b"too many requests at one time"
