"""Connections of the http2 engine that take too long, and what they are told."""

from __future__ import annotations

import gzip
import select
import selectors
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest
from hpack import Decoder

from coprocess.transport.engine import Rpc
from coprocess.transport.engines import is_compiled
from coprocess.transport.http2 import frames, protocol, server
from coprocess.transport.http2.frames import ErrorCode
from coprocess.transport.http2.grpc_connection import Call, GrpcConnection, Method
from coprocess.transport.http2.grpc_wire import Request
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.streams import Stream
from coprocess.transport.http2_calls import Http2Rpc
from coprocess.transport.http2_engine import Http2Engine
from tests.engines.hooks import methods, tcp_connection
from tests.http2.peer import CALL, START, EchoCall, Fields, Frame, call, data, headers, message
from tests.server import PATIENCE_S, Client, engine_options, fails, until

METHOD_CALL: Fields = [*CALL[:2], (b":path", b"/coprocess.Dispatcher/Dispatch"), *CALL[3:]]


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LOOK_INTERVAL_S", 0.01)


@contextmanager
def limited(handler: Any = None, **limits: Any) -> Iterator[str]:
    """The address of an engine with other limits than the usual ones."""
    engine = Http2Engine(engine_options(connection_limits=Limits(**limits)))
    address = engine.listen("127.0.0.1:0")
    engine.start(methods(handler or (lambda rpc: rpc.respond(rpc.payload))))
    try:
        yield address
    finally:
        engine.stop()


def read_frames(connection: socket.socket) -> Generator[Frame, None, None]:
    """Until the server closes the connection."""
    with connection.makefile("rb") as answers:
        while header := answers.read(frames.FRAME_HEADER_BYTES):
            high, low, kind, flags, stream_id = frames.FRAME_HEADER.unpack(header)
            yield Frame(kind, flags, stream_id, answers.read(high << 16 | low))


def goaways(connection: socket.socket) -> list[tuple[int, int]]:
    """The last stream and the code of each, until the end."""
    found = [frame.payload for frame in read_frames(connection) if frame.kind == frames.GOAWAY]
    return [(int.from_bytes(each[:4], "big"), int.from_bytes(each[4:8], "big")) for each in found]


@pytest.mark.parametrize(
    "sent", [b"", frames.PREFACE[:5], START + b"\0\0", START + headers(1, METHOD_CALL, flags=0)]
)
def test_what_was_begun_must_end_in_time(sent: bytes) -> None:
    with limited(frame_timeout_s=0.1) as address, tcp_connection(address) as connection:
        connection.sendall(sent)
        assert goaways(connection)[-1][1] == ErrorCode.PROTOCOL_ERROR


def test_a_peer_that_sends_without_a_pause_is_within_a_frame_whenever_one_looks() -> None:
    """Each frame has its time, and not all of them together."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        engine = Server({}, Limits(frame_timeout_s=30, keepalive_s=0))
        engine.open()
        connection = Http2Protocol(engine, ours, None)
        ping = frames.frame(frames.PING, 0, 0, bytes(8))
        now_s = time.monotonic()
        connection.receive(START + ping[:5])
        for _ in range(10):
            now_s += 20
            connection.look(now_s)
            connection.receive(ping[5:] + ping[:5])
        was_closing = connection.is_closing
        connection.look(now_s + 20)
        connection.look(now_s + 51)  # Nothing came meanwhile.
        assert (was_closing, connection.is_closing) == (False, True)
        connection.abort()
        engine.close()


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_many_connections_are_looked_after_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes 6 µs: of 10,000, all others waited for 60 ms, once a second."""
    looked_at: list[Http2Protocol] = []
    monkeypatch.setattr(Http2Protocol, "look", lambda self, now_s: looked_at.append(self))
    engine = Server({}, Limits())
    engine.open()
    pairs = [socket.socketpair() for _ in range(300)]
    for ours, _ in pairs:
        engine._add(ours, None)
    at_once = []
    while len(set(looked_at)) < 300:
        before = len(looked_at)
        engine.poll(0.001)
        at_once.append(len(looked_at) - before)
    assert max(at_once) <= 128
    engine.close()
    for _, theirs in pairs:
        theirs.close()


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
@pytest.mark.skipif(not hasattr(select, "epoll"), reason="other pollers tell of all at once")
def test_of_many_connections_that_are_ready_some_are_read_at_a_time_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where 64 brought 200 calls each, the answers to all others waited 300 ms, again and again."""
    monkeypatch.setattr(Http2Protocol, "look", lambda self, now_s: None)
    received: list[Http2Protocol] = []
    receive = Http2Protocol.receive

    def noted(self: Http2Protocol, data: bytes) -> None:
        received.append(self)
        receive(self, data)

    monkeypatch.setattr(Http2Protocol, "receive", noted)
    engine = Server({}, Limits())
    engine.open()
    pairs = [socket.socketpair() for _ in range(40)]
    much = START + 300 * frames.frame(frames.PING, 0, 0, bytes(8))
    for ours, theirs in pairs:
        engine._add(ours, None)
        theirs.sendall(much)
    for connection in engine._connections:
        connection._set_later(False)  # They are not new.
    polls = []
    while len(set(received)) < 40:
        before = len(received)
        engine.poll(0.0)
        polls.append(len(received) - before)
    assert max(polls) <= 16
    assert len(polls) < 10
    engine.close()
    for _, theirs in pairs:
        theirs.close()


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_answers_to_a_client_that_is_gone_are_not_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []
    write_raw = Http2Protocol._write_raw

    def noted(self: Http2Protocol, raw: bytes) -> None:
        tried.append(raw)
        write_raw(self, raw)

    ours, theirs = socket.socketpair()
    methods: dict[str, Method] = {}
    engine = Server(methods, Limits())
    engine.open()
    engine._add(ours, None)
    (connection,) = engine._connections
    streams: list[Stream] = []

    def begin(grpc: GrpcConnection, stream: Stream, *_: Any) -> Call:
        streams.append(stream)
        return EchoCall(stream, stream.fields.request, b"", False)

    methods["/coprocess.Dispatcher/Dispatch"] = Method(begin=begin)
    theirs.sendall(START + b"".join(call(2 * number + 1, b"", METHOD_CALL) for number in range(10)))
    while len(streams) < 10:
        engine.poll(0.0)
    theirs.close()
    monkeypatch.setattr(Http2Protocol, "_write_raw", noted)
    for stream in streams:
        engine.answer(connection, connection.respond, stream, b"late", at_once=True)
    assert len(tried) == 1
    while engine._connections:
        engine.poll(0.0)
    engine.close()


def test_a_message_that_does_not_come_is_not_waited_for() -> None:
    with limited(request_timeout_s=0.1) as address, tcp_connection(address) as connection:
        connection.sendall(START + headers(1, METHOD_CALL))
        reset = next(frame for frame in read_frames(connection) if frame.kind == frames.RST_STREAM)
        assert (reset.stream_id, int.from_bytes(reset.payload, "big")) == (1, ErrorCode.CANCEL)


def test_a_deadline_that_passes_is_answered_at_once() -> None:
    """Also where nothing else is written then, and the handler goes on."""
    done = threading.Event()

    def wait(rpc: Rpc) -> None:
        done.wait()
        rpc.respond(b"late")

    with limited(wait) as address, tcp_connection(address) as connection:
        fields = [*METHOD_CALL, (b"grpc-timeout", b"50m")]
        ask = headers(1, fields) + frames.frame(frames.DATA, frames.END_STREAM, 1, message(b""))
        connection.sendall(START + ask)
        try:
            answer = next(frame for frame in read_frames(connection) if frame.kind == frames.HEADERS)
        finally:
            done.set()
        assert answer.flags & frames.END_STREAM
        assert dict(Decoder().decode(answer.payload, raw=True))[b"grpc-status"] == b"4"


def test_a_handler_may_take_longer_than_a_message() -> None:
    done = threading.Event()

    def wait(rpc: Rpc) -> None:
        done.wait(0.5)
        rpc.respond(b"done")

    with limited(wait, request_timeout_s=0.1) as address, Client(address) as client:
        assert client.raw(b"", timeout=PATIENCE_S) == b"done"


def test_a_silent_peer_is_asked_and_then_gone() -> None:
    with limited(keepalive_s=0.1, keepalive_timeout_s=0.1) as address, tcp_connection(address) as connection:
        connection.sendall(START)
        try:
            kinds = [frame.kind for frame in read_frames(connection)]
        except ConnectionResetError:
            kinds = [frames.PING]
        assert kinds[-1] == frames.PING


def test_a_peer_that_answers_is_kept() -> None:
    with (
        limited(keepalive_s=0.05, keepalive_timeout_s=PATIENCE_S) as address,
        tcp_connection(address) as connection,
    ):
        connection.sendall(START)
        pings = 0
        for frame in read_frames(connection):
            if frame.kind == frames.PING:
                pings += 1
                connection.sendall(frames.frame(frames.PING, frames.ACK, 0, frame.payload))
            if pings == 3:
                return
        pytest.fail("it was closed")


@pytest.mark.parametrize("limit", ["max_age_s", "idle_s"])
def test_connections_end_in_two_steps_when_they_are_old_or_idle(limit: str) -> None:
    with limited(**{limit: 0.1}) as address, tcp_connection(address) as connection:
        connection.sendall(START)
        assert goaways(connection) == [(frames.MAX_STREAM_ID, 0), (0, 0)]


def test_connections_that_came_together_do_not_go_together() -> None:
    """All gateways would come anew at one time, each time."""
    made = Server({}, Limits(max_age_s=100.0))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ages = {Http2Protocol(made, ours, None)._max_age_s for _ in range(20)}
        assert len(ages) == 20
        assert all(90.0 <= age <= 110.0 for age in ages)
        assert Http2Protocol(Server({}, Limits()), ours, None)._max_age_s == 0.0


def test_a_call_that_outlives_its_connection_is_told_why() -> None:
    """Once, that the service was shutting down."""
    done = threading.Event()
    with limited(lambda rpc: done.wait(PATIENCE_S), max_age_s=0.05, age_grace_s=0.05) as address:
        with Client(address) as client:
            code, text = fails(lambda: client.raw(b"", timeout=PATIENCE_S))
        done.set()
    assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "the connection is as old as one may be")


def test_calls_go_on_over_connections_that_end() -> None:
    """A real client connects anew; no call fails."""
    with limited(max_age_s=0.05) as address, Client(address) as client:
        for number in range(300):
            assert client.raw(b"%d" % number, timeout=PATIENCE_S) == b"%d" % number


def test_a_peer_that_reads_nothing_is_gone() -> None:
    large = bytes(4_000_000)
    with limited(lambda rpc: rpc.respond(large), unread_timeout_s=0.2) as address:
        connection = tcp_connection(address)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        window = frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 1 << 30})
        connection.sendall(frames.PREFACE + window + frames.window_update(0, 1 << 30))
        for number in range(1, 9, 2):
            ask = headers(number, METHOD_CALL) + frames.frame(frames.DATA, 1, number, message(b""))
            connection.sendall(ask)

        def is_gone() -> bool:
            try:
                connection.sendall(frames.frame(frames.PING, 0, 0, bytes(8)))
            except OSError:
                return True
            return False

        until(is_gone)
        connection.close()


def test_calls_of_a_peer_that_gives_no_window_are_given_up() -> None:
    """It answers each PING, and would keep them for ever."""
    with limited(unread_timeout_s=0.1) as address, tcp_connection(address) as connection:
        connection.sendall(frames.PREFACE + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0}))
        connection.sendall(headers(1, METHOD_CALL) + frames.frame(frames.DATA, 1, 1, message(b"hello")))
        reset = next(frame for frame in read_frames(connection) if frame.kind == frames.RST_STREAM)
        assert (reset.stream_id, int.from_bytes(reset.payload, "big")) == (1, ErrorCode.CANCEL)
        # The connection goes on.
        connection.sendall(frames.frame(frames.PING, 0, 0, bytes(8)))
        assert next(read_frames(connection)).kind == frames.PING


def test_who_lets_out_many_small_frames_gives_way_to_others() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        methods: dict[str, Method] = {}
        engine = Server(methods, Limits())
        engine.open()
        connection = Http2Protocol(engine, ours, None)
        streams: list[Stream] = []

        def begin(grpc: GrpcConnection, stream: Stream, *_: Any) -> Call:
            streams.append(stream)
            return EchoCall(stream, stream.fields.request, b"", False)

        methods["/coprocess.Dispatcher/Dispatch"] = Method(begin=begin)
        engine._poller.add(ours, selectors.EVENT_READ, connection.ready)
        theirs.sendall(frames.PREFACE + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0}))
        theirs.sendall(b"".join(call(2 * number + 1, b"", METHOD_CALL) for number in range(1000)))
        while len(streams) < 1000:
            engine.poll(0.0)
        for stream in streams:
            connection.respond(stream, b"ten bytes!")
        theirs.sendall(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 15}))
        turns = 0
        while connection.grpc.http.streams:
            engine.poll(engine.prepare(wait=False))
            turns += 1
        assert turns > 3
        connection.write()
        connection.abort()
        engine.close()
        answered = [frame for frame in read_frames(theirs) if frame.kind == frames.DATA]
        assert [frame.payload for frame in answered] == [message(b"ten bytes!")] * 1000


def test_an_answer_that_waits_for_a_window_on_a_young_connection_is_kept() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        engine = Server({}, Limits(unread_timeout_s=60))
        engine.open()
        connection = Http2Protocol(engine, ours, None)
        no_window = frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0})
        # Of no method: answered as HTTP is, with content.
        connection.receive(frames.PREFACE + no_window + headers(1, [*CALL[:3]], ends=True))
        now_s = time.monotonic()
        for after_s in (1, 2, 59):
            connection.look(now_s + after_s)
        kept = list(connection.grpc.http.streams)
        connection.look(now_s + 120)
        assert (kept, list(connection.grpc.http.streams)) == ([1], [])
        connection.abort()
        engine.close()


def test_messages_of_calls_that_are_given_up_are_not_kept_until_a_thread_is_free() -> None:
    """What a connection holds is bounded, and these were counted no more."""
    began, release, size = threading.Event(), threading.Event(), 1_000_000

    def wait(rpc: Rpc) -> None:
        began.set()
        release.wait(PATIENCE_S)
        rpc.respond(b"")

    engine = Http2Engine(engine_options(min_threads=1, max_threads=1))
    address = engine.listen("127.0.0.1:0")
    engine.start(methods(wait))
    raw = message(bytes(size))
    pieces = [raw[at : at + 16_384] for at in range(0, len(raw), 16_384)]
    try:
        with tcp_connection(address) as connection:
            connection.sendall(START + call(1, b"", METHOD_CALL))
            assert began.wait(PATIENCE_S)
            for number in range(3, 101, 2):
                connection.sendall(headers(number, METHOD_CALL))
                for piece in pieces:
                    ends = frames.END_STREAM if piece is pieces[-1] else 0
                    connection.sendall(frames.frame(frames.DATA, ends, number, piece))
                connection.sendall(frames.rst_stream(number, ErrorCode.CANCEL))
            connection.sendall(frames.frame(frames.PING, 0, 0, bytes(8)))
            next(frame for frame in read_frames(connection) if frame.kind == frames.PING)
            # All have come.
            assert len([task for task in engine.tasks if isinstance(task, Http2Rpc)]) < 20
    finally:
        release.set()
        engine.stop()


def test_what_compressed_messages_unpack_to_counts_in_what_a_connection_holds() -> None:
    """Each call was bounded, and all together were not: 60 of 60 KiB took 3 GiB."""
    release = threading.Event()
    entered: list[Rpc] = []

    def wait(rpc: Rpc) -> None:
        entered.append(rpc)
        release.wait(PATIENCE_S)
        rpc.respond(b"")

    size, calls = 1_000_000, 10
    packed = message(gzip.compress(bytes(size)), compressed=True)
    fields = [*METHOD_CALL, (b"grpc-encoding", b"gzip")]
    engine = Http2Engine(
        engine_options(max_message_bytes=size, connection_limits=Limits(max_held_bytes=3 * size))
    )
    address = engine.listen("127.0.0.1:0")
    engine.start(methods(wait))
    try:
        with tcp_connection(address) as connection:
            connection.sendall(START)
            for number in range(calls):
                stream_id = 2 * number + 1
                connection.sendall(headers(stream_id, fields) + data(stream_id, packed, ends=True))
            until(lambda: len(entered) + engine.refused_calls == calls)
            assert 1 <= len(entered) <= 2
            release.set()
    finally:
        release.set()
        engine.stop()


def test_what_all_connections_hold_together_is_bounded() -> None:
    """Each was, at 128 MiB: forty of them took 4.6 GiB in 20 s, and all that there was in the end."""

    def part_of_message(stream_id: int, size: int) -> bytes:
        pieces = message(bytes(400_000))[:size]
        sent = [data(stream_id, pieces[at : at + 16_384]) for at in range(0, size, 16_384)]
        return headers(stream_id, CALL) + b"".join(sent)

    methods = {"/test.Echo/Unary": Method(begin=lambda grpc, stream, *others: EchoCall(stream, *others))}
    engine = Server(methods, Limits(max_held_bytes=1_000_000, max_bytes_together=1_000_000))
    engine.open()
    pairs = [socket.socketpair() for _ in range(6)]
    *holding, other = [Http2Protocol(engine, ours, None) for ours, _ in pairs[:-1]]
    engine._connections |= {*holding, other}
    for connection in (*holding, other):
        connection.receive(START)
    for connection in holding:
        connection.receive(part_of_message(1, 300_000))
    engine._look([])
    for connection in holding:
        connection.receive(data(1, b"more"))
        assert connection.grpc.kept_bytes == 0
    # Who holds less than its part is not refused; nor is it allowed more because it is new.
    other.receive(part_of_message(1, 200_000))
    assert other.grpc.kept_bytes == 200_000
    late = Http2Protocol(engine, pairs[-1][0], None)
    late.receive(START + part_of_message(1, 300_000))
    assert late.grpc.kept_bytes == 0
    engine._look([])
    holding[0].receive(part_of_message(3, 300_000))
    assert holding[0].grpc.kept_bytes == 300_000
    assert engine.service.refused_calls == 5
    for connection in (*holding, other, late):
        connection.abort()
    engine.close()
    for _, theirs in pairs:
        theirs.close()


def test_calls_of_a_connection_that_failed_end_with_it() -> None:
    """Once, they went on while its last bytes waited to be read, up to 10 s: nobody could be answered."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        methods = {"/test.Echo/Unary": Method(begin=lambda grpc, stream, *others: EchoCall(stream, *others))}
        engine = Server(methods, Limits())
        engine.open()
        engine._poller.add(ours, selectors.EVENT_READ, lambda events: None)
        connection = Http2Protocol(engine, ours, None)
        connection.receive(START + call(1))
        with suppress(BlockingIOError):
            while ours.send(bytes(65_536)):
                pass  # It reads nothing.
        echo = connection.grpc.http.streams[1].call
        connection.receive(frames.frame(frames.PING, 0, 1, bytes(8)))
        assert not connection.is_gone
        assert echo.is_cancelled
        connection.abort()
        engine.close()


def test_the_first_call_of_a_connection_is_not_lost_as_it_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, the connection was reset where its preface had not been read."""
    # By whoever polls, once the call is read.
    monkeypatch.setattr(server, "_LAST_ID_S", PATIENCE_S)
    monkeypatch.setattr(protocol, "_END_PING_S", 0.0)

    def answer(grpc: GrpcConnection, stream: Stream, request: Request, payload: bytes, packed: bool) -> Call:
        grpc.respond(stream, payload)
        return EchoCall(stream, request, payload, packed)

    engine = Server({"/test.Echo/Unary": Method(begin=answer)}, Limits())
    bound = socket.create_server(("127.0.0.1", 0))
    engine.listen(bound)
    with socket.create_connection(bound.getsockname(), PATIENCE_S) as connection:

        def is_accepted() -> bool:
            engine.poll(0.0)
            return len(engine._connections) == 1

        until(is_accepted)
        connection.sendall(START + call(1))
        drains = threading.Thread(target=engine.drain, args=(PATIENCE_S,), daemon=True)
        drains.start()

        def is_over() -> bool:
            with engine.lock:
                engine.prepare(wait=False)
            engine.poll(0.0)
            return not engine._connections and not drains.is_alive()

        until(is_over)
        found = list(read_frames(connection))
    assert [frame.payload for frame in found if frame.kind == frames.DATA] == [message(b"hello")]
    assert [frame.payload[:4] for frame in found if frame.kind == frames.GOAWAY][-1] == bytes((0, 0, 0, 1))
    engine.close()


def test_a_ping_that_nobody_sent_is_acknowledged_for_nothing() -> None:
    with limited() as address, tcp_connection(address) as connection:
        connection.sendall(START + frames.frame(frames.PING, frames.ACK, 0, b"the end?"))
        connection.sendall(call(1, b"hello", METHOD_CALL))
        found = []
        for frame in read_frames(connection):
            found.append(frame.kind)
            if frame.kind == frames.DATA:
                break
        assert frames.GOAWAY not in found


def test_a_connection_that_comes_as_it_drains_is_no_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = Server({}, Limits())
    bound = socket.create_server(("127.0.0.1", 0))
    engine.listen(bound)
    engine.drain(1.0)
    engine._accept(bound, None)  # It was on its way.
    assert "cannot be accepted" not in str(capsys.readouterr())
    engine.close()


def test_new_connections_come_one_by_one() -> None:
    """Who connected again and again, with 20 calls each time, made all others wait for 300 ms."""
    engine = Server({}, Limits())
    bound = socket.create_server(("127.0.0.1", 0))
    engine.listen(bound)
    clients = [socket.create_connection(bound.getsockname()) for _ in range(10)]
    engine._accept(bound, None)
    assert len(engine._connections) == 1
    engine.close()
    bound.close()
    for client in clients:
        client.close()


def test_an_inherited_socket() -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    engine = Http2Engine(engine_options())
    engine.listen_on(bound)
    engine.start(methods(lambda rpc: rpc.respond(b"here")))
    try:
        with Client(f"127.0.0.1:{bound.getsockname()[1]}") as client:
            assert client.raw(b"", timeout=PATIENCE_S) == b"here"
    finally:
        engine.stop()


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    engine = Http2Engine(engine_options())
    address = engine.listen("[::1]:0")
    engine.start(methods(lambda rpc: rpc.respond(b"here")))
    try:
        with Client(address) as client:
            assert client.raw(b"", timeout=PATIENCE_S) == b"here"
    finally:
        engine.stop()


def test_a_call_that_is_over_before_its_turn_is_not_handled() -> None:
    handled: list[bytes] = []

    def handle(rpc: Rpc) -> None:
        handled.append(rpc.payload)
        rpc.respond(b"")

    engine = Http2Engine(engine_options())
    address = engine.listen("127.0.0.1:0")
    with tcp_connection(address) as connection:
        # In one read, before any call is run.
        reset = frames.rst_stream(1, ErrorCode.CANCEL)
        connection.sendall(START + call(1, b"gone", METHOD_CALL) + reset + call(3, b"there", METHOD_CALL))
        engine.start(methods(handle))
        try:
            until(lambda: bool(handled))
        finally:
            engine.stop()
    assert handled == [b"there"]


def test_who_asks_late_whether_a_call_is_over_is_told_at_once() -> None:
    told, is_reset, has_begun = threading.Event(), threading.Event(), threading.Event()

    def handle(rpc: Rpc) -> None:
        if rpc.payload == b"first":
            has_begun.set()
            assert is_reset.wait(PATIENCE_S)
            rpc.on_cancel(told.set)
            rpc.respond(b"")
        else:
            rpc.respond(b"")
            is_reset.set()  # One connection keeps the order.

    with limited(handle) as address, tcp_connection(address) as connection:
        connection.sendall(START + call(1, b"first", METHOD_CALL))
        assert has_begun.wait(PATIENCE_S)
        connection.sendall(frames.rst_stream(1, ErrorCode.CANCEL) + call(3, b"second", METHOD_CALL))
        assert told.wait(PATIENCE_S)


def test_what_all_hold_is_told_once_all_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked some at a time; of a part of them, it would always seem to be little."""
    monkeypatch.setattr(server, "_LOOKED_AT_ONCE", 1)
    made = Server({}, Limits(max_bytes_together=1_000_000))
    made.open()
    pairs = [socket.socketpair() for _ in range(2)]
    try:
        for ours, _ in pairs:
            made._add(ours, None)
        left = made.connections()
        for each in left:
            each.grpc.http.held_bytes = 600_000
        made._look(left)
        assert (len(left), made.share.each_bytes) == (1, 1_000_000)
        made._look(left)
        assert (len(left), made.share.each_bytes) == (0, 500_000)
    finally:
        made.close()
        for _, theirs in pairs:
            theirs.close()


def test_answers_without_content_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No window holds them back, and each call that is answered allows more frames."""
    monkeypatch.setattr(protocol, "_MAX_BUFFER_BYTES", 10_000)
    unknown = [*CALL[:2], (b":path", b"/no/such"), *CALL[3:]]
    with limited() as address, tcp_connection(address) as connection:
        connection.sendall(START)
        with pytest.raises(OSError):  # noqa: PT011, PT012 - it is closed, in whatever way
            for batch in range(400):
                first = 2000 * batch + 1
                connection.sendall(
                    b"".join(headers(each, unknown, ends=True) for each in range(first, first + 2000, 2))
                )
            pytest.fail("all of them were kept")
