"""Field blocks that take long are decoded in steps: others have their turns, and the same comes of it."""

from __future__ import annotations

import os

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess.transport.http2 import frames
from coprocess.transport.http2.control_frames import FEWER_FRAMES_AT_ONCE
from coprocess.transport.http2.fields import FieldDecoder, _pieces
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode, StreamFailure
from tests.http2.peer import (
    CALL,
    ConnectionClosed,
    Echo,
    Fields,
    RequestReceived,
    StreamReset,
    call,
    headers,
    started,
)

#: For a long campaign: `make fuzz`.
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
_MANY: Fields = [(b"x-%d" % number, b"%030d" % number) for number in range(200)]
_LONG = [*CALL, *_MANY]
_FEW_AT_ONCE = 4

texts = st.text("abcdefgh-019", min_size=1, max_size=300).map(str.encode)
fields = st.lists(st.tuples(texts, texts, st.booleans()), max_size=40)


def ignore(steps: int) -> None: ...


def outcome(decoder: FieldDecoder, block: bytes, *, in_steps: bool) -> object:
    """What comes of a request with `block`: its fields, or how it fails."""
    try:
        if in_steps:
            for _ in decoder.decode_in_steps(block):
                pass
        request = decoder.request(block)
    except ConnectionFailure as failure:
        return failure.code, failure.reason
    except StreamFailure as failure:
        return failure.reason
    return request.fields, request.is_too_large, request.content_length, block in decoder.seen


@given(st.lists(fields, min_size=1, max_size=4), st.booleans())
@settings(max_examples=60 * TIMES, deadline=None)
def test_a_block_in_steps_is_what_it_is_as_a_whole(lists: list[Fields], huffman: bool) -> None:
    """Also where each changes the table for the next."""
    encoder = Encoder()
    whole, steps = FieldDecoder(4000, ignore), FieldDecoder(4000, ignore)
    for each in lists:
        block = encoder.encode([*CALL, *each], huffman=huffman)
        pieces = list(_pieces(block))
        assert b"".join(pieces) == block
        assert all(len(piece) >= 1024 for piece in pieces[:-1])
        assert all(len(piece) < 2048 for piece in pieces)
        assert outcome(steps, block, in_steps=True) == outcome(whole, block, in_steps=False)


@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
@settings(max_examples=300 * TIMES, deadline=None)
def test_what_is_no_block_fails_as_it_does_as_a_whole(first: bytes, last: bytes, is_long: bool) -> None:
    block = first + (Encoder().encode(_LONG) if is_long else b"") + last
    assert b"".join(_pieces(block)) == block
    expected = outcome(FieldDecoder(20_000, ignore), block, in_steps=False)
    assert outcome(FieldDecoder(20_000, ignore), block, in_steps=True) == expected


def test_a_change_of_the_tables_size_after_a_field_is_an_error_in_any_piece() -> None:
    block = Encoder().encode(_LONG)
    at = len(next(_pieces(block)))
    for place in (at, len(block)):
        late = block[:place] + b"\x20" + block[place:]
        assert outcome(FieldDecoder(20_000, ignore), late, in_steps=True) == (
            ErrorCode.COMPRESSION_ERROR,
            "a field block that is no HPACK: HPACKDecodingError",
        )


def test_the_sum_of_all_pieces_is_bounded() -> None:
    many = [(b"x-%d" % number, b"%030d" % number) for number in range(600)]
    block = Encoder().encode([*CALL, *many])
    assert outcome(FieldDecoder(1000, ignore), block, in_steps=True) == (
        ErrorCode.ENHANCE_YOUR_CALM,
        "the header list is too large",
    )


def test_others_have_their_turns_while_a_block_is_decoded() -> None:
    """Once, a block of 32 KiB was decoded in one step of up to 9 ms."""
    peer = started()
    connection = peer.connection
    connection.frames_at_once = FEWER_FRAMES_AT_ONCE
    ping = frames.frame(frames.PING, 0, 0, bytes(8))
    connection.receive(headers(1, _LONG, ends=True) + ping)
    turns = 0
    while connection.is_behind:
        assert not connection.streams
        assert peer.read() == []
        turns += 1
        connection.receive(b"")
    assert turns >= 3
    assert list(connection.streams) == [1]
    assert [frame.kind for frame in peer.read()] == [frames.PING]


def test_a_long_block_is_a_request_as_any() -> None:
    peer = started()
    events = peer.send(headers(1, _LONG, ends=True))
    assert [type(event) for event in events] == [RequestReceived]
    assert isinstance(events[0], RequestReceived)
    assert events[0].stream.fields.fields == _LONG


def test_a_long_request_that_is_malformed_ends_its_stream_only() -> None:
    peer = started()
    events = peer.send(headers(1, [*_LONG, (b"Upper", b"1")], ends=True) + headers(3, CALL, ends=True))
    assert [type(event) for event in events] == [RequestReceived]
    assert peer.responses[1].reset == ErrorCode.PROTOCOL_ERROR
    assert 3 not in peer.responses


def test_a_long_block_that_cannot_be_decoded_ends_the_connection() -> None:
    peer = started()
    block = Encoder().encode(_LONG) + b"\x80"
    raw = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    events = peer.send(raw + headers(3, CALL, ends=True))
    assert [type(event) for event in events] == [ConnectionClosed]


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_long_block_after_the_first_is_of_its_stream(is_closed: bool) -> None:
    """As trailers; or, where the stream is closed, to be ignored. Both change the table for the next."""
    encoder = Encoder()

    def section(stream_id: int, of: Fields, flags: int = frames.END_STREAM) -> bytes:
        return frames.frame(frames.HEADERS, frames.END_HEADERS | flags, stream_id, encoder.encode(of))

    peer = started()
    peer.send(section(1, CALL, flags=0))
    if is_closed:
        peer.connection.reset(peer.connection.streams[1], ErrorCode.CANCEL)
    events = peer.send(section(1, _MANY))
    assert not any(isinstance(event, StreamReset | ConnectionClosed) for event in events)
    last = [*CALL, *_MANY[-20:]]
    events = peer.send(section(3, last))
    assert isinstance(events[0], RequestReceived)
    assert events[0].stream.fields.fields == last


def test_calls_with_long_blocks_are_answered_in_whatever_steps() -> None:
    echo = Echo()
    echo.grpc.http.frames_at_once = _FEW_AT_ONCE
    raw = b"".join(call(1 + 2 * number, b"%d" % number, _LONG) for number in range(5))
    echo.send(raw)
    while echo.grpc.http.is_behind:
        echo.send(b"")
    assert [each.payload for each in echo.calls] == [b"%d" % number for number in range(5)]
