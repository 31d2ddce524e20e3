"""What the campaigns play, with a few inputs; and that they see a fault."""

from __future__ import annotations

import os
import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess.gateways.kong.wire import Reader
from coprocess.transport.engines import is_compiled
from coprocess.transport.http2.sending import Sending
from coprocess.transport.http2.streams import Stream
from tests.fuzz import http2, kong

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


@given(st.binary(max_size=600))
@settings(max_examples=150 * TIMES, deadline=None)
def test_a_connection_of_the_engine(raw: bytes) -> None:
    http2.play(raw)


@given(st.binary(max_size=300))
@settings(max_examples=150 * TIMES, deadline=None)
def test_a_stream_of_kong(raw: bytes) -> None:
    kong.play(raw)


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_a_fault_in_the_books_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_too_little(self: Sending, stream: Stream) -> None:
        if stream.outgoing:
            stream.outgoing.clear()

    monkeypatch.setattr(Sending, "forget", forget_too_little)
    chance = random.Random(1)  # noqa: S311 - no secret
    with pytest.raises(AssertionError):
        _play_many(chance)


def test_a_byte_that_is_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Reader._feed
    monkeypatch.setattr(Reader, "_feed", lambda self, data: feed(self, data[:-1] if self._came else data))
    in_two_pieces = bytes([2, 100, 100, 100]) + msgpack.packb(["abc"])
    with pytest.raises(AssertionError):
        kong.play(in_two_pieces)


def _play_many(chance: random.Random) -> None:
    for _ in range(2000):
        http2.play(chance.randbytes(chance.randrange(600)))
