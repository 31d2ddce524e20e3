"""The plugin protocol's bytes: as recorded, in pieces, beyond the limits, and made by strangers."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.wire import Answer, FrameError, Notification, Reader, Request
from tests.kong.recorded import raw_frames, recordings

#: What the odd server sent on purpose.
NO_FRAMES = {"odd-ext", "odd-garbage", "odd-half"}


def test_every_recorded_frame_is_read_and_made_as_it_was() -> None:
    seen = 0
    for case in recordings():
        for direction, raw in raw_frames(case):
            if case["name"] in NO_FRAMES and direction == "py>kong":
                continue
            (value,) = Reader().feed(raw)
            pack = wire.pack_as_kong if direction == "kong>py" else wire.pack
            assert pack(value) == raw, (case["name"], direction, value)
            seen += 1
    assert seen > 50


def test_recorded_frames_are_requests_and_answers() -> None:
    for case in recordings():
        for direction, raw in raw_frames(case):
            if direction == "kong>py":
                request = wire.request_of(*Reader().feed(raw))
                assert wire.pack_request(request.id, request.method, request.argument) == raw
            elif not case["name"].startswith("odd-"):
                answer = wire.message_of(*Reader().feed(raw))
                assert isinstance(answer, Answer)
                assert wire.pack_answer(answer.id, answer.result, answer.error) == raw


def test_a_stream_may_come_in_any_pieces() -> None:
    frames = [raw for case in recordings() for direction, raw in raw_frames(case) if direction == "kong>py"]
    expected = [value for raw in frames for value in Reader().feed(raw)]
    stream, rng = b"".join(frames), random.Random(5)  # noqa: S311 - no secret
    for longest in (3, 100, 5000, len(stream)):
        reader, values, at = Reader(), [], 0
        while at < len(stream):
            size = rng.randint(1, longest)
            values += reader.feed(stream[at : at + size])
            at += size
        assert values == expected
        assert not reader.is_within


def test_a_part_of_a_value_is_told_from_its_end() -> None:
    reader = Reader()
    raw = wire.pack_request(1, wire.STEP, {"EventId": 1, "Data": "x"})
    assert reader.feed(raw[:9]) == []
    assert reader.is_within
    assert reader.feed(raw[9:] + raw[:3]) == [[0, 1, "plugin.Step", [{"EventId": 1, "Data": "x"}]]]
    assert reader.is_within


def test_text_that_is_no_utf8_comes_back_as_the_bytes_that_came() -> None:
    raw = b"\xa4\xe9t\xe9\xff"
    (text,) = Reader().feed(raw)
    assert isinstance(text, str)
    assert wire.pack(text) == wire.pack_as_kong(text) == raw


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xc1", "not msgpack"),
        (b"\xd4\x05\x00", "an extension type (5)"),
        (b"\x91" * 2000, "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", "exceeds max_array_len"),
        (b"\xdf\xff\xff\xff\xff", "exceeds max_map_len"),
        (b"\x81\x90\xc0", "unhashable"),
    ],
)
def test_what_is_no_msgpack_is_an_error_and_no_more(data: bytes, says: str) -> None:
    with pytest.raises(FrameError, match="not msgpack") as caught:
        Reader(max_frame_bytes=2**16).feed(data)
    assert says in str(caught.value)


def test_a_message_over_the_limit_is_refused_before_it_is_there() -> None:
    reader = Reader(max_frame_bytes=1000)
    assert reader.feed(b"\xc5\x03\x00" + b"x" * 700) == []
    with pytest.raises(FrameError, match="larger than the limit of 1000 bytes"):
        reader.feed(b"x" * 400 + b"y" * 10)
    # A head alone takes no room.
    assert Reader(max_frame_bytes=1000).feed(b"\xdb\xff\xff\xff\xff") == []


def test_hostile_bytes_are_a_clear_error_or_a_value() -> None:
    rng = random.Random(14)  # noqa: S311 - no secret
    frames = [raw for case in recordings() for _, raw in raw_frames(case) if len(raw) < 500][:200]
    for _ in range(20_000):
        data = bytearray(rng.choice(frames))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(FrameError):
            for value in Reader(max_frame_bytes=2**16).feed(bytes(data)):
                wire.request_of(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        [0, 1, "plugin.Step"],
        [0, 1, "plugin.Step", []],
        [0, 1, "plugin.Step", [1, 2]],
        [0, 1, "plugin.Step", {}],
        [0, 1, 7, [1]],
        [0, "1", "plugin.Step", [1]],
        [0, True, "plugin.Step", [1]],
        [False, 1, "plugin.Step", [1]],
        [1, 1, None, 1],
        [0, 1, "plugin.Step", [1], 5],
    ],
)
def test_what_is_no_request(value: Any) -> None:
    with pytest.raises(FrameError) as caught:
        wire.request_of(value)
    assert "Expected" in str(caught.value)


def test_an_error_names_the_request_where_it_has_a_number() -> None:
    with pytest.raises(FrameError) as caught:
        wire.request_of([0, 7, 8, [1]])
    assert caught.value.message_id == 7


def test_messages_of_both_sides() -> None:
    (value,) = Reader().feed(wire.pack_request(3, wire.HANDLE_EVENT, {"InstanceId": 0, "EventName": "log"}))
    assert wire.request_of(value) == Request(3, wire.HANDLE_EVENT, {"InstanceId": 0, "EventName": "log"})
    (value,) = Reader().feed(wire.pack_answer(3, {"Data": "ret"}))
    assert wire.message_of(value) == Answer(3, None, {"Data": "ret"})
    (value,) = Reader().feed(wire.pack_notification(wire.SERVER_PID, 77))
    assert wire.message_of(value) == Notification("serverPid", 77)
    for no_message in ([3, 1], "x", [0, 1, "m", [1]], [7, 1, 2, 3]):
        with pytest.raises(FrameError, match="neither an answer nor a notification"):
            wire.message_of(no_message)


def test_texts_of_kong_have_no_short_form_that_it_never_sends() -> None:
    assert wire.pack_as_kong("x" * 31)[:1] == bytes([0xA0 | 31])
    assert wire.pack_as_kong("x" * 40)[:3] == b"\xda\x00\x28"
    assert wire.pack_as_kong("x" * 70_000)[:1] == b"\xdb"
    assert wire.pack_as_kong(b"x")[:2] == b"\xc4\x01"
    assert wire.pack_as_kong([1] * 16)[:1] == b"\xdc"
    assert wire.pack_as_kong({str(n): n for n in range(16)})[:1] == b"\xde"
    with pytest.raises(TypeError, match="Kong sends no set"):
        wire.pack_as_kong({1})
