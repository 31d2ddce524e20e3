"""Streams whose client leaves, or sends more than is taken: they end, and nothing of them is kept."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coprocess import App, Pre, Response
from coprocess.gateways.envoy import early_messages, wire
from coprocess.gateways.envoy.early_messages import EarlyBytes, EarlyMessages
from coprocess.transport.http2 import frames
from tests.envoy.drive import GET, OK, header_map
from tests.envoy.world import Running, serving
from tests.http2.peer import CALL, START, data, headers, message
from tests.server import PATIENCE_S, until

REQUEST = wire.ProcessingRequest(
    request_headers=wire.HttpHeaders(headers=header_map(GET), end_of_stream=True)
).SerializeToString()
RESPONSE = wire.ProcessingRequest(
    response_headers=wire.HttpHeaders(headers=header_map(OK), end_of_stream=True)
).SerializeToString()


def opening(stream_id: int, pre: str, response: str = "") -> bytes:
    """HEADERS of a stream."""
    chain = [(b"x-coprocess-pre", pre.encode())]
    if response:
        chain.append((b"x-coprocess-response", response.encode()))
    pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", wire.PROCESS.encode())]
    return headers(stream_id, [*pseudo, *CALL[3:], *chain])


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    host, _, port = running.address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(START)
        yield client


class Handlers:
    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.release = threading.Event()

    def all(self) -> list[Any]:
        app = App()

        @app.resource(scope="call")
        def counted() -> Iterator[None]:
            self.begun += 1
            yield
            self.ended += 1

        @Pre
        def before(request: Any, counted: None) -> None: ...

        @Response
        def after() -> None: ...

        @Pre
        async def before_async(request: Any, counted: None) -> None: ...

        @Response
        async def after_async() -> None: ...

        @Pre
        def waits() -> None:
            self.release.wait(PATIENCE_S)

        return [app, before, after, before_async, after_async, waits]


def is_idle(running: Running) -> bool:
    return running.gateway.open_streams == running.service.in_flight == 0


@pytest.mark.parametrize("suffix", ["", "_async"])
def test_a_stream_is_ended_that_is_reset_with_its_first_message(suffix: str) -> None:
    handlers = Handlers()
    with serving(*handlers.all()) as running, connected(running) as client:
        for number in range(100):
            stream = 2 * number + 1
            sent = opening(stream, f"before{suffix}") + data(stream, message(REQUEST))
            client.sendall(sent + frames.rst_stream(stream, frames.ErrorCode.CANCEL))
        until(lambda: is_idle(running))
    assert handlers.begun == handlers.ended


@pytest.mark.parametrize("suffix", ["", "_async"])
def test_a_stream_is_ended_that_is_reset_with_a_later_message(suffix: str) -> None:
    handlers = Handlers()
    with serving(*handlers.all()) as running, connected(running) as client:
        for number in range(20):
            stream = 2 * number + 1
            client.sendall(
                opening(stream, f"before{suffix}", f"after{suffix}") + data(stream, message(REQUEST))
            )
            until(lambda number=number: handlers.begun > number)  # type: ignore[misc]
            client.sendall(
                data(stream, message(RESPONSE)) + frames.rst_stream(stream, frames.ErrorCode.CANCEL)
            )
        until(lambda: is_idle(running) and handlers.ended == 20)
        assert running.service.drain(PATIENCE_S)


def test_a_stream_is_ended_whose_connection_is_lost_with_its_first_message() -> None:
    handlers = Handlers()
    with serving(*handlers.all()) as running:
        for _ in range(20):
            with connected(running) as client:
                client.sendall(opening(1, "before") + data(1, message(REQUEST)))
        until(lambda: is_idle(running))
    assert handlers.begun == handlers.ended


@pytest.mark.parametrize("early", [b"", b"x" * 14_000])
def test_messages_behind_a_busy_one_are_bounded_and_let_go(
    early: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty ones, too: Python needs memory for each."""
    monkeypatch.setattr(early_messages, "MOST_BYTES", 100_000)
    handlers = Handlers()
    with serving(*handlers.all()) as running, connected(running) as client:
        kept = running.gateway.early_bytes
        client.sendall(opening(1, "waits") + data(1, message(REQUEST)))
        until(lambda: running.gateway.open_streams == 1)
        sent = message(early) * (15_000 // len(message(early)))
        for _ in range(10):
            client.sendall(data(1, sent))
        (stream,) = running.gateway._streams
        until(lambda: stream._is_over and kept.kept_bytes == 0)
        handlers.release.set()
        until(lambda: is_idle(running))


def test_all_streams_together_keep_no_more_than_they_may() -> None:
    kept = EarlyBytes(1000)
    one, other = EarlyMessages(kept), EarlyMessages(kept)
    assert one.put(b"x" * 400)
    assert other.put(b"x" * 400)
    assert not other.put(b"x" * 10)
    one.put_first(b"first")
    assert one.take() == b"first"
    other.clear()
    assert not other
    assert one.put(b"y" * 400)
    assert one.take() + one.take() == b"x" * 400 + b"y" * 400
    with pytest.raises(IndexError):
        one.take()
    assert kept.kept_bytes == 0
