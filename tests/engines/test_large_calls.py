"""Calls with large messages: one at a time, and who has many of them that wait may send less."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from coprocess.transport import http2_large_calls
from coprocess.transport.engine import Rpc
from coprocess.transport.engines import is_compiled
from coprocess.transport.http2 import frames, grpc_messages
from coprocess.transport.http2.connection import Connection
from coprocess.transport.http2.grpc_connection import Method
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2_engine import Http2Engine
from tests.engines.hooks import methods, tcp_connection
from tests.engines.test_fair_turns import polled
from tests.engines.test_http2_connections import METHOD_CALL, read_frames
from tests.http2.peer import METHOD, START, EchoCall, call, data, headers, message, parse
from tests.server import PATIENCE_S, engine_options, until

_PING = frames.frame(frames.PING, 0, 0, bytes(8))
_ZIPPED_CALL = [*METHOD_CALL, (b"grpc-encoding", b"gzip")]
_LARGE = b"x" * 200_000
_PACKED = message(gzip.compress(_LARGE), compressed=True)

changes_modules = pytest.mark.skipif(is_compiled(), reason="a compiled module is not changed from outside")


def large(stream_id: int) -> bytes:
    parts = [message(_LARGE)[at : at + 16_384] for at in range(0, len(_LARGE) + 5, 16_384)]
    sent = b"".join(data(stream_id, part, ends=part is parts[-1]) for part in parts)
    return headers(stream_id, METHOD_CALL) + sent


def packed(stream_id: int, sent: bytes = _PACKED) -> bytes:
    return headers(stream_id, _ZIPPED_CALL) + data(stream_id, sent, ends=True)


def packed_little(stream_id: int) -> bytes:
    return packed(stream_id, message(gzip.compress(b"little"), compressed=True))


@contextmanager
def served(handler: Callable[[Rpc], None], limits: Limits | None = None) -> Iterator[tuple[Http2Engine, str]]:
    engine = Http2Engine(engine_options(connection_limits=limits))
    address = engine.listen("127.0.0.1:0")
    engine.start(methods(handler))
    try:
        yield engine, address
    finally:
        engine.stop()


class Running:
    """A handler that counts how many run at one time, but for those of a small message."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.began = threading.Semaphore(0)
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._running = 0

    def __call__(self, rpc: Rpc) -> None:
        if rpc.payload == b"small":
            rpc.respond(b"small")
            return
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        self.began.release()
        self.release.wait(PATIENCE_S)
        with self._lock:
            self._running -= 1
        rpc.respond(b"large")


@changes_modules
def test_large_messages_are_unpacked_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many threads as there were calls did, and kept the interpreter from all others, for seconds."""
    release, began = threading.Event(), threading.Semaphore(0)
    running: list[int] = []
    at_once: list[int] = []
    unpack = grpc_messages.unpack

    def noted(*arguments: Any) -> Iterator[bytes]:
        running.append(1)
        at_once.append(len(running))
        began.release()
        release.wait(PATIENCE_S)
        yield from unpack(*arguments)
        running.pop()

    monkeypatch.setattr(grpc_messages, "unpack", noted)
    sent = message(gzip.compress(b"large"), compressed=True)
    with served(lambda rpc: rpc.respond(rpc.payload)) as (_, address), tcp_connection(address) as connection:
        try:
            connection.sendall(START + b"".join(packed(each, sent) for each in range(1, 11, 2)))
            assert began.acquire(timeout=PATIENCE_S)
            # Others are answered meanwhile.
            connection.sendall(call(11, b"small", METHOD_CALL))
            answers = (each for each in read_frames(connection) if each.kind == frames.DATA)
            assert next(answers).stream_id == 11
        finally:
            release.set()
        assert {next(answers).payload for _ in range(5)} == {message(b"large")}
    assert max(at_once) == 1


@changes_modules
@pytest.mark.parametrize("make", [large, packed])
def test_calls_with_large_messages_are_handled_one_after_the_other(
    make: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many at a time as there were took the interpreter, and new memory, from all others."""
    monkeypatch.setattr(http2_large_calls, "_BYTE_S", 1.0)
    handler = Running()
    with served(handler) as (_, address), tcp_connection(address) as connection:
        try:
            connection.sendall(START + b"".join(make(each) for each in range(1, 11, 2)))
            assert handler.began.acquire(timeout=PATIENCE_S)
            connection.sendall(call(11, b"small", METHOD_CALL))
            answers = (each for each in read_frames(connection) if each.kind == frames.DATA)
            assert next(answers).stream_id == 11
        finally:
            handler.release.set()
        assert {next(answers).payload for _ in range(5)} == {message(b"large")}
        assert handler.most_at_once == 1


@pytest.mark.parametrize("make", [large, packed, packed_little])
def test_a_large_call_that_waits_for_something_holds_up_no_other(make: Callable[[int], bytes]) -> None:
    handler = Running()
    with served(handler) as (_, address), tcp_connection(address) as connection:
        try:
            connection.sendall(START + b"".join(make(each) for each in range(1, 11, 2)))
            for _ in range(5):  # None has ended.
                assert handler.began.acquire(timeout=PATIENCE_S)
        finally:
            handler.release.set()
        answers = (each for each in read_frames(connection) if each.kind == frames.DATA)
        assert {next(answers).payload for _ in range(5)} == {message(b"large")}


@changes_modules
@pytest.mark.parametrize(("first", "second"), [(large, packed), (packed, large)])
def test_what_is_unpacked_and_what_is_large_as_it_comes_have_one_turn(
    first: Callable[[int], bytes], second: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2_large_calls, "_BYTE_S", 1.0)
    handler = Running()
    with served(handler) as (engine, address), tcp_connection(address) as connection:
        limit = Limits().connection_window
        (http,) = connected(engine)
        try:
            connection.sendall(START + first(1))
            assert handler.began.acquire(timeout=PATIENCE_S)
            connection.sendall(second(3))
            # It has been taken up, and unpacked.
            until(lambda: bool(engine._large._waiting.lines))
        finally:
            handler.release.set()
        answers = (each for each in read_frames(connection) if each.kind == frames.DATA)
        assert [next(answers).stream_id for _ in range(2)] == [1, 3]
        assert handler.most_at_once == 1
        until(lambda: http.window == limit)


@changes_modules
@pytest.mark.parametrize("make", [large, packed])
def test_what_waits_no_more_is_kept_back_from_no_window(
    make: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2_large_calls, "_BYTE_S", 1.0)
    handler = Running()
    with served(handler) as (engine, address), tcp_connection(address) as connection:
        (http,) = connected(engine)
        try:
            connection.sendall(START + make(1) + make(3) + make(5))
            size = len(_LARGE) if make is large else len(_PACKED) - 5
            until(lambda: http.window == Limits().connection_window - 2 * size)
            with engine.server.lock:
                engine._large.drop(lambda rpc: True)
            assert http.window == Limits().connection_window
        finally:
            handler.release.set()


def connected(engine: Http2Engine) -> list[Connection]:
    """Its connections, once it has any."""
    until(lambda: bool(engine.server.connections()))
    return [each.grpc.http for each in engine.server.connections()]


@changes_modules
def test_a_client_may_send_no_more_than_a_window_of_calls_that_wait_for_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, 60,000 were taken, which waited for minutes, in 670 MiB. All else is read on."""
    monkeypatch.setattr(http2_large_calls, "_BYTE_S", 1.0)
    handler = Running()
    body = random.Random(1).randbytes(14_000) + _LARGE  # noqa: S311 - no secret
    sent = message(gzip.compress(body), compressed=True)
    limits = Limits(connection_window=1_000_000)
    with served(handler, limits) as (engine, address), tcp_connection(address) as connection:
        client = _Flow(connection)
        connection.sendall(START)
        client.read(lambda: client.window == limits.connection_window)
        (http,) = connected(engine)
        calls = 0

        def call_while_it_may() -> None:
            nonlocal calls
            while client.window >= len(sent) and calls < 300:
                connection.sendall(packed(2 * calls + 1, sent))
                client.window -= len(sent)
                calls += 1

        try:
            while client.window >= len(sent):
                call_while_it_may()
                # One window that was given back before they were counted, and one of those that are.
                assert calls * len(sent) < 2 * limits.connection_window + 2 * len(sent)
                # All but the one that runs wait, of each what is behind its prefix.
                until(lambda: http.window == limits.connection_window - (calls - 1) * (len(sent) - 5))
                connection.sendall(_PING)
                client.pings = 0
                client.read(lambda: client.pings == 1)
        finally:
            handler.release.set()
        while client.answers < 300:
            client.read_some()
            call_while_it_may()
        client.read(lambda: client.window > limits.connection_window // 2)


@changes_modules
@pytest.mark.parametrize("make", [large, packed])
def test_a_call_that_fails_otherwise_than_it_may_keeps_its_turn_from_no_other(
    make: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may be short, and the next one takes less."""
    monkeypatch.setattr(http2_large_calls, "_BYTE_S", 1.0)
    failed: list[int] = []

    def handle(rpc: Rpc) -> None:
        if not failed:
            failed.append(1)
            raise MemoryError
        rpc.respond(b"large")

    with served(handle) as (_, address), tcp_connection(address) as connection:
        connection.sendall(START + b"".join(make(each) for each in range(1, 11, 2)))
        with closing(read_frames(connection)) as came:
            answers = (each for each in came if each.kind == frames.DATA)
            assert {next(answers).payload for _ in range(4)} == {message(b"large")}


@changes_modules
def test_what_is_large_as_it_comes_waits_for_nothing_that_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, a call of 200 KB waited until one of each other connection was unpacked: 80 ms and more."""
    release, began = threading.Event(), threading.Event()
    unpack = grpc_messages.unpack

    def waiting(*arguments: Any) -> Iterator[bytes]:
        began.set()
        release.wait(PATIENCE_S)
        yield from unpack(*arguments)

    monkeypatch.setattr(grpc_messages, "unpack", waiting)
    with (
        served(lambda rpc: rpc.respond(b"large")) as (_, address),
        tcp_connection(address) as connection,
        tcp_connection(address) as other,
    ):
        try:
            connection.sendall(START + packed(1) + packed(3))
            assert began.wait(PATIENCE_S)
            other.sendall(START + large(1))
            assert next(each for each in read_frames(other) if each.kind == frames.DATA).payload
        finally:
            release.set()
        answers = (each for each in read_frames(connection) if each.kind == frames.DATA)
        assert {next(answers).payload for _ in range(2)} == {message(b"large")}


class _Flow:
    """A client that keeps to the window of its connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._frames = read_frames(connection)
        self.window, self.pings, self.answers = frames.FIRST_WINDOW, 0, 0

    def read_some(self) -> None:
        each = next(self._frames)
        self.pings += each.kind == frames.PING
        self.answers += each.kind == frames.DATA
        if each.kind == frames.WINDOW_UPDATE and not each.stream_id:
            self.window += int.from_bytes(each.payload, "big")

    def read(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            self.read_some()


def taken(client: socket.socket) -> bytes:
    client.setblocking(False)
    came = b""
    with suppress(BlockingIOError):
        while piece := client.recv(1 << 20):
            came += piece
    return came


def test_a_large_reply_goes_out_in_small_steps_where_others_come_first() -> None:
    """All that waited for a turn waited for a write of a MiB."""
    wide = 2**24
    begun = {METHOD: Method(begin=lambda grpc, stream, *others: EchoCall(stream, *others))}
    with polled(1, methods=begun) as (engine, (connection,), (client,)):
        connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wide)
        widened = frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: wide})
        client.sendall(frames.PREFACE + widened + frames.window_update(0, wide) + call(1))
        engine.switches = 100  # Several want something.
        connection._bound_turns()
        engine.poll(0.0)
        with engine.lock:
            engine.flush()
        (stream,) = connection.grpc.http.streams.values()
        reply = b"x" * 1_500_000
        engine.answer(connection, connection.respond, stream, reply, True)
        steps = [taken(client)]
        for _ in range(100):
            engine.poll(0.0)
            with engine.lock:
                engine.flush()
            steps.append(taken(client))
        sizes = [len(each) for each in steps if each]
        assert max(sizes) <= 128 * 1024 * 1.01
        sent = b"".join(each.payload for each in parse(b"".join(steps)) if each.kind == frames.DATA)
        assert sent == message(reply)
