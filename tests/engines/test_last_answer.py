"""An answer that is given just before the client acknowledges the end of its connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest
from hpack import Encoder

from coprocess.transport import awake
from coprocess.transport.engines import is_compiled
from coprocess.transport.http2 import frames, protocol, timers
from coprocess.transport.http2 import server as server_module
from coprocess.transport.http2.grpc_connection import Method
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.server import Server
from tests.server import PATIENCE_S, until

PATH = "/test/Call"


class _Call:
    def cancelled(self, stream: object) -> None: ...


def _call() -> bytes:
    block = Encoder().encode(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", "test"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
    )
    headers = frames.frame(frames.HEADERS, 0x4, 1, block)
    return headers + frames.frame(frames.DATA, 0x1, 1, b"\0\0\0\0\4call")


def _opened() -> tuple[Server, list[tuple[Any, Any]]]:
    """A server, and the calls that it has begun: of each, its connection and stream."""
    begun: list[tuple[Any, Any]] = []

    def begin(connection: Any, stream: Any, *_: object) -> _Call:
        begun.append((connection.owner, stream))
        return _Call()

    server = Server({PATH: Method(begin=begin)}, Limits())
    server.open()
    return server, begun


def test_an_answer_that_waits_to_be_written_when_the_last_ping_comes_is_not_lost() -> None:
    """A front loses none of its workers' answers at its end: they come by the same poll as that PING."""
    server, begun = _opened()
    with socket.create_server(("127.0.0.1", 0)) as bound, socket.create_connection(bound.getsockname()) as us:
        us.settimeout(PATIENCE_S)
        with server.lock:
            server._add(bound.accept()[0], None)
        us.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0) + _call())
        until_s = time.monotonic() + PATIENCE_S
        while not begun and time.monotonic() < until_s:
            server.poll(0.01)
        connection, stream = begun[0]
        with server.lock:
            connection.begin_end(time.monotonic() + PATIENCE_S)
            connection.respond(stream, b"the answer")
            server.write_later(connection)
        # By one poll: what was answered just before is written with it.
        us.sendall(frames.frame(frames.PING, 0x1, 0, b"the end?"))
        came, us_is_open = b"", True
        us.setblocking(False)
        while us_is_open and time.monotonic() < until_s:
            server.poll(0.01)
            with server.lock, contextlib.suppress(BlockingIOError):
                server.flush()
                data = us.recv(65536)
                came, us_is_open = came + data, bool(data)
        assert not us_is_open
        assert b"the answer" in came
    server.close()


class _Clock:
    """In the place of `time`; it can be put forward, as by a machine that stands still."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.sleep = time.sleep

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.mark.parametrize("still_s", [0.0, 3.0], ids=["runs", "stands still"])
def test_large_answers_that_clients_still_read_as_it_stops_are_not_lost(
    monkeypatch: pytest.MonkeyPatch, still_s: float
) -> None:
    """Once, all was closed as soon as it was written: what a client sent while it read reset the rest.

    And once, a machine that stood still was taken for a client that does not read.
    """
    if still_s and is_compiled():
        pytest.skip("compiled code takes no clock from outside")
    clock = _Clock()
    for module in (server_module, protocol, awake, timers):
        monkeypatch.setattr(module, "time", clock)
    size = 3_000_000
    server, calls = _opened()
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            server.poll(0.01)

    polling = threading.Thread(target=poll)
    with socket.create_server(("127.0.0.1", 0)) as bound, socket.create_connection(bound.getsockname()) as us:
        us.settimeout(PATIENCE_S)
        with server.lock:
            server._add(bound.accept()[0], None)
        polling.start()
        try:
            us.sendall(frames.PREFACE + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 1 << 30}))
            us.sendall(frames.window_update(0, 1 << 30) + _call())
            until(lambda: bool(calls))
            [(connection, stream)] = calls
            server.answer(connection, connection.respond, stream, bytes(size))
            stopping = threading.Thread(target=server.stop, args=(1.0,))
            stopping.start()
            came = 0
            # As whoever reads it: a little at a time, with word of the room there is.
            while data := us.recv(16_384):
                came += len(data)
                if came > size / 10:
                    clock.ahead_s = still_s
                time.sleep(0.002)
                with contextlib.suppress(BrokenPipeError):
                    us.sendall(frames.window_update(0, 1))
            stopping.join()
        finally:
            stop.set()
            polling.join()
            server.close()
    assert came > size
