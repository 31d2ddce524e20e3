"""`grpc.testing.TestService` on the http2 engine, as gRPC's description of its interop tests wants it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coprocess.errors import Status
from coprocess.transport.engine import BidiRpc, Metadata, Methods, Rpc, StreamRpc
from coprocess.transport.http2_engine import Http2Engine
from coprocess.transport.tls import TlsFiles
from tests.judges import interop_messages as messages
from tests.server import engine_options

_SERVICE = "/grpc.testing.TestService/"
_ECHO_INITIAL = "x-grpc-test-echo-initial"
_ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"


@contextmanager
def serving(*, only_streams: bool, tls: TlsFiles | None = None) -> Iterator[int]:
    """The port of the service on loopback.

    `only_streams`: each method is served as one with messages both ways, which may send metadata; else as
    what it is, where the engine's seam has that kind.
    """
    engine = Http2Engine(engine_options(tls=tls))
    address = engine.listen("127.0.0.1:0")
    engine.start(_only_streams() if only_streams else _of_each_kind())
    try:
        yield int(address.rpartition(":")[2])
    finally:
        engine.stop()


def _of_each_kind() -> Methods:
    return Methods(
        unary={f"{_SERVICE}EmptyCall": _empty_call, f"{_SERVICE}UnaryCall": _unary_call},
        server_streaming={f"{_SERVICE}StreamingOutputCall": _streaming_output_call},
        bidi=_STREAMS,
    )


def _only_streams() -> Methods:
    return Methods(
        bidi={
            f"{_SERVICE}EmptyCall": _empty_call_as_stream,
            f"{_SERVICE}UnaryCall": _unary_call_as_stream,
            f"{_SERVICE}StreamingOutputCall": _full_duplex_call,
            **_STREAMS,
        }
    )


def _empty_call(rpc: Rpc) -> None:
    rpc.respond(messages.Empty().SerializeToString())


def _empty_call_as_stream(rpc: BidiRpc) -> None:
    _with_one_message(rpc, lambda payload: rpc.finish(messages.Empty().SerializeToString()))


def _unary_call(rpc: Rpc) -> None:
    request = messages.SimpleRequest.FromString(rpc.payload)
    if request.response_status.code:
        rpc.fail(Status(request.response_status.code), request.response_status.message)
        return
    rpc.respond(_reply(request))


def _unary_call_as_stream(rpc: BidiRpc) -> None:
    trailing = _begin_with_echo(rpc)

    def answer(payload: bytes) -> None:
        request = messages.SimpleRequest.FromString(payload)
        if _has_ended_as_asked(rpc, request.response_status, trailing):
            return
        rpc.send(_reply(request))
        rpc.end(metadata=trailing)

    _with_one_message(rpc, answer)


def _with_one_message(rpc: BidiRpc, answer: Callable[[bytes], object]) -> None:
    """Answer as a method with one message does: a missing one, or another one, is the client's fault."""
    got: list[bytes] = []

    def half_closed() -> None:
        if len(got) == 1:
            answer(got[0])
        else:
            rpc.end(Status.UNIMPLEMENTED, f"{len(got)} messages; expected one")

    rpc.on_message, rpc.on_half_close = got.append, half_closed


def _reply(request: Any) -> bytes:
    reply = messages.SimpleResponse()
    reply.payload.body = bytes(request.response_size)
    if request.fill_server_id:
        reply.server_id = "the one"
    made: bytes = reply.SerializeToString()
    return made


def _streaming_output_call(rpc: StreamRpc) -> None:
    request = messages.StreamingOutputCallRequest.FromString(rpc.payload)
    *before, last = request.response_parameters
    for wanted in before:
        _pause(rpc, wanted)
        if not rpc.send(_part(wanted)):
            return  # The client is gone.
    _pause(rpc, last)
    rpc.respond(_part(last))


def _pause(rpc: StreamRpc, wanted: Any) -> None:
    if wanted.interval_us:
        rpc.may_block()
        time.sleep(wanted.interval_us / 1e6)


def _part(wanted: Any) -> bytes:
    reply = messages.StreamingOutputCallResponse()
    reply.payload.body = bytes(wanted.size)
    made: bytes = reply.SerializeToString()
    return made


def _streaming_input_call(rpc: BidiRpc) -> None:
    sizes_bytes: list[int] = []

    def message(payload: bytes) -> None:
        sizes_bytes.append(len(messages.StreamingInputCallRequest.FromString(payload).payload.body))

    def half_closed() -> None:
        reply = messages.StreamingInputCallResponse(aggregated_payload_size=sum(sizes_bytes))
        rpc.finish(reply.SerializeToString())

    rpc.on_message, rpc.on_half_close = message, half_closed


def _full_duplex_call(rpc: BidiRpc) -> None:
    """Answers at once: no client that asks here wants pauses in a call both ways."""
    trailing = _begin_with_echo(rpc)

    def message(payload: bytes) -> None:
        request = messages.StreamingOutputCallRequest.FromString(payload)
        if _has_ended_as_asked(rpc, request.response_status, trailing):
            return
        for wanted in request.response_parameters:
            rpc.send(_part(wanted))

    rpc.on_message, rpc.on_half_close = message, lambda: rpc.end(metadata=trailing)


def _has_ended_as_asked(rpc: BidiRpc, status: Any, trailing: Metadata) -> bool:
    """End the call with the status that the client wants, where it wants one."""
    if status.code:
        rpc.end(Status(status.code), status.message, metadata=trailing)
    return bool(status.code)


def _begin_with_echo(rpc: BidiRpc) -> Metadata:
    """Send the metadata that the client wants back first. Returns what it wants back last."""
    sent = rpc.metadata()
    if first := [(name, value) for name, value in sent if name == _ECHO_INITIAL]:
        rpc.begin(first)
    return [(name, value) for name, value in sent if name == _ECHO_TRAILING]


_STREAMS = {
    f"{_SERVICE}StreamingInputCall": _streaming_input_call,
    f"{_SERVICE}FullDuplexCall": _full_duplex_call,
}
