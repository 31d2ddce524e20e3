"""gRPC's rules on top of HTTP/2's, without a socket."""

from __future__ import annotations

import base64
import gc
import gzip
import os
import zlib
from typing import Any

import pytest

from coprocess.errors import Status
from coprocess.transport.http2 import frames, grpc_messages
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode, Setting
from coprocess.transport.http2.grpc_wire import (
    Refused,
    parse_timeout,
    percent_encode,
    response_headers,
)
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.streams import Stream
from tests.http2.peer import (
    CALL,
    METHOD,
    PSEUDO,
    STREAM_CALL,
    Echo,
    Fields,
    block,
    call,
    data,
    headers,
    message,
)

SMALL = Limits(max_message_bytes=100, max_metadata_bytes=1000)


def with_path(path: bytes) -> Fields:
    return [*PSEUDO[:2], (b":path", path), *CALL[3:]]


def test_a_unary_call() -> None:
    echo = Echo()
    echo.send(call(1, b"hello"))
    (made,) = echo.calls
    assert (made.payload, made.is_compressed, made.request.method) == (b"hello", False, "/test.Echo/Unary")
    echo.respond(0, b"world")
    response = echo.response(1)
    assert response.fields == [(b":status", b"200"), (b"content-type", b"application/grpc")]
    assert (response.content, response.trailers) == (message(b"world"), [(b"grpc-status", b"0")])
    assert (response.ended, response.reset) == (True, None)
    assert echo.grpc.http.held_bytes == 0


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_message_in_pieces(size: int) -> None:
    echo = Echo()
    raw = message(b"hello")
    echo.send(headers(1, CALL))
    for position in range(0, len(raw), size):
        echo.send(data(1, raw[position : position + size]))
    assert echo.calls == []
    echo.send(data(1, b"", ends=True))
    assert [made.payload for made in echo.calls] == [b"hello"]


@pytest.mark.parametrize(
    ("raw", "status"),
    {
        "no message": (b"", Status.UNIMPLEMENTED),
        "two messages": (message(b"a") * 2, Status.UNIMPLEMENTED),
        "half a message": (message(b"hello")[:-1], Status.INTERNAL),
        "half a prefix": (b"\0\0", Status.INTERNAL),
        "an unknown flag": (b"\2" + message(b"a")[1:], Status.INTERNAL),
        "too large": (message(bytes(101)), Status.RESOURCE_EXHAUSTED),
        "4 GiB": (b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED),
    }.values(),
)
@pytest.mark.parametrize("together", [True, False])
def test_what_is_not_one_message(raw: bytes, status: Status, *, together: bool) -> None:
    echo = Echo(SMALL)
    if together:
        echo.send(headers(1, CALL) + data(1, raw, ends=True))
    else:
        echo.send(headers(1, CALL) + data(1, raw))
        echo.send(data(1, b"", ends=True))
    assert echo.calls == []
    response = echo.response(1)
    assert (response.status, response.ended) == (status, True)
    assert echo.service.refused_calls == (status is Status.RESOURCE_EXHAUSTED)
    assert echo.grpc.http.held_bytes == 0


def test_a_message_that_is_too_large_is_refused_at_its_prefix() -> None:
    echo = Echo(SMALL)
    echo.send(headers(1, CALL) + data(1, message(bytes(101))[:5]))
    response = echo.response(1)
    assert (response.status, response.reset) == (Status.RESOURCE_EXHAUSTED, ErrorCode.NO_ERROR)
    assert dict(response.fields)[b"grpc-message"] == b"the message is larger than the limit: 101 of 100 bytes"


def test_a_call_that_was_refused_does_not_begin_while_its_answer_waits_for_a_window() -> None:
    echo = Echo(SMALL)
    echo.service.failed = {METHOD: lambda status, text: b"denied"}
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    echo.send(headers(1, CALL) + data(1, message(bytes(101))[:5]))
    echo.send(data(1, message(b"hello"), ends=True))
    assert echo.calls == []
    echo.send(frames.window_update(1, 1000))
    assert echo.response(1).content == message(b"denied")


def test_what_calls_hold_together_is_bounded() -> None:
    echo = Echo(Limits(max_held_bytes=1000))
    for number in (1, 3, 5):
        echo.send(headers(number, CALL) + data(number, message(bytes(1000))[:400]))
    assert echo.response(5).status == Status.RESOURCE_EXHAUSTED
    assert echo.grpc.http.held_bytes == 800
    echo.send(data(1, bytes(605), ends=True))
    assert echo.response(1).status == Status.RESOURCE_EXHAUSTED


def warmed(limits: Limits) -> Echo:
    """After calls: those that come now, each in one read, are taken the short way."""
    echo = Echo(limits)
    for number in range(1, 21, 2):
        echo.send(call(number))
        echo.respond(-1, b"")
    first = frames.frame(frames.HEADERS, frames.END_HEADERS, 21, b"\x20" + block(CALL))
    echo.send(frames.SETTINGS_ACK * 2 + first + headers(23, CALL) + headers(25, STREAM_CALL))
    for number in (21, 23, 25):
        echo.send(frames.rst_stream(number, ErrorCode.CANCEL))
    echo.calls.clear()
    echo.streams.clear()
    return echo


def test_what_calls_of_one_frame_hold_together_is_bounded() -> None:
    echo = warmed(Limits(max_held_bytes=1000))
    for number in (27, 29, 31):
        echo.send(call(number, bytes(400)))
    assert len(echo.calls) == 2
    assert echo.response(31).status == Status.RESOURCE_EXHAUSTED


def test_a_message_of_one_frame_that_is_too_large() -> None:
    echo = warmed(SMALL)
    echo.send(call(27, bytes(101)))
    assert echo.response(27).status == Status.RESOURCE_EXHAUSTED
    echo.send(headers(29, STREAM_CALL) + data(29, message(bytes(101))))
    assert echo.response(29).status == Status.RESOURCE_EXHAUSTED
    echo.send(headers(31, STREAM_CALL) + data(31, message(b"first")))
    echo.send(data(31, message(bytes(101))))
    assert echo.response(31).status == Status.RESOURCE_EXHAUSTED
    assert ([each.messages for each in echo.streams], echo.calls) == ([[], [b"first"]], [])


def test_replies_of_a_stream_that_nobody_reads_are_bounded() -> None:
    """One goes out in any case."""
    echo = Echo(Limits(max_unsent_stream_bytes=1000))
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}) + headers(1, STREAM_CALL))
    stream = echo.streams[0].stream
    assert [echo.grpc.send(stream, bytes(size)) for size in (500, 2000, 1)] == [True, True, False]
    assert not echo.grpc.finish(stream, b"")


@pytest.mark.parametrize(
    "metadata",
    [
        ("Upper", "a"),
        ("a b", "a"),
        ("", "a"),
        ("a", "\n"),
        ("a", "\x7f"),
        ("a", b"bytes"),
        ("a-bin", "text"),
    ],
)
def test_metadata_that_cannot_be_sent(metadata: tuple[str, str | bytes]) -> None:
    with pytest.raises(ValueError, match="metadata"):
        response_headers((metadata,))


@pytest.mark.parametrize("path", [b"/test.Echo/Other", b"/", b"*", b"\xff"])
def test_unknown_methods(path: bytes) -> None:
    echo = Echo()
    echo.send(call(1, fields=with_path(path)))
    assert echo.response(1).status == Status.UNIMPLEMENTED


def test_a_call_that_is_refused_is_not_kept_with_its_header_fields() -> None:
    """A flood of such, each with a path of its own, took 110 MiB."""
    echo = Echo()
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is Stream for each in gc.get_objects())
        for number in range(1, 9, 2):
            echo.send(call(number, fields=with_path(b"/test.Echo/%d" % number)))
        assert sum(type(each) is Stream for each in gc.get_objects()) == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("fields", "http_status"),
    [
        ([*PSEUDO, (b"content-type", b"application/json")], 415),
        (PSEUDO, 415),
        ([*PSEUDO, (b"content-type", b"application/grpc-web")], 415),
        ([*PSEUDO, (b"content-type", b"application/grpc+json")], 415),
        ([(b":method", b"GET"), *CALL[1:]], 405),
    ],
)
def test_what_is_no_call_is_answered_as_http(fields: Fields, http_status: int) -> None:
    echo = Echo()
    echo.send(headers(1, fields) + data(1, b"x"))
    assert 1 not in echo.peer.responses
    echo.send(data(1, b"y", ends=True))
    response = echo.response(1)
    assert dict(response.fields)[b":status"] == b"%d" % http_status
    assert (response.content[:8], response.ended) == (b"expected", True)


def test_a_head_request_gets_no_content() -> None:
    echo = Echo()
    echo.send(headers(1, [(b":method", b"HEAD"), *CALL[1:]], ends=True))
    response = echo.response(1)
    assert dict(response.fields)[b":status"] == b"405"
    assert (response.content, response.ended) == (b"", True)


@pytest.mark.parametrize(
    "kind",
    [
        b"application/grpc+proto",
        b"application/grpc;charset=utf-8",
        b"application/grpc ; a=b",
        b"application/GRPC",
    ],
)
def test_content_types(kind: bytes) -> None:
    echo = Echo()
    echo.send(call(1, fields=[*PSEUDO, (b"content-type", kind)]))
    assert len(echo.calls) == 1


def test_metadata() -> None:
    echo = Echo()
    raw = b"\x00\xff\xfe"
    padded, bare = base64.b64encode(raw + b"!"), base64.b64encode(raw + b"!").rstrip(b"=")
    sent = [
        (b"a", b"1"),
        (b"a", b"2"),
        (b"x-bin", padded + b"," + bare),
        (b"y-bin", b"!"),  # No base64: left out.
        (b"z-bin", b"AA!A"),
        (b"grpc-timeout", b"1S"),
    ]
    echo.send(call(1, fields=[*CALL, (b"user-agent", b"me"), *sent]))
    both = [("x-bin", raw + b"!")] * 2
    assert echo.calls[0].request.metadata == [
        ("user-agent", "me"),
        ("a", "1"),
        ("a", "2"),
        *both,
    ]


def test_metadata_over_the_limit_ends_the_call_only() -> None:
    echo = Echo(SMALL)
    echo.send(call(1, fields=[*CALL, (b"a", b"x" * 2000)]) + call(3))
    assert echo.response(1).status == Status.RESOURCE_EXHAUSTED
    assert len(echo.calls) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"99999999m", 99999.999),
        (b"5u", 5e-6),
        (b"7n", 7e-9),
        (b"0S", 0),
    ],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"1s", b"-1S", b"123456789S", b"1.5S", b" 1S"])
def test_timeouts_that_are_none(value: bytes) -> None:
    with pytest.raises(Refused):
        parse_timeout(value)


def test_a_deadline() -> None:
    echo = Echo()
    echo.send(call(1, fields=[*CALL, (b"grpc-timeout", b"100m")]))
    ((delay_s, expire, stream),) = echo.timers
    assert delay_s == pytest.approx(0.1)
    assert callable(expire)
    expire(stream)
    echo.peer.read()
    assert echo.response(1).status == Status.DEADLINE_EXCEEDED
    assert echo.calls[0].is_cancelled
    echo.respond(0, b"late")
    assert echo.response(1).content == b""


def test_a_deadline_while_the_reply_is_not_read() -> None:
    echo = Echo()
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    echo.send(call(1, fields=[*CALL, (b"grpc-timeout", b"100m")]))
    echo.respond(0, b"reply")
    ((_, expire, stream),) = echo.timers
    assert callable(expire)
    expire(stream)
    echo.peer.read()
    assert echo.response(1).reset == ErrorCode.CANCEL
    assert echo.grpc.http.sending.unsent_bytes == 0


def test_a_request_has_its_own_time_for_its_content_and_is_looked_at_once() -> None:
    """Thousands that were looked at each second held up all others for 7 ms."""
    echo = Echo(Limits(request_timeout_s=10))
    echo.send(headers(1, CALL) + headers(3, CALL) + headers(5, STREAM_CALL))
    assert not echo.grpc.drop_overdue(0.0)
    echo.send(headers(7, CALL) + data(3, message(b"hello"), ends=True))
    assert not echo.grpc.drop_overdue(5.0)
    assert not echo.grpc.drop_overdue(10.0)
    assert echo.grpc.drop_overdue(11.0)
    assert set(echo.grpc.http.streams) == {3, 5, 7}
    streams = CountedReads(echo.grpc.http.streams)
    echo.grpc.http.streams = streams
    assert not echo.grpc.drop_overdue(14.0)
    assert streams.reads == 0
    assert echo.grpc.drop_overdue(16.0)
    assert set(streams) == {3, 5}


class CountedReads(dict[int, Stream]):
    reads = 0

    def values(self) -> Any:
        self.reads += 1
        return super().values()


@pytest.mark.parametrize("code", [ErrorCode.CANCEL, ErrorCode.NO_ERROR, ErrorCode.INTERNAL_ERROR])
def test_a_reset_cancels(code: ErrorCode) -> None:
    echo = Echo()
    echo.send(call(1))
    echo.send(frames.rst_stream(1, code))
    assert echo.calls[0].is_cancelled
    echo.respond(0, b"late")
    assert 1 not in echo.peer.responses


def test_what_waits_for_a_window_is_forgotten_with_its_connection() -> None:
    echo = Echo(Limits())
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}) + call(1))
    echo.grpc.respond(echo.calls[0].stream, b"reply")
    assert echo.grpc.http.sending.unsent_bytes > 0
    echo.grpc.lost()
    assert echo.grpc.http.sending.unsent_bytes == 0


def test_a_connection_that_is_lost_cancels_all() -> None:
    echo = Echo()
    echo.send(call(1) + headers(3, STREAM_CALL))
    echo.grpc.lost()
    assert echo.calls[0].is_cancelled
    assert echo.streams[0].is_cancelled


def test_the_first_answer_counts() -> None:
    echo = Echo()
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}) + call(1))
    echo.respond(0, b"first")
    echo.respond(0, b"second")
    echo.fail(0, Status.INTERNAL, "third")
    echo.send(frames.window_update(1, 1000))
    assert (echo.response(1).content, echo.response(1).status) == (message(b"first"), 0)


def test_a_failure_is_trailers_only() -> None:
    echo = Echo()
    echo.send(call(1))
    echo.fail(0, Status.NOT_FOUND, "é 100%\n", b"\x01\x02")
    response = echo.response(1)
    assert dict(response.fields) == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"5",
        b"grpc-message": b"%C3%A9 100%25%0A",
        b"grpc-status-details-bin": b"AQI",
    }
    assert (response.trailers, response.content, response.ended) == ([], b"", True)


def test_percent_encoding() -> None:
    assert percent_encode("plain ~!") == b"plain ~!"
    # A field that begins or ends with a space is malformed.
    assert percent_encode("  space ") == b"%20 space%20"
    assert percent_encode("%\0\x7f\ud800") == b"%25%00%7F?"


def test_metadata_that_is_sent_begins_and_ends_with_no_space() -> None:
    assert response_headers((("a", " b c "),)).data == response_headers((("a", "b c"),)).data


def test_an_unknown_encoding() -> None:
    echo = Echo()
    echo.send(call(1, fields=[*CALL, (b"grpc-encoding", b"br")]))
    response = echo.response(1)
    assert response.status == Status.UNIMPLEMENTED
    assert dict(response.fields)[b"grpc-accept-encoding"] == b"identity,deflate,gzip"


def decompress(encoding: str, packed: bytes, max_bytes: int) -> bytes:
    return b"".join(grpc_messages.unpack(encoding, packed, max_bytes))


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_unpacking_stops_at_the_limit(encoding: str, pack: object) -> None:
    assert callable(pack)
    assert decompress(encoding, pack(bytes(1000)), 1000) == bytes(1000)
    for packed, status in (
        (pack(bytes(1001)), Status.RESOURCE_EXHAUSTED),
        (pack(bytes(10_000_000)), Status.RESOURCE_EXHAUSTED),
        (pack(b"x")[:-1], Status.INTERNAL),
        (pack(b"x") + b"y", Status.INTERNAL),
        (b"garbage", Status.INTERNAL),
    ):
        with pytest.raises(Refused) as refused:
            decompress(encoding, packed, 1000)
        assert refused.value.status is status


def test_a_compressed_message_without_an_encoding() -> None:
    with pytest.raises(Refused) as refused:
        decompress("identity", b"x", 1000)
    assert refused.value.status is Status.INTERNAL


# Streams.


def test_a_stream_both_ways() -> None:
    echo = Echo()
    echo.send(headers(1, STREAM_CALL))
    (stream,) = echo.streams
    echo.send(data(1, message(b"one")))
    echo.grpc.send(stream.stream, b"first")
    echo.peer.read()
    assert (stream.messages, echo.response(1).content) == ([b"one"], message(b"first"))
    echo.send(data(1, message(b"two") + message(b""), ends=True))
    assert (stream.messages, stream.is_half_closed) == ([b"one", b"two", b""], True)
    echo.grpc.send(stream.stream, b"second")
    echo.grpc.end(stream.stream, 0, "")
    echo.peer.read()
    response = echo.response(1)
    assert (response.content, response.status) == (message(b"first") + message(b"second"), 0)
    assert (response.ended, response.reset) == (True, None)
    assert echo.grpc.http.streams == {}


def test_compressed_messages_of_a_stream() -> None:
    echo = Echo(SMALL)
    echo.send(headers(1, [*STREAM_CALL, (b"grpc-encoding", b"gzip")]))
    echo.send(data(1, message(gzip.compress(b"one"), compressed=True) + message(b"two")))
    assert echo.streams[0].messages == [b"one", b"two"]
    echo.send(data(1, message(gzip.compress(bytes(101)), compressed=True)))
    assert echo.response(1).status == Status.RESOURCE_EXHAUSTED
    assert echo.streams[0].is_cancelled


def begin_to_unpack(size: int) -> Echo:
    """A stream whose message of so many zeros is not whole yet."""
    echo = Echo(Limits(max_message_bytes=size))
    large, small = message(gzip.compress(bytes(size)), compressed=True), message(b"small")
    echo.send(headers(1, [*STREAM_CALL, (b"grpc-encoding", b"gzip")]))
    echo.grpc.receive(data(1, large + small, ends=True) + call(3))
    assert echo.grpc.http.is_behind
    assert not echo.streams[0].messages
    return echo


def test_what_unpacks_to_much_is_unpacked_in_turns() -> None:
    """Once, all was made at once, with the lock that all other calls need."""
    size = 8 << 20
    echo, turns = begin_to_unpack(size), 1
    while echo.grpc.http.is_behind:
        assert not echo.streams[0].messages
        echo.grpc.receive(b"")
        turns += 1
    assert echo.streams[0].messages == [bytes(size), b"small"]
    assert echo.streams[0].is_half_closed
    assert turns > size >> 20
    assert [each.payload for each in echo.calls] == [b"hello"]
    assert echo.streams[0].stream.held_bytes == 0


def test_a_call_that_ends_while_its_message_is_unpacked() -> None:
    echo = begin_to_unpack(8 << 20)
    echo.grpc.end(echo.streams[0].stream, 0, "")
    echo.send(b"")
    assert not echo.streams[0].messages
    assert [each.payload for each in echo.calls] == [b"hello"]


def test_a_connection_that_ends_while_a_message_is_unpacked() -> None:
    echo = begin_to_unpack(8 << 20)
    echo.grpc.http.close(ConnectionFailure(ErrorCode.INTERNAL_ERROR, "a test"))
    echo.grpc.lost()
    echo.send(b"")
    assert echo.streams[0].is_cancelled
    assert not echo.streams[0].messages
    assert not echo.grpc.http.is_behind


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("level", [0, 9])
def test_unpacking_piece_by_piece_comes_to_the_same(size: int, level: int) -> None:
    for raw in (bytes(size), os.urandom(size)):
        packed = gzip.compress(raw, level)
        pieces = list(grpc_messages.unpack("gzip", packed, size))
        assert b"".join(pieces) == raw
        assert max(map(len, pieces)) <= grpc_messages.PIECE_BYTES
        for wrong in (packed[:-1], packed + b"x", packed + packed):
            with pytest.raises(Refused):
                list(grpc_messages.unpack("gzip", wrong, size))


def test_a_stream_that_ends_within_a_message() -> None:
    echo = Echo()
    echo.send(headers(1, STREAM_CALL) + data(1, message(b"one")[:-1], ends=True))
    assert echo.response(1).status == Status.INTERNAL
    assert echo.streams[0].is_cancelled


def test_a_stream_that_fails_after_messages() -> None:
    echo = Echo()
    echo.send(headers(1, STREAM_CALL))
    echo.grpc.send(echo.streams[0].stream, b"one")
    echo.grpc.end(echo.streams[0].stream, Status.INTERNAL, "no more", b"")
    echo.peer.read()
    response = echo.response(1)
    assert response.trailers == [(b"grpc-status", b"13"), (b"grpc-message", b"no more")]
    assert response.reset == ErrorCode.NO_ERROR


def test_replies_that_nobody_reads_are_bounded() -> None:
    echo = Echo(Limits(max_unsent_bytes=1000))
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    for number in range(5):
        echo.send(call(2 * number + 1))
        echo.respond(number, bytes(400))
    assert echo.grpc.http.sending.unsent_bytes == 3 * 405
    assert [echo.response(number).status for number in (7, 9)] == [Status.RESOURCE_EXHAUSTED] * 2


@pytest.mark.parametrize(("size", "kept"), [(1000, 3), (10_000, 5)])
def test_replies_that_nobody_reads_are_bounded_by_what_all_connections_hold(size: int, kept: int) -> None:
    echo = Echo(Limits(max_unsent_bytes=2000))
    echo.grpc.may_keep(size)
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    for number in range(6):
        echo.send(call(2 * number + 1))
        echo.respond(number, bytes(400))
    assert echo.grpc.http.sending.unsent_bytes == kept * 405


def test_the_last_reply_of_a_stream_is_not_kept_back_for_what_others_of_the_connection_do_not_read() -> None:
    """Once, a denial became an error then, which a proxy may let pass."""
    echo = Echo(Limits(max_unsent_bytes=1000))
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    for number in range(3):
        echo.send(call(2 * number + 1))
        echo.respond(number, bytes(400))
    echo.send(headers(7, STREAM_CALL))
    stream = echo.streams[-1].stream
    assert echo.grpc.http.sending.unsent_bytes > 1000
    assert echo.grpc.finish(stream, b"denied")
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 65_535}))
    echo.peer.read()
    assert echo.response(7).status == 0


@pytest.mark.parametrize("size", [1, 3, 100, 5000])
def test_a_message_in_pieces_of_any_size(size: int) -> None:
    """Small ones are kept together, as each by itself would take more than it holds."""
    echo, payload = Echo(Limits()), bytes(range(256)) * 40
    raw = message(payload)
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    echo.send(headers(1, CALL) + b"".join(data(1, piece) for piece in pieces) + data(1, b"", ends=True))
    assert [made.payload for made in echo.calls] == [payload]
    assert echo.grpc.http.held_bytes == len(payload)


def test_a_large_answer_is_whole() -> None:
    echo, reply = Echo(), bytes(range(256)) * 200
    echo.send(call(1))
    echo.grpc.respond(echo.calls[0].stream, reply)
    echo.send(b"")
    assert echo.response(1).content == message(reply)


def test_calls_are_given_up_beside_a_request_without_a_path() -> None:
    """CONNECT has none: those behind it had no answer, and neither had those of other connections."""
    echo = Echo()
    echo.service.failed = {"/test.Echo/Unary": lambda status, text: f"{status.name}: {text}".encode()}
    echo.send(headers(1, [(b":method", b"CONNECT"), (b":authority", b"example.test")]) + call(3))
    echo.grpc.give_up("it stops")
    echo.peer.read()
    response = echo.response(3)
    assert (response.content, response.status) == (message(b"UNAVAILABLE: it stops"), 0)


@pytest.mark.parametrize("method", [CALL, STREAM_CALL], ids=["one message", "many"])
@pytest.mark.parametrize("refused", [(b"grpc-timeout", b"x"), (b"grpc-encoding", b"br")])
def test_content_of_a_call_whose_refusal_waits_for_a_window(
    method: Fields, refused: tuple[bytes, bytes]
) -> None:
    """Once, it was taken for a request that is no call, and its connection ended with all others on it."""
    echo = Echo()
    echo.service.failed = {dict(method)[b":path"].decode(): lambda status, text: b"denied"}
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    assert echo.send(headers(1, [*method, refused]) + data(1, message(b"hello"), ends=True)) is None
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 65_535}))
    response = echo.response(1)
    assert (response.content, response.status) == (message(b"denied"), 0)


def test_messages_behind_one_that_was_refused_are_not_looked_at() -> None:
    echo = Echo(SMALL)
    echo.service.failed = {dict(STREAM_CALL)[b":path"].decode(): lambda status, text: b"denied"}
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    echo.send(headers(1, STREAM_CALL) + data(1, message(bytes(101))[:5]))
    echo.send(data(1, message(bytes(101))[:5]) + data(1, message(b"a") * 2) + data(1, b"", ends=True))
    assert (echo.service.refused_calls, echo.streams[0].messages) == (1, [])
    echo.send(frames.window_update(1, 1000))
    assert (echo.response(1).content, echo.response(1).ended) == (message(b"denied"), True)


def test_what_comes_behind_the_message_that_ends_its_stream_is_not_kept() -> None:
    echo = Echo()
    echo.send(headers(1, STREAM_CALL))
    (made,) = echo.streams
    got: list[bytes] = []

    def end(payload: bytes) -> None:
        got.append(payload)
        echo.grpc.end(made.stream, 0, "")

    made.received = end  # type: ignore[method-assign]  # as a handler that has seen enough
    echo.send(data(1, message(b"first") + message(b"second") + message(bytes(100))[:50]))
    assert (got, echo.grpc.http.held_bytes) == ([b"first"], 0)


def test_a_refusal_that_waits_for_a_window_is_no_request_that_does_not_come() -> None:
    """Its client has sent all there is."""
    echo = Echo(Limits(request_timeout_s=10.0))
    echo.service.failed = {METHOD: lambda status, text: b"denied"}
    echo.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    echo.send(headers(1, [*CALL, (b"grpc-timeout", b"x")], ends=True))
    assert not echo.grpc.drop_overdue(100.0)
    assert not echo.grpc.drop_overdue(200.0)
    echo.send(frames.window_update(1, 1000))
    assert echo.response(1).content == message(b"denied")


def test_an_end_that_is_good_is_no_failure_in_the_words_of_its_method() -> None:
    echo = Echo()
    echo.service.failed = {METHOD: lambda status, text: b"denied"}
    echo.send(call(1))
    stream = echo.calls[0].stream
    echo.grpc.send(stream, b"reply")
    echo.grpc.end(stream, 0, "")
    echo.peer.read()
    assert (echo.response(1).content, echo.response(1).status) == (message(b"reply"), 0)


def test_nothing_is_held_for_a_call_that_is_over() -> None:
    """By a thread that unpacks its message, say: it would be counted for ever."""
    echo = Echo()
    echo.send(call(1))
    stream = echo.calls[0].stream
    assert echo.grpc.hold(stream, 100)
    assert echo.grpc.http.held_bytes == 100
    echo.send(frames.rst_stream(1, ErrorCode.CANCEL))
    assert not echo.grpc.hold(stream, 200)
    assert echo.grpc.http.held_bytes == 0


def test_a_compressed_message_that_unpacks_to_nothing_takes_its_time_too() -> None:
    """Of empty blocks: what is taken counts, as little as comes of it."""
    echo = Echo(Limits(stream_window=1 << 24, connection_window=1 << 24))
    empty = zlib.compress(b"", wbits=-15)
    packed = b"\x78\x9c" + b"\0\0\0\xff\xff" * 500_000 + empty + zlib.adler32(b"").to_bytes(4, "big")
    raw = message(packed, compressed=True)
    echo.send(headers(1, [*STREAM_CALL, (b"grpc-encoding", b"deflate")]))
    pieces = [data(1, raw[at : at + 16_384]) for at in range(0, len(raw), 16_384)]
    echo.send(b"".join(pieces[:-1]))
    assert echo.grpc.receive(pieces[-1]) is None
    turns = 0
    while echo.grpc.http.is_behind:
        turns += 1
        assert echo.streams[0].messages == []
        echo.grpc.receive(b"")
    assert turns > 2
    assert echo.streams[0].messages == [b""]


def test_calls_of_a_lost_connection_know_their_stream_no_more() -> None:
    echo = Echo()
    echo.send(call(1) + headers(3, STREAM_CALL))
    streams = [echo.calls[0].stream, echo.streams[0].stream]
    echo.grpc.lost()
    assert [each.call for each in streams] == [None, None]
    assert (echo.calls[0].is_cancelled, echo.streams[0].is_cancelled) == (True, True)
