"""One connection of the http2 engine, with a client that does anything and a service that answers anyhow."""

from __future__ import annotations

from hpack import Encoder

from coprocess.errors import Status
from coprocess.transport.http2 import frames
from coprocess.transport.http2.frames import ErrorCode
from coprocess.transport.http2.limits import Limits
from tests.fuzz.source import Source
from tests.http2.peer import (
    CALL,
    START,
    STREAM_CALL,
    Echo,
    EchoCall,
    EchoStream,
    Fields,
    Recorded,
    apart,
    data,
    message,
    receive,
    receive_in_pieces,
)

LIMITS = Limits(
    max_metadata_bytes=2000,
    stream_window=100_000,
    max_message_bytes=1000,
    max_held_bytes=20_000,
    max_unsent_bytes=20_000,
    max_unsent_stream_bytes=10_000,
)
_STREAM_IDS = (0, 1, 2, 3, 5, 7, 9, 0x7FFF_FFFF, 0x8000_0001)
_FIELDS: Fields = [
    *STREAM_CALL,
    (b":path", b"/test.Echo/None"),
    (b":authority", b"a"),
    (b":status", b"200"),
    (b"grpc-timeout", b"1m"),
    (b"grpc-timeout", b"-"),
    (b"grpc-encoding", b"gzip"),
    (b"grpc-encoding", b"br"),
    (b"content-length", b"5"),
    (b"content-length", b"x"),
    (b"connection", b"close"),
    (b"te", b"gzip"),
    (b"key-bin", b"AAA="),
    (b"Upper", b"a"),
    (b"key", b"a\r\nb"),
    (b"cookie", b"a" * 500),
]


def play(raw: bytes) -> None:
    """Raises AssertionError where the books are wrong, or whatever the engine raises."""
    if raw[:1] < b"\xe0":
        _Play(Source(raw)).go()
    else:
        pieces_make_no_difference(Source(raw[1:]))


class _Play:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._echo = Echo(LIMITS)
        self._encoder = Encoder()
        self._next_id = 1
        self._unread = b""

    def go(self) -> None:
        moves = (
            self._call,
            self._open,
            self._more,
            self._fields,
            self._frame,
            self._raw,
            self._reply,
            self._send,
            self._fail,
            self._reset,
            self._expire,
            self._widen,
            self._setting,
            self._end,
        )
        source, http = self._source, self._echo.grpc.http
        for _ in range(_MOST_MOVES):
            if not source:
                break
            source.one_of(moves)()
            if source.below(4) or len(self._unread) > _MOST_UNREAD_BYTES:
                self._read()
        self._read()
        self._echo.grpc.lost()
        assert http.streams == {}
        assert http.held_bytes == http.sending.unsent_bytes == 0

    def _read(self) -> None:
        """What the client wrote comes, in two pieces."""
        cut = self._source.below(64)
        for piece in (self._unread[:cut], self._unread[cut:]):
            self._echo.send(piece)
        self._unread = b""
        http = self._echo.grpc.http
        streams = http.streams.values()
        assert http.held_bytes == sum(stream.held_bytes for stream in streams)
        assert http.sending.unsent_bytes == sum(stream.unsent_bytes for stream in streams)
        assert http.held_bytes <= LIMITS.max_held_bytes + LIMITS.max_message_bytes
        assert all(not stream.is_closed for stream in streams)
        assert http.sending.window >= 0
        for stream_id, response in self._echo.peer.responses.items():
            assert response.reset is None or stream_id
            assert not (response.trailers and not response.ended)

    # The client's.

    def _client(self, raw: bytes) -> None:
        self._unread += raw

    def _headers(self, fields: Fields, *, ends: bool) -> None:
        block = self._encoder.encode(fields)
        flags = frames.END_STREAM if ends else 0
        cut = self._source.number()
        if cut < 0xC0:
            raw = frames.frame(frames.HEADERS, flags | frames.END_HEADERS, self._next_id, block)
        else:
            cut -= 0xC0
            raw = frames.frame(frames.HEADERS, flags, self._next_id, block[:cut])
            raw += frames.frame(frames.CONTINUATION, frames.END_HEADERS, self._next_id, block[cut:])
        self._client(raw)
        self._next_id += 2

    def _call(self) -> None:
        self._headers(CALL, ends=False)
        self._client(data(self._next_id - 2, message(self._source.text()), ends=True))

    def _open(self) -> None:
        self._headers(STREAM_CALL, ends=False)

    def _more(self) -> None:
        source = self._source
        content = message(source.text(), compressed=not source.below(8))
        if not source.below(8):
            content = content[: source.number()]
        self._client(data(source.one_of(_STREAM_IDS), content, ends=not source.below(4)))

    def _fields(self) -> None:
        source = self._source
        fields = [source.one_of(_FIELDS) for _ in range(source.below(12))]
        self._headers(fields, ends=bool(source.below(2)))

    def _frame(self) -> None:
        source = self._source
        kind, flags = source.below(13), source.number()
        self._client(frames.frame(kind, flags, source.one_of(_STREAM_IDS), source.text()))

    def _raw(self) -> None:
        self._client(self._source.text())

    def _widen(self) -> None:
        source = self._source
        increment = source.number(1 + source.below(4))
        self._client(frames.window_update(source.one_of(_STREAM_IDS), increment & 0x7FFF_FFFF))

    def _setting(self) -> None:
        source = self._source
        self._client(
            frames.frame(frames.SETTINGS, 0, 0, source.number(1).to_bytes(2, "big") + source.piece(4))
        )

    # The service's.

    def _reply(self) -> None:
        if self._echo.calls:
            self._echo.grpc.respond(self._source.one_of(self._echo.calls).stream, self._source.text())

    def _send(self) -> None:
        if self._echo.streams:
            stream = self._source.one_of(self._echo.streams).stream
            if self._source.below(3):
                self._echo.grpc.send(stream, self._source.text())
            else:
                self._echo.grpc.finish(stream, self._source.text())

    def _fail(self) -> None:
        source = self._source
        taken: list[EchoCall | EchoStream] = [*self._echo.calls, *self._echo.streams]
        if taken:
            text = source.piece(4).decode("latin-1")
            self._echo.grpc.end(source.one_of(taken).stream, source.one_of(list(Status)), text)

    def _reset(self) -> None:
        taken: list[EchoCall | EchoStream] = [*self._echo.calls, *self._echo.streams]
        if taken:
            stream = self._source.one_of(taken).stream
            if not stream.is_closed:
                self._echo.grpc.http.reset(stream, ErrorCode.CANCEL)

    def _expire(self) -> None:
        timers = self._echo.timers
        if timers:
            _, callback, stream = timers.pop(self._source.below(len(timers)))
            assert callable(callback)
            callback(stream)

    def _end(self) -> None:
        """Rare: little happens after it."""
        http = self._echo.grpc.http
        choice = self._source.number()
        if choice == 1:
            http.announce_end()
        elif choice == 2:
            http.end()
        elif choice == 3:
            self._echo.grpc.give_up("over")
        elif choice == 4:
            self._echo.grpc.drop_overdue(1e9)
        elif choice == 5:
            http.sending.set_writable(bool(self._source.below(2)))
        elif choice == 6:
            self._echo.grpc.drop_unread()


def pieces_make_no_difference(source: Source) -> None:
    """The same bytes, read in one piece and in many, are the same events and answers."""
    sizes = [1 + source.number() for _ in range(4)]
    raw = START if source.below(8) else b""
    while source:
        if source.below(3):
            kind, flags = source.below(11), source.number()
            raw += frames.frame(kind, flags, source.one_of(_STREAM_IDS), source.text())
        else:
            raw += source.text()
    raw = raw[:_MOST_UNREAD_BYTES]
    whole, pieces = Recorded(LIMITS), Recorded(LIMITS)
    expected = receive(whole, raw)
    assert apart(receive_in_pieces(pieces, raw, sizes)) == apart(expected)
    assert pieces.connection.sending.take() == whole.connection.sending.take()
    assert pieces.connection.streams.keys() == whole.connection.streams.keys()


_MOST_MOVES = 60
_MOST_UNREAD_BYTES = 1 << 16
