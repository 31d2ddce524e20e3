"""Whatever comes, in whatever pieces, the same events come of it, and nothing is raised."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess.transport.http2 import frames
from coprocess.transport.http2.frames import ErrorCode, Setting
from coprocess.transport.http2.limits import Limits
from tests.http2.peer import (
    CALL,
    START,
    STREAM_CALL,
    ConnectionClosed,
    Echo,
    Recorded,
    apart,
    call,
    data,
    headers,
    message,
    receive,
    receive_in_pieces,
)

#: For a long campaign: `make fuzz`.
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
LIMITS = Limits(max_metadata_bytes=2000, stream_window=100_000, max_message_bytes=1000)


stream_ids = st.integers(0, 9)
payloads = st.binary(max_size=40)
valid = st.one_of(
    st.builds(headers, stream_ids, st.sampled_from([CALL, STREAM_CALL, CALL[1:]]), ends=st.booleans()),
    st.builds(data, stream_ids, payloads, ends=st.booleans()),
    st.builds(call, stream_ids, payloads),
    st.builds(frames.rst_stream, stream_ids, st.integers(0, 13)),
    st.builds(frames.window_update, stream_ids, st.integers(0, 0x7FFF_FFFF)),
    st.builds(lambda size: frames.settings({Setting.INITIAL_WINDOW_SIZE: size}), st.integers(0, 1 << 31)),
    st.builds(frames.frame, st.integers(0, 12), st.integers(0, 255), stream_ids, payloads),
    st.just(frames.SETTINGS_ACK),
    st.just(frames.frame(frames.PING, frames.ACK, 0, bytes(8))),
    payloads,
)
streams_of_bytes = st.lists(valid, max_size=30).map(b"".join)


@given(streams_of_bytes, st.lists(st.integers(1, 60), min_size=1, max_size=20))
@settings(max_examples=150 * TIMES, deadline=None)
def test_pieces_make_no_difference(raw: bytes, sizes: list[int]) -> None:
    raw = START + raw
    whole, pieces = Recorded(LIMITS), Recorded(LIMITS)
    expected = receive(whole, raw)
    assert apart(receive_in_pieces(pieces, raw, sizes)) == apart(expected)
    assert pieces.connection.sending.take() == whole.connection.sending.take()
    assert pieces.connection.streams.keys() == whole.connection.streams.keys()


@given(streams_of_bytes)
@settings(max_examples=300 * TIMES, deadline=None)
def test_nothing_is_raised_and_the_books_are_right(raw: bytes) -> None:
    echo = Echo(LIMITS)
    echo.grpc.receive(raw)
    http = echo.grpc.http
    for number, made in enumerate(echo.calls):
        if number % 2:
            echo.grpc.respond(made.stream, b"reply")
        elif not made.stream.is_closed:
            http.reset(made.stream, ErrorCode.CANCEL)
    assert http.held_bytes == sum(stream.held_bytes for stream in http.streams.values())
    assert http.sending.unsent_bytes == sum(stream.unsent_bytes for stream in http.streams.values())
    echo.grpc.lost()
    assert http.streams == {}
    assert http.held_bytes == http.sending.unsent_bytes == 0


@given(st.binary(max_size=200))
@settings(max_examples=200 * TIMES, deadline=None)
def test_garbage_is_a_connection_error_or_is_waited_for(raw: bytes) -> None:
    recorded = Recorded(LIMITS)
    events = recorded.events_of(frames.PREFACE[: len(raw) % 25] + raw)
    assert (
        all(isinstance(event, ConnectionClosed) for event in events[-1:]) or not recorded.connection.is_closed
    )


@given(st.lists(payloads, max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=10))
@settings(max_examples=100 * TIMES, deadline=None)
def test_messages_in_whatever_pieces(messages: list[bytes], sizes: list[int]) -> None:
    echo = Echo(LIMITS)
    echo.send(headers(1, STREAM_CALL))
    raw = b"".join(message(each) for each in messages)
    position = index = 0
    while position < len(raw):
        size = sizes[index % len(sizes)]
        echo.send(data(1, raw[position : position + size]))
        position, index = position + size, index + 1
    echo.send(data(1, b"", ends=True))
    (stream,) = echo.streams
    assert (stream.messages, stream.is_half_closed) == (messages, True)
