"""The client's side, by hand: frames as bytes, so that also wrong ones can be sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

from coprocess.errors import Status
from coprocess.transport.http2 import frames
from coprocess.transport.http2.connection import Connection
from coprocess.transport.http2.frames import ConnectionFailure
from coprocess.transport.http2.grpc_connection import GrpcConnection, Method, Service
from coprocess.transport.http2.grpc_wire import Request
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.streams import Stream

METHOD = "/test.Echo/Unary"
STREAM_METHOD = "/test.Echo/Bidi"

Fields = list[tuple[bytes, bytes]]
PSEUDO: Fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", METHOD.encode())]
CALL: Fields = [*PSEUDO, (b"content-type", b"application/grpc"), (b"te", b"trailers")]
STREAM_CALL: Fields = [*PSEUDO[:2], (b":path", STREAM_METHOD.encode()), *CALL[3:]]

START = frames.PREFACE + frames.settings({})


def block(fields: Fields) -> bytes:
    """As a client encodes that uses no table."""
    return Encoder().encode([(name, value, True) for name, value in fields])


def headers(stream_id: int, fields: Fields, *, ends: bool = False, flags: int = frames.END_HEADERS) -> bytes:
    ending = frames.END_STREAM if ends else 0
    return frames.frame(frames.HEADERS, flags | ending, stream_id, block(fields))


def data(stream_id: int, payload: bytes, *, ends: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ends else 0, stream_id, payload)


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(payload).to_bytes(4, "big") + payload


def call(stream_id: int, payload: bytes = b"hello", fields: Fields = CALL) -> bytes:
    return headers(stream_id, fields) + data(stream_id, message(payload), ends=True)


@dataclass
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes


def parse(sent: bytes) -> list[Frame]:
    """Whole frames."""
    found = []
    position = 0
    while position < len(sent):
        high, low, kind, flags, stream_id = frames.FRAME_HEADER.unpack_from(sent, position)
        position += frames.FRAME_HEADER_BYTES
        end = position + (high << 16 | low)
        assert end <= len(sent)
        found.append(Frame(kind, flags, stream_id, sent[position:end]))
        position = end
    return found


@dataclass
class Response:
    """What came on one stream."""

    fields: Fields = field(default_factory=list)
    trailers: Fields = field(default_factory=list)
    content: bytes = b""
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> int:
        named = dict(self.fields + self.trailers)
        return int(named[b"grpc-status"])


@dataclass(frozen=True)
class RequestReceived:
    stream: Stream
    data: bytes
    ended: bool


@dataclass(frozen=True)
class DataReceived:
    stream: Stream
    data: bytes
    ended: bool


@dataclass(frozen=True)
class StreamReset:
    stream: Stream


@dataclass(frozen=True)
class PingAcknowledged:
    payload: bytes


@dataclass(frozen=True)
class ConnectionClosed:
    failure: ConnectionFailure


Event = RequestReceived | DataReceived | StreamReset | PingAcknowledged | ConnectionClosed


class Recorder:
    """A Receiver that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_request(self, stream: Stream, data: bytes, ended: bool) -> None:
        self.events.append(RequestReceived(stream, data, ended))

    def on_data(self, stream: Stream, data: bytes, ended: bool) -> None:
        self.events.append(DataReceived(stream, data, ended))

    def on_reset(self, stream: Stream) -> None:
        self.events.append(StreamReset(stream))

    def on_ping(self, payload: bytes) -> None:
        self.events.append(PingAcknowledged(payload))


class Recorded:
    """A Connection, and what it tells of."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = Recorder()
        self.connection = Connection(limits, self._recorder, clock)

    def events_of(self, raw: bytes) -> list[Event]:
        """What comes of `raw`, as far as it is taken at once."""
        events: list[Event] = []
        self._recorder.events = events
        failure = self.connection.receive(raw)
        return events if failure is None else [*events, ConnectionClosed(failure)]

    def all_events_of(self, raw: bytes) -> list[Event]:
        events = self.events_of(raw)
        while self.connection.is_behind:
            events += self.events_of(b"")
        return events


class Peer:
    """A client of a `Connection`, or of a `GrpcConnection`, in this process."""

    def __init__(self, connection: Connection | Recorded) -> None:
        self._recorded = connection if isinstance(connection, Recorded) else None
        self.connection = connection.connection if isinstance(connection, Recorded) else connection
        self.decoder = Decoder()
        self.frames: list[Frame] = []
        self.responses: dict[int, Response] = {}
        self.goaway: tuple[int, int] | None = None

    def read(self) -> list[Frame]:
        """What the server has to send since the last time."""
        found = parse(self.connection.sending.take())
        self.frames += found
        for each in found:
            response = self.responses.setdefault(each.stream_id, Response())
            if each.kind == frames.HEADERS:
                fields = [(name, value) for name, value in self.decoder.decode(each.payload, raw=True)]
                if response.fields:
                    response.trailers = fields
                else:
                    response.fields = fields
            elif each.kind == frames.DATA:
                response.content += each.payload
            elif each.kind == frames.RST_STREAM:
                response.reset = int.from_bytes(each.payload, "big")
            elif each.kind == frames.GOAWAY:
                self.goaway = (
                    int.from_bytes(each.payload[:4], "big"),
                    int.from_bytes(each.payload[4:8], "big"),
                )
            if each.kind in (frames.HEADERS, frames.DATA) and each.flags & frames.END_STREAM:
                response.ended = True
        return found

    def send(self, raw: bytes) -> list[Event]:
        """As a server reads it; what came back is read."""
        assert self._recorded is not None
        events = self._recorded.all_events_of(raw)
        self.read()
        return events


def started(limits: Limits | None = None) -> Peer:
    """After both prefaces."""
    peer = Peer(Recorded(limits or Limits()))
    peer.send(START)
    return peer


def told(event: Event) -> tuple[object, ...]:
    if isinstance(event, RequestReceived):
        return ("request", event.stream.id, event.stream.fields.fields, event.data, event.ended)
    if isinstance(event, DataReceived):
        return ("data", event.stream.id, event.data, event.ended)
    if isinstance(event, ConnectionClosed):
        return ("closed", event.failure.code)
    if isinstance(event, PingAcknowledged):
        return ("ping", event.payload)
    return ("reset", event.stream.id)


def receive(connection: Recorded, raw: bytes) -> list[tuple[object, ...]]:
    """What came of it, so that it can be compared with what came of another connection."""
    return [told(event) for event in connection.all_events_of(raw)]


def receive_in_pieces(connection: Recorded, raw: bytes, sizes: Sequence[int]) -> list[tuple[object, ...]]:
    """The same of pieces of these sizes, again and again."""
    found: list[tuple[object, ...]] = []
    position = index = 0
    while position < len(raw):
        size = sizes[index % len(sizes)]
        found += receive(connection, raw[position : position + size])
        position, index = position + size, index + 1
    return found


def apart(told: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """What came with a request as what comes after it: that depends on the pieces."""
    found: list[tuple[object, ...]] = []
    for each in told:
        if each[0] == "request" and each[3]:
            found += ((*each[:3], b"", False), ("data", each[1], *each[3:]))
        else:
            found.append(each)
    return found


class Echo:
    """A service of two methods, answered by hand, in this thread."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.calls: list[EchoCall] = []
        self.streams: list[EchoStream] = []
        self.timers: list[tuple[float, object, Stream]] = []
        self.pings: list[bytes] = []
        methods = {METHOD: Method(begin=self._begin), STREAM_METHOD: Method(open=self._open)}
        self.service = Service(methods, limits or Limits(), self._call_later)
        self.grpc = GrpcConnection(self.service, None, self.pings.append, lambda: None)
        self.peer = Peer(self.grpc.http)
        self.send(START)

    def send(self, raw: bytes) -> ConnectionFailure | None:
        failure = self.grpc.receive(raw)
        while failure is None and self.grpc.http.is_behind:
            failure = self.grpc.receive(b"")
        self.peer.read()
        return failure

    def respond(self, number: int, reply: bytes) -> None:
        self.grpc.respond(self.calls[number].stream, reply)
        self.peer.read()

    def fail(self, number: int, status: Status, text: str, details: bytes = b"") -> None:
        self.grpc.end(self.calls[number].stream, status, text, details)
        self.peer.read()

    def response(self, stream_id: int) -> Response:
        return self.peer.responses[stream_id]

    def _begin(
        self, grpc: GrpcConnection, stream: Stream, request: Request, payload: bytes, is_compressed: bool
    ) -> EchoCall:
        self.calls.append(EchoCall(stream, request, payload, is_compressed))
        return self.calls[-1]

    def _open(self, grpc: GrpcConnection, stream: Stream, request: Request) -> EchoStream:
        self.streams.append(EchoStream(stream, request))
        return self.streams[-1]

    def _call_later(self, delay_s: float, callback: object, stream: Stream) -> Timer:
        self.timers.append((delay_s, callback, stream))
        return Timer()


class Timer:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class EchoCall:
    stream: Stream
    request: Request
    payload: bytes
    is_compressed: bool
    is_cancelled: bool = False

    def cancelled(self, stream: Stream) -> None:
        self.is_cancelled = True


@dataclass
class EchoStream:
    stream: Stream
    request: Request
    messages: list[bytes] = field(default_factory=list)
    is_half_closed: bool = False
    is_cancelled: bool = False

    def received(self, payload: bytes) -> None:
        self.messages.append(payload)

    def half_closed(self) -> None:
        self.is_half_closed = True

    def cancelled(self, stream: Stream) -> None:
        self.is_cancelled = True
