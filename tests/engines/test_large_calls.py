"""Calls with large messages: one at a time, and a connection with many of them is not read on."""

from __future__ import annotations

import gzip
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from coprocess.transport import http2_large_calls
from coprocess.transport.engine import Rpc
from coprocess.transport.engines import is_compiled
from coprocess.transport.http2 import frames, grpc_messages, server
from coprocess.transport.http2.grpc_connection import GrpcConnection, Method
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2_engine import Http2Engine
from tests.engines.hooks import methods, tcp_connection
from tests.engines.test_fair_turns import acknowledged, polled
from tests.engines.test_http2_connections import METHOD_CALL, read_frames
from tests.http2.peer import CALL, METHOD, START, EchoCall, call, data, headers, message, parse
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
def served(handler: Callable[[Rpc], None]) -> Iterator[tuple[Http2Engine, str]]:
    engine = Http2Engine(engine_options())
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
    engine = Http2Engine(engine_options())
    address = engine.listen("127.0.0.1:0")
    engine.start(methods(lambda rpc: rpc.respond(rpc.payload)))
    packed = message(gzip.compress(b"large"), compressed=True)
    zipped = [*METHOD_CALL, (b"grpc-encoding", b"gzip")]
    try:
        with tcp_connection(address) as connection:
            calls = (headers(each, zipped) + data(each, packed, ends=True) for each in range(1, 11, 2))
            connection.sendall(START + b"".join(calls))
            assert began.acquire(timeout=PATIENCE_S)
            # Others are answered meanwhile.
            connection.sendall(call(11, b"small", METHOD_CALL))
            answers = (each for each in read_frames(connection) if each.kind == frames.DATA)
            assert next(answers).stream_id == 11
            release.set()
            assert {next(answers).payload for _ in range(5)} == {message(b"large")}
    finally:
        release.set()
        engine.stop()
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
def test_a_connection_with_many_large_calls_is_read_on_when_they_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, 60,000 of them were taken, which waited for minutes, in 670 MiB."""
    monkeypatch.setattr(http2_large_calls, "_BYTE_S", 1.0)
    monkeypatch.setattr(server, "_LOOK_INTERVAL_S", 0.01)
    handler, count = Running(), 300
    # So many bytes each that they are not all read at once.
    body = random.Random(1).randbytes(14_000) + _LARGE  # noqa: S311 - no secret
    sent = message(gzip.compress(body), compressed=True)
    with (
        served(handler) as (engine, address),
        tcp_connection(address) as connection,
        tcp_connection(address) as other,
    ):
        connection.sendall(START)
        sender = threading.Thread(
            target=connection.sendall,
            args=(b"".join(packed(each, sent) for each in range(1, 2 * count, 2)) + _PING,),
        )
        sender.start()
        try:
            assert handler.began.acquire(timeout=PATIENCE_S)
            until(lambda: any(each.is_held_up for each in connections(engine)))
            other.sendall(START + call(1, b"small", METHOD_CALL))
            assert next(each for each in read_frames(other) if each.kind == frames.DATA).payload
        finally:
            handler.release.set()
        answered, are_alive = 0, False
        for each in read_frames(connection):
            answered += each.kind == frames.DATA
            are_alive |= each.kind == frames.PING and bool(each.flags & frames.ACK)
            if answered == count and are_alive:
                break
        sender.join()
        assert not any(each.is_held_up for each in connections(engine))


def connections(engine: Http2Engine) -> list[Http2Protocol]:
    with engine.server.lock:
        return engine.server.connections()


@contextmanager
def held_up(limits: Limits | None = None) -> Iterator[tuple[server.Server, Http2Protocol, socket.socket]]:
    """A server that the test polls, and a connection that has too many large calls."""
    with polled(1, limits, {METHOD: Method(begin=_begin)}) as (engine, (connection,), (client,)):
        connection.look(time.monotonic())
        client.sendall(START)
        engine.poll(0.0)
        with engine.lock:
            engine.flush()
        acknowledged(client)
        connection.large_line.extend(range(65))
        client.sendall(_PING)
        engine.poll(0.0)
        assert connection.is_held_up
        yield engine, connection, client


def answered(engine: server.Server, client: socket.socket) -> int:
    engine.poll(0.0)
    with engine.lock:
        engine.flush()
    return acknowledged(client)


def test_who_is_held_up_is_read_when_few_of_its_large_calls_are_left() -> None:
    with held_up() as (engine, connection, client):
        for left, is_read in ((64, 0), (17, 0), (16, 1)):
            while len(connection.large_line) > left:
                connection.large_line.pop()
            with engine.lock:
                connection.read_on()
            assert answered(engine, client) == is_read
        client.sendall(_PING)
        assert answered(engine, client) == 1


def test_who_is_held_up_is_not_late_with_what_is_not_read() -> None:
    limits = Limits(frame_timeout_s=1.0, request_timeout_s=1.0, keepalive_s=1.0, keepalive_timeout_s=1.0)
    with held_up(limits) as (engine, connection, client):
        client.sendall(headers(1, CALL) + _PING[:5])
        connection.is_held_up = False
        with engine.lock:
            connection._watch()
            connection.large_line.clear()
        engine.poll(0.0)
        connection.large_line.extend(range(65))
        client.sendall(_PING[5:7])
        engine.poll(0.0)
        assert connection.is_held_up
        for after_s in range(10):
            connection.look(time.monotonic() + 2 * after_s)
        assert not connection.is_closing
        assert connection.grpc.http.streams


def test_who_leaves_while_it_is_held_up_is_found_to_be_gone() -> None:
    with held_up() as (engine, connection, client):
        client.close()
        for _ in range(3):  # What it had sent, and its end.
            engine.poll(0.0)
        assert connection.is_gone


def test_who_is_closed_while_it_is_held_up_is_read_to_its_end() -> None:
    """What is not read would reset the last that it is told."""
    with held_up() as (engine, connection, client):
        connection.fail(frames.ErrorCode.PROTOCOL_ERROR, "a test")
        assert not connection.is_held_up
        client.shutdown(socket.SHUT_WR)
        for _ in range(3):
            engine.poll(0.0)
        assert connection.is_gone


def _begin(connection: GrpcConnection, *others: Any) -> EchoCall:
    return EchoCall(*others)


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
    with polled(1, methods={METHOD: Method(begin=_begin)}) as (engine, (connection,), (client,)):
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
