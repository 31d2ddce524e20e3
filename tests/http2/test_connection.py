"""The rules of RFC 9113, one by one, on a state machine without a socket."""

from __future__ import annotations

import gzip
import struct
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hpack import Encoder
from packaging.requirements import Requirement

from coprocess.errors import Status
from coprocess.transport.http2 import frames
from coprocess.transport.http2.frames import ErrorCode, Setting
from coprocess.transport.http2.frames import ErrorCode as E
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.sending import Block
from coprocess.transport.http2.streams import Stream
from tests.http2.peer import (
    CALL,
    PSEUDO,
    START,
    STREAM_CALL,
    ConnectionClosed,
    DataReceived,
    Echo,
    Event,
    Fields,
    Frame,
    Peer,
    PingAcknowledged,
    Recorded,
    RequestReceived,
    StreamReset,
    block,
    call,
    data,
    headers,
    message,
    parse,
    started,
)

SMALL = Limits(
    max_metadata_bytes=1000, max_concurrent_streams=3, connection_window=70_000, stream_window=1000
)


def failed(peer: Peer) -> ErrorCode:
    """Why the connection ended."""
    assert peer.connection.is_closed
    assert peer.goaway is not None
    return ErrorCode(peer.goaway[1])


def reset(peer: Peer, stream_id: int = 1) -> ErrorCode:
    """Why a stream ended, and nothing but the stream."""
    assert not peer.connection.is_closed
    code = peer.responses[stream_id].reset
    assert code is not None
    assert stream_id not in peer.connection.streams
    return ErrorCode(code)


def opened(events: list[Event]) -> Stream:
    (event,) = [event for event in events if isinstance(event, RequestReceived)]
    return event.stream


def test_the_server_begins_with_its_settings() -> None:
    peer = Peer(Recorded(SMALL))
    first, second = peer.read()
    assert (first.kind, first.flags, first.stream_id) == (frames.SETTINGS, 0, 0)
    assert dict(frames.parse_settings(first.payload)) == {
        Setting.MAX_CONCURRENT_STREAMS: 3,
        Setting.INITIAL_WINDOW_SIZE: 1000,
        Setting.MAX_HEADER_LIST_SIZE: 1000,
    }
    assert (second.kind, int.from_bytes(second.payload, "big")) == (frames.WINDOW_UPDATE, 70_000 - 65_535)


def test_a_request() -> None:
    peer = started()
    first, second = peer.send(call(1, b"hello"))
    assert isinstance(first, RequestReceived)
    assert first.stream.fields.fields == CALL
    assert isinstance(second, DataReceived)
    assert (second.data, second.ended) == (b"\0\0\0\0\5hello", True)


@pytest.mark.parametrize(
    ("raw", "code"),
    {
        "an HTTP/1.1 request": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", E.PROTOCOL_ERROR),
        "no SETTINGS first": (frames.PREFACE + frames.frame(6, 0, 0, bytes(8)), E.PROTOCOL_ERROR),
        "an ACK first": (frames.PREFACE + frames.SETTINGS_ACK, E.PROTOCOL_ERROR),
    }.values(),
)
def test_a_wrong_start(raw: bytes, code: ErrorCode) -> None:
    peer = Peer(Recorded(Limits()))
    peer.read()
    (event,) = peer.send(raw)
    assert isinstance(event, ConnectionClosed)
    assert failed(peer) == code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frames.frame(kind, flags, stream_id, payload)


CONNECTION_ERRORS = {
    "a frame that is too long": (frame(0, 0, 1, bytes(16_385)), E.FRAME_SIZE_ERROR),
    "the longest length there is": (b"\xff\xff\xff\0\0\0\0\0\1", E.FRAME_SIZE_ERROR),
    "DATA on stream 0": (data(0, b"x"), E.PROTOCOL_ERROR),
    "DATA on an idle stream": (data(1, b"x"), E.PROTOCOL_ERROR),
    "DATA on a stream that ended": (call(1) + frames.rst_stream(1, 8) + data(1, b"x"), E.STREAM_CLOSED),
    "only padding": (headers(1, CALL) + frame(0, frames.PADDED, 1, b"\2x"), E.PROTOCOL_ERROR),
    "no padding length": (headers(1, CALL) + frame(0, frames.PADDED, 1), E.FRAME_SIZE_ERROR),
    "HEADERS on stream 0": (headers(0, CALL), E.PROTOCOL_ERROR),
    "HEADERS on an even stream": (headers(2, CALL), E.PROTOCOL_ERROR),
    "HEADERS on a lower stream": (call(5) + call(3), E.PROTOCOL_ERROR),
    "HEADERS on a stream that ended": (
        call(1) + frames.rst_stream(1, 8) + headers(1, CALL),
        E.STREAM_CLOSED,
    ),
    "HEADERS too short for a priority": (
        frame(1, frames.END_HEADERS | frames.WITH_PRIORITY, 1, bytes(4)),
        E.FRAME_SIZE_ERROR,
    ),
    "padded HEADERS too short for a priority": (
        frame(1, frames.END_HEADERS | frames.WITH_PRIORITY | frames.PADDED, 1, bytes(5)),
        E.FRAME_SIZE_ERROR,
    ),
    "padding that leaves no room for a priority": (
        frame(1, frames.END_HEADERS | frames.WITH_PRIORITY | frames.PADDED, 1, b"\1" + bytes(5)),
        E.PROTOCOL_ERROR,
    ),
    "HEADERS that depend on themselves": (
        frame(1, frames.END_HEADERS | frames.WITH_PRIORITY, 1, struct.pack(">LB", 1, 9) + block(CALL)),
        E.PROTOCOL_ERROR,
    ),
    "broken HPACK": (frame(1, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), E.COMPRESSION_ERROR),
    "an unknown index": (frame(1, frames.END_HEADERS, 1, b"\xbe"), E.COMPRESSION_ERROR),
    "a table that is too large": (frame(1, frames.END_HEADERS, 1, b"\x3f\xe2\x1f"), E.COMPRESSION_ERROR),
    "more than two sizes of the table": (
        frame(1, frames.END_HEADERS, 1, b"\x20\x3f\xe1\x1f\x20" + block(CALL)),
        E.COMPRESSION_ERROR,
    ),
    "a size of the table after a field": (
        frame(1, frames.END_HEADERS, 1, block(CALL) + b"\x20"),
        E.COMPRESSION_ERROR,
    ),
    "something between HEADERS and CONTINUATION": (
        headers(1, CALL, flags=0) + frame(6, 0, 0, bytes(8)),
        E.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        headers(1, CALL, flags=0) + frame(9, frames.END_HEADERS, 3),
        E.PROTOCOL_ERROR,
    ),
    "CONTINUATION without HEADERS": (frame(9, frames.END_HEADERS, 1), E.PROTOCOL_ERROR),
    "PRIORITY on stream 0": (frame(2, 0, 0, struct.pack(">LB", 3, 9)), E.PROTOCOL_ERROR),
    "PRIORITY of another length on an idle stream": (frame(2, 0, 1, bytes(4)), E.FRAME_SIZE_ERROR),
    "PRIORITY on itself": (frame(2, 0, 3, struct.pack(">LB", 3, 9)), E.PROTOCOL_ERROR),
    "RST_STREAM on stream 0": (frames.rst_stream(0, 8), E.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (frames.rst_stream(1, 8), E.PROTOCOL_ERROR),
    "RST_STREAM of another length": (call(1) + frame(3, 0, 1, bytes(3)), E.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frame(4, 0, 1), E.PROTOCOL_ERROR),
    "SETTINGS of another length": (frame(4, 0, 0, bytes(5)), E.FRAME_SIZE_ERROR),
    "an ACK that says something": (frame(4, 1, 0, bytes(6)), E.FRAME_SIZE_ERROR),
    "ENABLE_PUSH of 2": (frames.settings({Setting.ENABLE_PUSH: 2}), E.PROTOCOL_ERROR),
    "an INITIAL_WINDOW_SIZE of 2^31": (
        frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}),
        E.FLOW_CONTROL_ERROR,
    ),
    "a MAX_FRAME_SIZE that is too small": (
        frames.settings({Setting.MAX_FRAME_SIZE: 16_383}),
        E.PROTOCOL_ERROR,
    ),
    "a MAX_FRAME_SIZE that is too large": (
        frames.settings({Setting.MAX_FRAME_SIZE: 1 << 24}),
        E.PROTOCOL_ERROR,
    ),
    "PUSH_PROMISE": (frame(5, frames.END_HEADERS, 1, bytes(4)), E.PROTOCOL_ERROR),
    "PING on a stream": (frame(6, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
    "PING of another length": (frame(6, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frame(7, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
    "GOAWAY too short": (frame(7, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of another length": (frame(8, 0, 0, bytes(3)), E.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by 0": (frames.window_update(0, 0), E.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (frames.window_update(1, 1), E.PROTOCOL_ERROR),
    "WINDOW_UPDATE on a stream of ours": (call(3) + frames.window_update(2, 1), E.PROTOCOL_ERROR),
    "a window that overflows": (frames.window_update(0, 0x7FFF_FFFF), E.FLOW_CONTROL_ERROR),
    "a stream's window that overflows by SETTINGS": (
        headers(1, CALL)
        + frames.window_update(1, 65_535)
        + frames.settings({Setting.INITIAL_WINDOW_SIZE: 0x7FFF_FFFF}),
        E.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize(("raw", "code"), CONNECTION_ERRORS.values(), ids=list(CONNECTION_ERRORS))
def test_what_ends_the_connection(raw: bytes, code: ErrorCode) -> None:
    peer = started()
    events = peer.send(raw)
    assert isinstance(events[-1], ConnectionClosed)
    assert failed(peer) == code
    assert peer.send(call(101)) == []  # Nothing more is read.


def with_field(name: bytes, value: bytes) -> Fields:
    return [*CALL, (name, value)]


STREAM_ERRORS = {
    "upper case": (headers(1, with_field(b"X-Upper", b"x")), E.PROTOCOL_ERROR),
    "a space in a name": (headers(1, with_field(b"a b", b"x")), E.PROTOCOL_ERROR),
    "a colon in a name": (headers(1, with_field(b"a:b", b"x")), E.PROTOCOL_ERROR),
    "a name beyond ASCII": (headers(1, with_field(b"a\xe9", b"x")), E.PROTOCOL_ERROR),
    "DEL in a name": (headers(1, with_field(b"a\x7f", b"x")), E.PROTOCOL_ERROR),
    "an empty name": (headers(1, with_field(b"", b"x")), E.PROTOCOL_ERROR),
    "a line break in a value": (headers(1, with_field(b"a", b"x\r\ny")), E.PROTOCOL_ERROR),
    "a zero byte in a value": (headers(1, with_field(b"a", b"\0")), E.PROTOCOL_ERROR),
    "CR in a value": (headers(1, with_field(b"a", b"x\ry")), E.PROTOCOL_ERROR),
    "LF in a value": (headers(1, with_field(b"a", b"x\ny")), E.PROTOCOL_ERROR),
    "space before a value": (headers(1, with_field(b"a", b" x")), E.PROTOCOL_ERROR),
    "space behind a value": (headers(1, with_field(b"a", b"x ")), E.PROTOCOL_ERROR),
    "a tab before a value": (headers(1, with_field(b"a", b"\tx")), E.PROTOCOL_ERROR),
    "a tab behind a value": (headers(1, with_field(b"a", b"x\t")), E.PROTOCOL_ERROR),
    "a line break in a path": (
        headers(1, [*PSEUDO[:2], (b":path", b"/a\r\nb"), *CALL[3:]]),
        E.PROTOCOL_ERROR,
    ),
    "connection": (headers(1, with_field(b"connection", b"close")), E.PROTOCOL_ERROR),
    "proxy-connection": (headers(1, with_field(b"proxy-connection", b"close")), E.PROTOCOL_ERROR),
    "keep-alive": (headers(1, with_field(b"keep-alive", b"timeout=5")), E.PROTOCOL_ERROR),
    "upgrade": (headers(1, with_field(b"upgrade", b"websocket")), E.PROTOCOL_ERROR),
    "transfer-encoding": (headers(1, with_field(b"transfer-encoding", b"chunked")), E.PROTOCOL_ERROR),
    "te other than trailers": (headers(1, [*PSEUDO, (b"te", b"gzip")]), E.PROTOCOL_ERROR),
    "an unknown pseudo-header": (headers(1, [(b":a", b"x"), *CALL]), E.PROTOCOL_ERROR),
    "one of responses": (headers(1, [(b":status", b"200"), *CALL]), E.PROTOCOL_ERROR),
    "a pseudo-header twice": (headers(1, [PSEUDO[0], *CALL]), E.PROTOCOL_ERROR),
    "a pseudo-header after others": (headers(1, [*CALL, (b":authority", b"a")]), E.PROTOCOL_ERROR),
    "no method": (headers(1, CALL[1:]), E.PROTOCOL_ERROR),
    "no scheme": (headers(1, [CALL[0], *CALL[2:]]), E.PROTOCOL_ERROR),
    "no path": (headers(1, [*PSEUDO[:2], *CALL[3:]]), E.PROTOCOL_ERROR),
    "an empty path": (headers(1, [*PSEUDO[:2], (b":path", b"")]), E.PROTOCOL_ERROR),
    "a host that is not the authority": (
        headers(1, [*PSEUDO, (b":authority", b"a.test"), *CALL[3:], (b"host", b"b.test")]),
        E.PROTOCOL_ERROR,
    ),
    "a host with another port": (
        headers(1, [*PSEUDO, (b":authority", b"a.test:443"), *CALL[3:], (b"host", b"a.test")]),
        E.PROTOCOL_ERROR,
    ),
    "two hosts": (headers(1, [*CALL, (b"host", b"a.test"), (b"host", b"b.test")]), E.PROTOCOL_ERROR),
    "CONNECT with a path": (headers(1, [(b":method", b"CONNECT"), *CALL[1:]]), E.PROTOCOL_ERROR),
    "more than content-length": (
        headers(1, with_field(b"content-length", b"1")) + data(1, b"xx"),
        E.PROTOCOL_ERROR,
    ),
    "less than content-length": (
        headers(1, with_field(b"content-length", b"3")) + data(1, b"xx", ends=True),
        E.PROTOCOL_ERROR,
    ),
    "nothing of content-length": (
        headers(1, with_field(b"content-length", b"3"), ends=True),
        E.PROTOCOL_ERROR,
    ),
    "less than content-length, then trailers": (
        headers(1, with_field(b"content-length", b"3"))
        + data(1, b"xx")
        + headers(1, [(b"a", b"b")], ends=True),
        E.PROTOCOL_ERROR,
    ),
    "a content-length of more digits than are read": (
        headers(1, with_field(b"content-length", b"9" * 5000)),
        E.PROTOCOL_ERROR,
    ),
    "a content-length that is none": (headers(1, with_field(b"content-length", b"+1")), E.PROTOCOL_ERROR),
    "two content-lengths": (
        headers(1, [*CALL, (b"content-length", b"1"), (b"content-length", b"2")]),
        E.PROTOCOL_ERROR,
    ),
    "trailers without END_STREAM": (headers(1, CALL) + headers(1, [(b"a", b"b")]), E.PROTOCOL_ERROR),
    "a pseudo-header in trailers": (headers(1, CALL) + headers(1, PSEUDO, ends=True), E.PROTOCOL_ERROR),
    "upper case in trailers": (
        headers(1, CALL) + headers(1, [(b"X-Upper", b"x")], ends=True),
        E.PROTOCOL_ERROR,
    ),
    "DATA after trailers": (headers(1, CALL) + headers(1, [], ends=True) + data(1, b"x"), E.STREAM_CLOSED),
    "DATA after the end": (call(1) + data(1, b"x"), E.STREAM_CLOSED),
    "HEADERS after the end": (call(1) + headers(1, CALL), E.STREAM_CLOSED),
    "PRIORITY of another length": (call(1) + frame(2, 0, 1, bytes(4)), E.FRAME_SIZE_ERROR),
    "a stream's WINDOW_UPDATE by 0": (call(1) + frames.window_update(1, 0), E.PROTOCOL_ERROR),
    "a stream's window that overflows": (
        call(1) + frames.window_update(1, 0x7FFF_FFFF),
        E.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize(("raw", "code"), STREAM_ERRORS.values(), ids=list(STREAM_ERRORS))
def test_what_ends_the_stream_only(raw: bytes, code: ErrorCode) -> None:
    peer = started()
    peer.send(raw)
    assert reset(peer) == code
    assert opened(peer.send(call(3))).id == 3


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (b"a.test:5555", b"a.test:5555"),
        (b"A.test", b"a.TEST"),
        (b"a.test:80", b"a.test"),
        (b"a.test", b"a.test:"),
        (b"[::1]:80", b"[::1]"),
    ],
)
def test_a_host_that_is_the_authority(authority: bytes, host: bytes) -> None:
    fields = [*PSEUDO, (b":authority", authority), *CALL[3:], (b"host", host)]
    assert opened(started().send(headers(1, fields))).id == 1


def test_a_host_without_an_authority() -> None:
    assert opened(started().send(headers(1, with_field(b"host", b"a.test")))).id == 1


def test_what_was_on_its_way_to_a_stream_that_we_reset_is_ignored() -> None:
    peer = started()
    peer.send(headers(1, with_field(b"X", b"y")))
    assert reset(peer) == E.PROTOCOL_ERROR
    late = data(1, b"x") + headers(1, [(b"a", b"b")]) + frames.window_update(1, 1) + frames.rst_stream(1, 8)
    assert peer.send(late) == []
    assert not peer.connection.is_closed


def test_what_was_on_its_way_to_many_streams_that_we_reset_is_ignored() -> None:
    """All that may be open at one time, as where each is refused by its header fields."""
    count = 2000
    peer = started(Limits(max_concurrent_streams=count))
    peer.send(b"".join(headers(2 * number + 1, with_field(b"X", b"y")) for number in range(count)))
    assert peer.send(b"".join(data(2 * number + 1, b"x", ends=True) for number in range(count))) == []
    assert not peer.connection.is_closed


def test_bits_that_are_reserved_are_ignored() -> None:
    """Of a stream's identifier, and of an increment (§4.1, §6.9)."""
    peer = started()
    opens = bytearray(headers(1, CALL))
    opens[5] |= 0x80
    stream = opened(peer.send(bytes(opens) + frame(8, 0, 1, (1 << 31 | 10).to_bytes(4, "big"))))
    assert (stream.id, stream.send_window) == (1, 65_545)


def test_frames_of_unknown_types_and_unknown_settings_are_ignored() -> None:
    peer = started()
    assert peer.send(frame(0x42, 0xFF, 77, b"x") + frame(4, 0, 0, struct.pack(">HL", 0x99, 5))) == []
    assert not peer.connection.is_closed


def test_padding_and_priority_are_stripped() -> None:
    peer = started()
    section = b"\3" + struct.pack(">LB", 0, 9) + block(CALL) + b"\0\0\0"
    flags = frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY
    events = peer.send(frame(1, flags, 1, section) + frame(0, frames.PADDED | 1, 1, b"\2hi\0\0"))
    assert opened(events).fields.fields == CALL
    assert isinstance(events[-1], DataReceived)
    assert (events[-1].data, events[-1].ended) == (b"hi", True)


def test_a_field_section_in_pieces() -> None:
    peer = started()
    section = block(CALL)
    raw = frame(1, frames.END_STREAM, 1, section[:5]) + frame(9, 0, 1, section[5:9])
    assert peer.send(raw) == []
    assert peer.connection.awaits_rest_of is not None
    (event,) = peer.send(frame(9, frames.END_HEADERS, 1, section[9:]))
    assert isinstance(event, RequestReceived)
    assert (event.ended, event.stream.fields.fields) == (True, CALL)
    assert peer.connection.awaits_rest_of is None


def test_ping_and_settings_are_acknowledged() -> None:
    peer = started()
    peer.send(frame(6, 0, 0, b"12345678") + frames.settings({Setting.MAX_FRAME_SIZE: 20_000}))
    (ping, ack) = peer.frames[-2:]
    assert (ping.kind, ping.flags, ping.payload) == (frames.PING, frames.ACK, b"12345678")
    assert (ack.kind, ack.flags) == (frames.SETTINGS, frames.ACK)


def test_an_acknowledged_ping_is_not_answered() -> None:
    peer = started()
    before = len(peer.frames)
    assert peer.send(frame(6, frames.ACK, 0, b"12345678")) == [PingAcknowledged(b"12345678")]
    assert len(peer.frames) == before


def test_another_frame_is_begun_also_where_the_one_before_came_to_its_end() -> None:
    """Who sent slowly, frame by frame, seemed to be within one whenever one looked, and was closed."""
    peer = started()
    ping = frame(6, 0, 0, bytes(8))
    begun = []
    for _ in range(3):
        peer.send(ping[:5])
        begun.append(peer.connection.awaits_rest_of)
        peer.send(b"")
        assert peer.connection.awaits_rest_of == begun[-1]
        peer.send(ping[5:])
        assert peer.connection.awaits_rest_of is None
    assert len(set(begun)) == 3


def test_a_peer_whose_frames_wait_for_their_turn_is_not_late() -> None:
    peer = started()
    ping = frame(6, 0, 0, bytes(8))
    peer.connection.receive(200 * ping + ping[:5])
    assert peer.connection.is_behind
    assert peer.connection.awaits_rest_of is None
    peer.send(b"")
    assert peer.connection.awaits_rest_of is not None


# Flow control.

TEXT = Block(b"")


def test_data_waits_for_windows_and_goes_out_in_turn() -> None:
    peer = started()
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 8}))
    streams = [opened(peer.send(call(number))) for number in (1, 3)]
    for stream in streams:
        peer.connection.sending.message(stream, TEXT, b"head", TEXT)
    peer.read()
    assert [peer.responses[number].content for number in (1, 3)] == [message(b"head")[:8]] * 2
    assert peer.connection.sending.unsent_bytes == 2
    peer.send(frames.window_update(3, 1))
    assert (peer.responses[3].content, peer.responses[3].ended) == (message(b"head"), True)
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 9}))
    assert (peer.responses[1].content, peer.responses[1].ended) == (message(b"head"), True)
    assert peer.connection.sending.unsent_bytes == 0
    assert peer.connection.streams == {}
    # §6.5.3: what the new window lets out comes after the ACK.
    assert [each.kind for each in peer.frames[-3:]] == [frames.SETTINGS, frames.DATA, frames.HEADERS]


def test_a_window_may_become_negative() -> None:
    peer = started()
    stream = opened(peer.send(call(1)))
    peer.connection.sending.data(stream, b"x" * 10)
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    assert stream.send_window == -10
    peer.connection.sending.data(stream, b"y")
    peer.send(frames.window_update(1, 10))
    assert peer.responses[1].content == b"x" * 10
    peer.send(frames.window_update(1, 1))
    assert peer.responses[1].content == b"x" * 10 + b"y"


def test_large_data_goes_out_in_frames_that_the_peer_takes() -> None:
    peer = started()
    peer.send(frames.window_update(0, 1_000_000))
    stream = opened(peer.send(call(1) + frames.window_update(1, 1_000_000)))
    sent = bytes(range(256)) * 2000
    peer.connection.sending.message(stream, TEXT, sent, TEXT)
    peer.read()
    assert peer.responses[1].content == message(sent)
    assert max(len(each.payload) for each in peer.frames) == frames.SMALLEST_MAX_FRAME


def test_data_stops_where_the_transport_is_full() -> None:
    peer = started()
    stream = opened(peer.send(call(1)))
    peer.connection.sending.set_writable(False)
    peer.connection.sending.message(stream, TEXT, b"hello", TEXT)
    peer.send(frame(6, 0, 0, bytes(8)))
    assert peer.responses[1].content == b""
    assert peer.frames[-1].kind == frames.PING
    peer.connection.sending.set_writable(True)
    peer.read()
    assert (peer.responses[1].content, peer.responses[1].ended) == (message(b"hello"), True)


def test_windows_are_restored_as_data_comes_and_hold() -> None:
    peer = started(SMALL)
    peer.send(headers(1, CALL) + data(1, bytes(600)))
    (update,) = [each for each in peer.frames if each.kind == frames.WINDOW_UPDATE and each.stream_id == 1]
    assert int.from_bytes(update.payload, "big") == 600
    peer.send(data(1, bytes(1001)))
    assert reset(peer) == E.FLOW_CONTROL_ERROR


def test_frames_are_as_long_as_the_peer_says_that_they_may_be() -> None:
    peer = started()
    stream = opened(peer.send(call(1) + frames.settings({Setting.MAX_FRAME_SIZE: 20_000})))
    peer.connection.sending.message(stream, TEXT, bytes(50_000), TEXT)
    peer.read()
    assert max(len(each.payload) for each in peer.frames) == 20_000


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("is_known", [True, False], ids=["of a stream", "of a stream that was reset"])
def test_the_connections_window_is_restored_as_data_comes(padded: bool, is_known: bool) -> None:
    """Padding counts, and so does what comes on a stream that takes it no more (§5.1, §6.9.1)."""
    peer = started(Limits(connection_window=70_000, stream_window=200_000))
    peer.send(headers(1, CALL) if is_known else headers(1, with_field(b"X", b"y")))
    piece = frame(0, frames.PADDED, 1, b"\xff" + bytes(255)) * 4 if padded else data(1, bytes(1024))
    peer.send(piece * 34)
    assert updates_of(peer, 0) == []
    peer.send(piece)
    assert updates_of(peer, 0) == [35 * 1024]


def updates_of(peer: Peer, stream_id: int) -> list[int]:
    """By how much the server has widened a window of ours, but for what it begins with."""
    found = [each for each in peer.frames if (each.kind, each.stream_id) == (8, stream_id)]
    return [int.from_bytes(each.payload, "big") for each in found][stream_id == 0 :]


def test_padding_alone_does_not_use_up_a_streams_window_for_good() -> None:
    """Its frames were counted as empty ones, and widened no window: no content could come any more."""
    peer = started(Limits(connection_window=200_000, stream_window=10_240))
    padding = frame(0, frames.PADDED, 1, b"\xff" + bytes(255))
    peer.send(headers(1, CALL) + padding * 100)
    assert updates_of(peer, 1) == [21 * 256] * 4
    assert not peer.connection.is_closed


def test_more_data_than_the_connections_window_ends_the_connection() -> None:
    """Each stream keeps to its own."""
    peer = started(Limits(connection_window=70_000, stream_window=40_000))
    begin = b"".join(headers(number, CALL) for number in (1, 3, 5))
    peer.send(begin + data(1, bytes(16_000)) * 2)
    assert not peer.connection.is_closed
    peer.send(data(3, bytes(16_000)) * 2 + data(5, bytes(16_000)))
    assert failed(peer) == E.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("size", [1000, 9000])
def test_what_is_sent_keeps_to_the_connections_window(size: int) -> None:
    peer = started()
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1_000_000}))
    sending = peer.connection.sending
    for number in range(1, 201, 2):
        stream = opened(peer.send(call(number)))
        if number % 4 == 1:
            sending.message(stream, TEXT, bytes(size), TEXT)
        else:
            sending.data(stream, bytes(size))
    check_window_of(0, peer)


def check_window_of(number: int, peer: Peer) -> None:
    """That it has let out what it does by default, and lets out what is added. 0: the connection's."""
    peer.read()
    assert sent_bytes(peer) == 65_535
    for increment in (1, 10, 20_000):
        before = sent_bytes(peer)
        peer.send(frames.window_update(number, increment))
        assert sent_bytes(peer) == before + increment


def sent_bytes(peer: Peer) -> int:
    return sum(len(each.payload) for each in peer.frames if each.kind == frames.DATA)


@pytest.mark.parametrize("size", [1000, 9000])
def test_what_is_sent_keeps_to_the_streams_window(size: int) -> None:
    peer = started()
    stream = opened(peer.send(call(1) + frames.window_update(0, 1_000_000)))
    for number in range(100):
        if number % 2:
            peer.connection.sending.message(stream, None, bytes(size), None)
        else:
            peer.connection.sending.data(stream, bytes(size))
    check_window_of(1, peer)


def test_large_fields_are_sent_with_continuation() -> None:
    peer = started()
    stream = opened(peer.send(call(1)))
    fields = [(b"a", b"\xff" * 40_000)]
    peer.connection.sending.trailers(stream, Block(block(fields)))
    sent = frames_of(peer, 1)
    assert [each.kind for each in sent][:2] == [frames.HEADERS, frames.CONTINUATION]
    assert [each.flags & frames.END_HEADERS for each in sent[:-1]] == [0] * (len(sent) - 1)
    assert sent[-1].flags & frames.END_HEADERS
    assert sent[0].flags & frames.END_STREAM


def frames_of(peer: Peer, stream_id: int) -> list[Frame]:
    return [each for each in parse(peer.connection.sending.take()) if each.stream_id == stream_id]


# The end of the connection.


def test_streams_that_are_forgotten_while_they_wait_for_the_connections_window_are_not_kept() -> None:
    echo = Echo()
    echo.send(call(1))
    echo.respond(0, bytes(65_530))  # All of the window.
    for number in range(1, 1001):
        echo.send(call(2 * number + 1))
        echo.respond(number, b"hello")
        if number % 100:
            echo.send(frames.rst_stream(2 * number + 1, E.CANCEL))
    assert len(echo.grpc.http.sending.ready) < 200
    echo.send(frames.window_update(0, 65_535))
    answered = [echo.response(200 * number + 1).content for number in range(1, 11)]
    assert answered == [message(b"hello")] * 10
    assert echo.grpc.http.sending.unsent_bytes == 0


@pytest.mark.parametrize("size", [0, 4095])
def test_a_peer_that_gives_a_smaller_table_is_told_that_it_is_so(size: int) -> None:
    """At the start of the next field section, and of no other; else that is an error for it (§4.3.1)."""
    echo = Echo()
    echo.send(frames.settings({Setting.HEADER_TABLE_SIZE: size, Setting.MAX_FRAME_SIZE: 20_000}))
    echo.peer.decoder.max_allowed_table_size = size
    echo.send(call(1) + call(3))
    echo.respond(0, b"hello")
    echo.fail(1, Status.INTERNAL, "no")
    assert echo.response(1).content == message(b"hello")
    assert [echo.response(1).status, echo.response(3).status] == [0, Status.INTERNAL]
    blocks = [each.payload for each in echo.peer.frames if each.kind == frames.HEADERS]
    assert [each[:1] == b"\x20" for each in blocks] == [True, False, False]


def test_a_large_table_needs_no_word() -> None:
    echo = Echo()
    echo.send(frames.settings({Setting.HEADER_TABLE_SIZE: 65_536}) + call(1))
    echo.respond(0, b"hello")
    assert not any(each.payload.startswith(b"\x20") for each in echo.peer.frames)


def test_goaway_in_two_steps_loses_no_call() -> None:
    peer = started()
    peer.connection.announce_end()
    peer.read()
    assert peer.goaway == (frames.MAX_STREAM_ID, E.NO_ERROR)
    stream = opened(peer.send(call(1)))
    peer.connection.end()
    peer.read()
    assert peer.goaway == (1, E.NO_ERROR)
    assert peer.send(call(3)) == []
    peer.connection.sending.message(stream, TEXT, b"x", TEXT)
    peer.read()
    assert peer.responses[1].ended
    assert 3 not in peer.responses


def test_the_last_stream_that_goaway_names_does_not_rise() -> None:
    """A client may have sent those above it elsewhere (§6.8)."""
    peer = started()
    peer.send(call(1))
    peer.connection.end()
    peer.send(call(3) + frame(6, 0, 1, bytes(8)))
    assert failed(peer) == E.PROTOCOL_ERROR
    assert peer.goaway is not None
    assert peer.goaway[0] == 1


def test_a_peer_that_goes_away_gets_its_answers() -> None:
    peer = started()
    stream = opened(peer.send(call(1) + frames.goaway(0, 0)))
    peer.connection.sending.message(stream, TEXT, b"x", TEXT)
    peer.read()
    assert peer.responses[1].content == message(b"x")


def test_a_reset_is_told_and_drops_what_waits() -> None:
    peer = started()
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    stream = opened(peer.send(call(1)))
    peer.connection.sending.message(stream, TEXT, b"x", TEXT)
    assert peer.send(frames.rst_stream(1, 8)) == [StreamReset(stream)]
    assert peer.connection.sending.unsent_bytes == 0
    assert peer.connection.streams == {}


def test_an_early_answer_ends_the_request_too() -> None:
    peer = started()
    stream = opened(peer.send(headers(1, CALL)))
    peer.connection.sending.trailers(stream, TEXT)
    peer.read()
    assert peer.responses[1].reset == E.NO_ERROR
    assert peer.send(data(1, b"late", ends=True)) == []


# Hostile peers.


def test_more_streams_than_allowed_are_refused() -> None:
    peer = started(SMALL)
    peer.send(b"".join(headers(number, CALL) for number in (1, 3, 5, 7)))
    assert reset(peer, 7) == E.REFUSED_STREAM
    assert set(peer.connection.streams) == {1, 3, 5}
    peer.send(frames.rst_stream(3, 8) + headers(9, CALL))
    assert set(peer.connection.streams) == {1, 5, 9}


FLOODS = {
    "rapid reset": lambda number: headers(number, CALL) + frames.rst_stream(number, 8),
    "PING": lambda number: frame(6, 0, 0, bytes(8)),
    "acknowledged PING": lambda number: frame(6, 1, 0, bytes(8)),
    "SETTINGS": lambda number: frames.settings({}),
    "PRIORITY": lambda number: frame(2, 0, 99, bytes(5)),
    "unknown": lambda number: frame(0x77, 0, 0),
    "WINDOW_UPDATE": lambda number: frames.window_update(0, 1),
    "GOAWAY": lambda number: frames.goaway(0, 0),
    "malformed requests": lambda number: headers(number, CALL[1:]),
    "streams over the limit": lambda number: headers(number, CALL),
}


@pytest.mark.parametrize("make", FLOODS.values(), ids=list(FLOODS))
def test_floods_end_the_connection(make: object) -> None:
    assert callable(make)
    limits = Limits(idle_frames=100, idle_frames_per_s=0, max_concurrent_streams=10)
    peer = started(limits)
    for number in range(1, 1001, 2):
        peer.send(make(number))
    assert failed(peer) == E.ENHANCE_YOUR_CALM


def test_empty_data_frames_end_the_connection() -> None:
    peer = started(Limits(idle_frames=100, idle_frames_per_s=0))
    peer.send(headers(1, CALL) + data(1, b"") * 101)
    assert failed(peer) == E.ENHANCE_YOUR_CALM


def test_who_makes_calls_may_send_other_frames_for_ever() -> None:
    peer = started(Limits(idle_frames=100, idle_frames_per_s=0))
    for number in range(1, 2001, 2):
        raw = call(number) + frame(6, 0, 0, bytes(8)) + frames.window_update(0, 10)
        peer.connection.sending.message(opened(peer.send(raw)), TEXT, b"x", TEXT)
    assert not peer.connection.is_closed


def test_allowance_for_other_frames_comes_back_with_time() -> None:
    now_s = 0.0
    connection = Recorded(Limits(idle_frames=10, idle_frames_per_s=10), lambda: now_s)
    peer = Peer(connection)
    peer.send(START)
    for _ in range(5):
        peer.send(frame(6, 0, 0, bytes(8)) * 8)
        now_s += 1
    assert peer.goaway is None
    peer.send(frame(6, 0, 0, bytes(8)) * 30)
    assert failed(peer) == E.ENHANCE_YOUR_CALM


def test_empty_continuation_frames_are_counted_also_where_their_sections_end() -> None:
    peer = started(Limits(idle_frames=100, idle_frames_per_s=0))
    for number in range(1, 41, 2):
        section = headers(number, CALL, flags=0) + frame(9, 0, number) * 9
        peer.send(section + frame(9, frames.END_HEADERS, number))
    assert failed(peer) == E.ENHANCE_YOUR_CALM


LATE = {
    "DATA": lambda number: data(1, b"x"),
    "HEADERS": lambda number: headers(1, CALL),
    "streams that a GOAWAY refuses": lambda number: headers(number + 2, CALL),
}


@pytest.mark.parametrize("make", LATE.values(), ids=LATE)
def test_a_flood_of_what_comes_late_ends_the_connection(make: Callable[[int], bytes]) -> None:
    peer = started(Limits(idle_frames=100, idle_frames_per_s=0))
    peer.send(headers(1, with_field(b"X", b"y")))
    peer.connection.end()
    for number in range(1, 301, 2):
        peer.send(make(number))
    assert failed(peer) == E.ENHANCE_YOUR_CALM


def test_a_field_section_that_is_too_large_is_not_kept_until_it_ends() -> None:
    peer = started()
    peer.send(frame(1, 0, 1, bytes(16_000)) + frame(9, 0, 1, bytes(16_000)) + frame(9, 0, 1, bytes(16_000)))
    assert failed(peer) == E.ENHANCE_YOUR_CALM


def test_settings_beyond_the_usual_number_are_counted_as_frames_that_bring_nothing_forward() -> None:
    """A frame of 2,700 was one frame of the allowance: nobody used it up, and each took a millisecond."""
    peer = started(Limits(idle_frames=400, idle_frames_per_s=0))
    peer.send(2 * frame(4, 0, 0, 2700 * struct.pack(">HL", 0x99, 1)))
    assert not peer.connection.is_closed
    peer.send(frame(4, 0, 0, 2700 * struct.pack(">HL", 0x99, 1)))
    assert failed(peer) == E.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("size", [0, 1, 16_000])
def test_continuation_without_end_ends_the_connection(size: int) -> None:
    peer = started()
    peer.send(frame(1, 0, 1, b""))
    for _ in range(50):
        peer.send(frame(9, 0, 1, bytes(size)))
    assert failed(peer) == E.ENHANCE_YOUR_CALM
    assert peer.connection._block.end() == b""


def test_a_header_list_that_unpacks_to_too_much_ends_the_connection() -> None:
    """A block of 3,000 bytes that refers to one large entry again and again."""
    peer = started()
    encoder_entry = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000
    peer.send(frame(1, frames.END_HEADERS, 1, encoder_entry + b"\xbe" * 3000))
    assert failed(peer) == E.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "fields", [[(b"a", b"")] * 1000, [(b"a", b"x" * 33_000)]], ids=["many fields", "a large one"]
)
def test_a_header_list_of_twice_the_limit_ends_the_connection(fields: Fields) -> None:
    """Decoding takes so long that others would wait, and its call would fail in any case."""
    peer = started()
    peer.send(headers(1, [*CALL, (b"a", b"x" * 16_000)]))
    assert peer.goaway is None
    encoded = block([*CALL, *fields])
    peer.send(frame(1, 0, 3, encoded[:16_000]) + frame(9, 0, 3, encoded[16_000:32_000]))
    peer.send(frame(9, frames.END_HEADERS, 3, encoded[32_000:]))
    assert failed(peer) == E.ENHANCE_YOUR_CALM


def test_frames_are_taken_in_turns() -> None:
    """128 at once: the loop turns to others before it takes more."""
    recorded = Recorded(Limits())
    events = recorded.events_of(START + b"".join(call(number) for number in range(1, 2001, 2)))
    assert recorded.connection.is_behind
    assert len(events) < 300
    events += Peer(recorded).send(b"")
    contents = [event.data for event in events if isinstance(event, RequestReceived | DataReceived)]
    assert [each for each in contents if each] == [message(b"hello")] * 1000


MANY_FIELDS = [*CALL, *[(b"a", b"")] * 300]
LABORIOUS = {
    "fields": b"".join(
        headers(number, [*MANY_FIELDS, (b"b", b"%d" % number)], ends=True) for number in range(3, 9, 2)
    ),
    "a large Huffman string": b"".join(
        frame(
            1,
            frames.END_HEADERS,
            number,
            Encoder().encode([*CALL, (b"a%d" % number, b"x" * 12_000)], huffman=True),
        )
        for number in range(3, 9, 2)
    ),
    "malformed fields": b"".join(
        headers(number, [*MANY_FIELDS, (b"B", b"%d" % number)], ends=True) for number in range(3, 9, 2)
    ),
    "settings": 3 * frame(4, 0, 0, 300 * struct.pack(">HL", Setting.MAX_FRAME_SIZE, 16_384)),
    "messages": 3 * data(1, 300 * message(b"")),
    "much that is compressed": data(1, message(gzip.compress(bytes(1_000_000)), compressed=True)),
}


@pytest.mark.parametrize("raw", LABORIOUS.values(), ids=LABORIOUS)
def test_few_frames_of_much_work_are_taken_at_once(raw: bytes) -> None:
    echo, ping = Echo(), frame(6, 0, 0, bytes(8))
    echo.send(headers(1, [*STREAM_CALL, (b"grpc-encoding", b"gzip")]))
    echo.grpc.receive(raw + ping)
    assert echo.grpc.http.is_behind
    assert frames.PING not in [each.kind for each in echo.peer.read()]
    echo.send(b"")
    assert echo.peer.frames[-1].kind == frames.PING


def with_answers_that_wait(count: int, limits: Limits | None = None) -> Echo:
    """So many calls, whose answers have no window."""
    echo = Echo(limits)
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    echo.send(b"".join(call(2 * number + 1) for number in range(count)))
    for number in range(count):
        echo.respond(number, bytes(3000))
    return echo


def windows(sizes: Iterable[int]) -> bytes:
    """Of SETTINGS."""
    return b"".join(struct.pack(">HL", Setting.INITIAL_WINDOW_SIZE, size) for size in sizes)


def test_the_windows_of_many_streams_change_in_turns() -> None:
    """64 changes for 10,000 streams, in one frame of 400 bytes, held up all others for 160 ms."""
    echo = Echo()
    echo.send(b"".join(headers(2 * number + 1, CALL) for number in range(1000)))
    echo.grpc.receive(frame(4, 0, 0, windows(range(100, 130))) + frame(6, 0, 0, bytes(8)))
    assert echo.grpc.http.is_behind
    assert echo.peer.read() == []
    echo.send(b"")
    assert [(each.kind, each.flags) for each in echo.peer.frames[-2:]] == [(4, frames.ACK), (6, frames.ACK)]
    assert {each.send_window for each in echo.grpc.http.streams.values()} == {129}


def test_windows_of_a_byte_on_many_streams_let_out_some_frames_at_once() -> None:
    """A read of 1 KiB sent a million frames of a byte, and held up all others for 11 s."""
    echo = with_answers_that_wait(1000)
    echo.grpc.receive(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1}))
    sent = 0
    while found := [each for each in echo.peer.read() if each.kind == frames.DATA]:
        assert len(found) <= 64
        sent += len(found)
        echo.grpc.http.sending.pump()
    assert sent == 1000


def test_who_lets_out_answers_byte_by_byte_ends_the_connection() -> None:
    echo = with_answers_that_wait(100, Limits(idle_frames=400, idle_frames_per_s=0))
    for size in range(1, 20):
        if failure := echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: size})):
            break
        while echo.grpc.http.sending.ready:
            echo.grpc.http.sending.pump()
            echo.peer.read()
    assert failure is not None
    assert failure.code == E.ENHANCE_YOUR_CALM


LIMITED = Limits(max_concurrent_streams=13, connection_window=70_000, stream_window=1000)
#: What may come after ten calls, in one read.
REQUESTS = {
    "a call": call(21),
    "calls": call(21) + call(23) + call(27) + headers(29, CALL),
    "a call, and what begins another": call(21) + call(23)[:30],
    "nothing but its end": headers(21, CALL) + data(21, b"", ends=True),
    "not ended": headers(21, CALL) + data(21, b"some") + data(21, b"more", ends=True),
    "padded": headers(21, CALL) + frame(0, frames.PADDED | frames.END_STREAM, 21, b"\2abc\0\0"),
    "unknown flags": headers(21, CALL) + frame(0, frames.END_STREAM | 0x40, 21, b"abc"),
    "content-length": call(21, fields=[*CALL, (b"content-length", b"10")]) * 2,
    "content of another": headers(21, CALL) + data(19, b"x", ends=True),
    "no content": headers(21, CALL) + frame(frames.PING, 0, 0, bytes(8)),
    "a bit that is reserved": headers(21, CALL) + b"\0\0\1\0\1\x80\0\0\x15x",
    "an even identifier": call(22),
    "an identifier that was used": call(19),
    "one that is skipped": call(25) + call(21),
    "too many": call(21) + call(23) + call(25) + call(27) + call(29),
    "more than the window of a stream": headers(21, CALL) + data(21, bytes(1001), ends=True),
    "all of the window of a stream": headers(21, CALL) + data(21, bytes(1000), ends=True),
    "too long a frame": headers(21, CALL) + data(21, bytes(16_385), ends=True),
    "stream 0": headers(0, CALL) + data(0, b"x", ends=True),
}


@pytest.mark.parametrize("raw", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("is_ending", [False, True], ids=["open", "ending"])
def test_a_call_in_one_read_comes_to_the_same_as_one_in_pieces(raw: bytes, is_ending: bool) -> None:
    def outcome(pieces: list[bytes]) -> tuple[object, ...]:
        peer = started(LIMITED)
        peer.send(b"".join(call(number) for number in range(1, 20, 2)))
        if is_ending:
            peer.connection.end()
        found: dict[int, tuple[bytes, bool]] = {}
        for piece in pieces:
            for event in peer.send(piece):
                if isinstance(event, RequestReceived | DataReceived):
                    before, _ = found.get(event.stream.id, (b"", False))
                    found[event.stream.id] = before + event.data, event.ended
        connection = peer.connection
        windows = {each.id: (each.receive_window, each.remote_closed) for each in connection.streams.values()}
        sent = [(each.kind, each.flags, each.stream_id, each.payload) for each in peer.frames]
        # What a connection that has failed took before is of no matter.
        state = (connection._receive_window, windows, connection.ids.highest)
        return connection.is_closed, found, sent, state, connection.awaits_rest_of is None

    assert outcome([raw]) == outcome([raw[at : at + 1] for at in range(len(raw))])


# Header blocks.


def use_table(peer: Peer) -> None:
    """Twenty calls, each with a value of its own that it puts into the table."""
    for number in range(1, 41, 2):
        section = block(CALL) + b"\x40\x01a\x02%02d" % number
        peer.send(frame(1, frames.END_HEADERS, number, section) + data(number, b"", ends=True))


def refusals(peer: Peer) -> list[int]:
    """The flags of each SETTINGS that asks for no table."""
    asked = struct.pack(">HL", Setting.HEADER_TABLE_SIZE, 0)
    return [each.flags for each in peer.frames if each.kind == frames.SETTINGS and each.payload == asked]


def test_a_table_is_refused_after_some_calls_and_must_be_given_up() -> None:
    peer = started()
    use_table(peer)
    assert refusals(peer) == [0]
    peer.send(frames.SETTINGS_ACK * 2)
    # RFC 9113 §4.3.1: the first block from here on begins with a Dynamic Table Size Update.
    peer.send(call(43))
    assert failed(peer) == E.COMPRESSION_ERROR


def test_who_uses_no_table_is_not_asked_to_give_it_up() -> None:
    """.NET's client acknowledges that, and changes nothing: its connections ended after eight calls."""
    peer = started()
    for number in range(1, 41, 2):
        peer.send(call(number))
    peer.send(frames.SETTINGS_ACK * 2)
    assert refusals(peer) == []
    first, second = (opened(peer.send(call(number))) for number in (41, 43))
    assert first.fields is second.fields  # Not decoded again.


def test_who_sends_the_same_fields_by_a_table_is_not_asked_to_give_it_up() -> None:
    """The blocks are the same already, but for the first."""
    peer = started()
    sections = [block(CALL) + b"\x40\x01a\x01b", *[block(CALL) + b"\xbe"] * 20]
    streams = []
    for number, section in enumerate(sections):
        stream_id = 2 * number + 1
        streams.append(
            opened(
                peer.send(frame(1, frames.END_HEADERS, stream_id, section) + data(stream_id, b"", ends=True))
            )
        )
    assert refusals(peer) == []
    assert all(stream.fields is streams[1].fields for stream in streams[2:])  # Not decoded again.
    assert streams[-1].fields.fields == [*CALL, (b"a", b"b")]


def test_who_begins_to_use_a_table_late_is_asked_to_give_it_up() -> None:
    peer = started()
    for number in range(1, 41, 2):
        peer.send(call(number))
    assert refusals(peer) == []
    grow = block(CALL) + b"\x40\x01a\x01b"
    peer.send(frame(1, frames.END_HEADERS, 41, grow) + data(41, b"", ends=True) + call(43) + call(45))
    assert refusals(peer) == [0]


def test_a_table_is_not_given_up_before_the_peer_has_acknowledged_that() -> None:
    """Its first ACK is that of the SETTINGS that we began with."""
    peer = started()
    use_table(peer)
    peer.send(frames.SETTINGS_ACK)
    assert opened(peer.send(call(43))).fields.fields == CALL


#: What comes before a section, and the stream that this is of: so it opens none.
UNSEEN = {
    "on a stream that we reset": lambda peer: (headers(3, with_field(b"X", b"y")), 3),
    "on a half-closed stream": lambda peer: (call(3), 3),
    "on a stream over the limit": lambda peer: (headers(3, CALL), 5),
    "on a stream that a GOAWAY refuses": lambda peer: (peer.connection.end() or b"", 5),
}


@pytest.mark.parametrize("make", UNSEEN.values(), ids=UNSEEN)
def test_a_section_that_opens_no_stream_changes_the_table_all_the_same(
    make: Callable[[Peer], tuple[bytes, int]],
) -> None:
    """§4.3, §5.1: what comes then would mean something else."""
    peer = started(Limits(max_concurrent_streams=2))
    first = opened(peer.send(headers(1, STREAM_CALL)))
    before, stream_id = make(peer)
    peer.send(before)
    peer.send(frame(1, frames.END_HEADERS, stream_id, block(CALL) + b"\x40\x01a\x01b"))
    # A reference to the last field, in trailers.
    assert peer.send(frame(1, frames.END_HEADERS | frames.END_STREAM, 1, b"\xbe"))[-1] == DataReceived(
        first, b"", True
    )
    assert not peer.connection.is_closed


def test_a_table_that_was_given_up() -> None:
    peer = started()
    use_table(peer)
    peer.send(frames.SETTINGS_ACK * 2)
    section = b"\x20" + block(CALL)
    assert opened(peer.send(frame(1, frames.END_HEADERS, 43, section))).fields.fields == CALL
    first, second = (opened(peer.send(call(number))) for number in (45, 47))
    assert first.fields is second.fields  # Not decoded again.


def test_the_same_bytes_mean_something_else_when_the_table_has_changed() -> None:
    peer = started()
    grow = [block(CALL) + b"\x40\x01%c\x01%c" % (name, name) for name in b"ab"]
    last = block(CALL) + b"\xbe"
    seen = []
    for number, section in enumerate((grow[0], last, last, grow[1], last)):
        stream = opened(peer.send(frame(1, frames.END_HEADERS, 2 * number + 1, section)))
        seen.append(stream.fields.fields[-1])
    assert seen == [(b"a", b"a"), (b"a", b"a"), (b"a", b"a"), (b"b", b"b"), (b"b", b"b")]


@pytest.mark.parametrize(
    "block", [b"\xff\xff\xff\xff\xff\xff", b"\xbe", b"\x97\x33\x11\x7c\xc6\xff\xff\xff\xff\xa9"]
)
def test_the_reason_of_goaway_shows_no_address_of_memory(block: bytes) -> None:
    peer = started()
    peer.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
    (goaway,) = (each for each in peer.frames if each.kind == frames.GOAWAY)
    assert b"no HPACK" in goaway.payload
    assert b"0x" not in goaway.payload


def test_hpack_that_takes_integers_of_any_length_is_not_installed() -> None:
    """4.1 read one of 32 KiB in 170 ms, with all others waiting; 4.2 stops after five bytes."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (needed,) = [each for each in map(Requirement, project["dependencies"]) if each.name == "hpack"]
    assert not needed.specifier.contains("4.1.0")
    peer = started()
    too_long = b"\xff" + b"\x80" * 16_000 + b"\0"
    peer.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, too_long))
    assert failed(peer) is E.COMPRESSION_ERROR
