"""Frames between front and worker: whole, in order, in batches; and what a worker tells of its calls."""

from __future__ import annotations

import queue
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coprocess.errors import Status
from coprocess.transport import pipe
from coprocess.transport.engine import Methods, Rpc
from coprocess.transport.frame_link import HEAD, Frame, FrameLink, polling_server
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.server import Server
from coprocess.transport.pipe import BEAT, BEAT_BODY, CANCEL, OK, PipeEngine
from tests.server import PATIENCE_S, engine_options, until


class Side:
    """One end of a link, with what has come by it."""

    def __init__(self, connected: socket.socket) -> None:
        self.came: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.is_over = threading.Event()
        self.server, self._stop = polling_server("test-link")
        self.link = FrameLink(self.server, connected, self._receive, self.is_over.set)

    def _receive(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.came.put(frame)

    def frame(self) -> Frame:
        return self.came.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self.link.close()
        self._stop()


@contextmanager
def side(connected: socket.socket) -> Iterator[Side]:
    made = Side(connected)
    try:
        yield made
    finally:
        made.close()


class BusyWorker:
    """A worker with one thread, where a call runs until `release` is set, and the front's end of its link."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._began = threading.Event()
        self.release = threading.Event()
        #: The messages of all calls that ran, that one's first.
        self.ran: list[bytes] = []
        self.front = Side(ours)
        self.engine = PipeEngine(theirs, ["/test/Call"], engine_options(min_threads=1, max_threads=1))

    def _handle(self, rpc: Rpc) -> None:
        self.ran.append(rpc.payload)
        self._began.set()
        self.release.wait(PATIENCE_S)
        rpc.respond(rpc.payload)

    def __enter__(self) -> BusyWorker:
        self.engine.start(Methods(unary={"/test/Call": self._handle}))
        assert self.front.link.send(1, 0, b"runs")
        assert self._began.wait(PATIENCE_S)
        return self

    def __exit__(self, *exception: object) -> None:
        self.release.set()
        self.engine.stop()
        self.front.close()


def test_frames_come_out_as_they_went_in_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    frames = [(number, number % 3, bytes([number % 256]) * (number * 977)) for number in range(1, 200)]
    frames.append((7, CANCEL, b""))
    with side(ours) as sender, side(theirs) as receiver:
        for call_id, kind, body in frames:
            if call_id % 2:
                assert sender.link.send(call_id, kind, body)
                continue
            # In parts, as metadata and deadline are.
            with sender.server.lock:
                assert sender.link.put(call_id, kind, body[5:], body[:5])
            sender.server.wake()
        assert [receiver.frame() for _ in frames] == frames
        sender.link.end()
        assert receiver.is_over.wait(PATIENCE_S)
        assert not receiver.link.send(1, 0, b"nobody reads it")


def test_frames_that_come_byte_by_byte_are_whole() -> None:
    ours, theirs = socket.socketpair()
    with ours, side(theirs) as receiver:
        for byte in HEAD.pack(3, 9, 1) + b"abc" + HEAD.pack(0, 10, 2):
            ours.sendall(bytes([byte]))
        assert [receiver.frame(), receiver.frame()] == [(9, 1, b"abc"), (10, 2, b"")]


def test_what_is_sent_before_the_next_poll_goes_by_one_write_and_one_read_gives_it_all() -> None:
    ours, theirs = socket.socketpair()
    server = Server({}, Limits())
    server.open()
    came: list[list[Frame]] = []
    link = FrameLink(server, ours, came.append, lambda: None)
    theirs.setblocking(False)
    server.polling_thread = threading.get_ident()
    try:
        for number in range(3):
            assert link.send(number, 0, b"call")
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        with server.lock:
            server.prepare(wait=False)
        data = theirs.recv(65536)
        assert data == b"".join(HEAD.pack(4, number, 0) + b"call" for number in range(3))
        assert link.send(3, 0, b"alone", at_once=True)
        assert theirs.recv(65536) == HEAD.pack(5, 3, 0) + b"alone"
        theirs.sendall(data)
        server.poll(PATIENCE_S)
        assert came == [[(number, 0, b"call") for number in range(3)]]
    finally:
        link.close()
        theirs.close()
        server.close()


def test_frames_that_nobody_can_take_end_their_link_and_no_polling() -> None:
    """Whoever has calls on it is told then: else they would wait for ever."""
    ours, theirs = socket.socketpair()
    server, stop = polling_server("test-link")
    is_over = threading.Event()

    def received(frames: list[Frame]) -> None:
        raise RuntimeError("a fault of ours")

    link = FrameLink(server, ours, received, is_over.set)
    try:
        theirs.sendall(HEAD.pack(0, 1, 0))
        assert is_over.wait(PATIENCE_S)
        assert not link.send(1, 0, b"")
        is_polled = threading.Event()
        server.call_back(is_polled.set)
        assert is_polled.wait(PATIENCE_S)
    finally:
        link.close()
        theirs.close()
        stop()


def test_a_call_that_is_given_up_while_it_waits_for_a_thread_is_not_run() -> None:
    """Once, it was run for nobody, and those behind it waited."""
    with BusyWorker() as busy:
        worker, front = busy.engine, busy.front
        assert front.link.send(2, 0, b"is given up")
        assert front.link.send(3, 0, b"waits")
        assert front.link.send(2, CANCEL, b"")
        until(lambda: 2 in worker.cancels.over)
        busy.release.set()
        # The front keeps a call until it is answered.
        answers = {call_id: (kind, body) for call_id, kind, body in (front.frame() for _ in range(3))}
        assert answers == {
            1: (OK, b"runs"),
            2: (Status.CANCELLED, b"the client gave up"),
            3: (OK, b"waits"),
        }
        assert busy.ran == [b"runs", b"waits"]


def test_calls_that_are_given_up_are_not_kept_until_a_thread_is_free() -> None:
    """All threads may be busy for long, and each call may have a large message."""
    with BusyWorker() as busy:
        front = busy.front
        assert front.link.send(2, 0, b"waits")
        for number in range(3, 35):
            assert front.link.send(number, 0, b"is given up")
            assert front.link.send(number, CANCEL, b"")
        answers = [front.frame() for _ in range(32)]
        assert {(kind, body) for _, kind, body in answers} == {(Status.CANCELLED, b"the client gave up")}
        assert {call_id for call_id, _, _ in answers} == set(range(3, 35))


class Broken:
    """What has something to write, and cannot."""

    def __init__(self) -> None:
        self.is_dirty = False
        self.calls: list[str] = []

    def write(self) -> None:
        self.is_dirty = False
        self.calls.append("write")
        raise RuntimeError("a fault of ours")

    def close_if_done(self) -> None:
        self.calls.append("close_if_done")

    def abort(self) -> None:
        self.calls.append("abort")
        raise RuntimeError("another fault of ours")


def test_who_cannot_write_ends_alone_and_the_others_are_written() -> None:
    """Once, those behind it were written never more: they were taken for some that are to be."""
    ours, theirs = socket.socketpair()
    server = Server({}, Limits())
    server.open()
    link = FrameLink(server, ours, lambda frames: None, lambda: None)
    broken = Broken()
    try:
        with server.lock:
            server.write_later(broken)
            assert link.put(1, 0, b"whole")
            server.flush()
        theirs.settimeout(PATIENCE_S)
        assert theirs.recv(100) == HEAD.pack(5, 1, 0) + b"whole"
        assert broken.calls == ["write", "abort"]
    finally:
        link.close()
        theirs.close()
        server.close()


def test_a_link_that_cannot_write_ends_and_whoever_has_calls_on_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise MemoryError

    ours, theirs = socket.socketpair()
    with side(theirs), side(ours) as broken:
        monkeypatch.setattr(broken.link, "_send_unsent", fail)
        broken.link.send(1, 0, b"x")
        assert broken.is_over.wait(PATIENCE_S)
        assert not broken.link.send(2, 0, b"nobody reads it")


def test_room_that_is_told_with_a_link_that_was_closed_meanwhile_opens_it_for_no_frame() -> None:
    """The poll ended with an error, and what was sent next was lost without a word."""
    ours, theirs = socket.socketpair()
    server = Server({}, Limits())
    server.open()
    link = FrameLink(server, ours, lambda frames: None, lambda: None)
    with theirs:
        while not link._is_full:
            assert link.send(1, 0, bytes(65536))
        link.close()
        with server.lock:
            link.ready(selectors.EVENT_WRITE)  # As a poll found it just before.
        assert not link.send(2, 0, b"lost", keep=True)
    server.close()


def test_frames_of_those_that_come_later_are_sent_after_others_and_of_each_line_in_turn() -> None:
    """Eight connections that sent all they could held up all others behind the front for 350 ms."""
    ours, theirs = socket.socketpair()
    server = Server({}, Limits())
    server.open()
    link = FrameLink(server, ours, lambda frames: None, lambda: None)

    def is_full() -> bool:
        return link._is_full

    while not is_full():
        assert link.send(0, 0, bytes(65536))
    with server.lock:
        for number in (1, 2, 3, 4, 6):
            assert link.put_later(7, number, 0, b"many", b"")
        assert link.put_later(8, 7, 0, b"one", b"of ")
        assert link.put(5, 0, b"at once")
    server.polling_thread = threading.get_ident()
    try:
        with side(theirs) as receiver:
            while receiver.came.qsize() < 7 or is_full():
                with server.lock:
                    timeout_s = min(0.01, server.prepare(wait=True))
                server.poll(timeout_s)
            frames = [receiver.frame() for _ in range(receiver.came.qsize())]
        assert [(call_id, body) for call_id, _, body in frames if call_id] == [
            (5, b"at once"),
            # A few of each line in a row.
            *((number, b"many") for number in (1, 2, 3, 4)),
            (7, b"of one"),
            (6, b"many"),
        ]
    finally:
        link.close()
        server.close()


def test_calls_that_come_later_wait_behind_others_and_each_line_has_its_turn() -> None:
    def later(front: Side, line: int, body: bytes, call_id: int) -> None:
        kind, before = pipe.pack_call(0, 5.0, [("name", "value")], line)
        assert front.link.send(call_id, kind, before + body)

    with BusyWorker() as busy:
        worker, front = busy.engine, busy.front
        for number in (1, 2, 3):
            later(front, 7, b"of many, %d" % number, 10 + number)
        later(front, 255, b"of one", 20)
        assert front.link.send(2, 0, b"at once")
        until(lambda: len(worker._tasks) == 1)
        busy.release.set()
        answers = [front.frame() for _ in range(6)]
        assert {kind for _, kind, _ in answers} == {OK}
        assert busy.ran == [
            b"runs",
            b"at once",
            b"of many, 1",
            b"of one",
            b"of many, 2",
            b"of many, 3",
        ]


def test_a_worker_tells_that_its_calls_find_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads them all the same: else the front would see it by what is not read."""
    monkeypatch.setattr(pipe, "BEAT_S", 0.01)
    release = threading.Event()
    ours, theirs = socket.socketpair()

    def handler(rpc: Rpc) -> None:
        release.wait(PATIENCE_S)
        rpc.respond(rpc.payload)

    worker = PipeEngine(theirs, ["/test/Call"], engine_options(min_threads=1, max_threads=1))
    with side(ours) as front:

        def waited_s() -> float:
            call_id, kind, body = front.frame()
            return float(BEAT_BODY.unpack(body)[1]) if (call_id, kind) == (0, BEAT) else 0.0

        worker.start(Methods(unary={"/test/Call": handler}))
        try:
            worker.announce_ready(True)
            for number in (1, 2, 3):
                front.link.send(number, 0, b"call %d" % number)
            until(lambda: waited_s() > 0.0)
            release.set()
            answers: list[Frame] = []
            while len(answers) < 3:
                frame = front.frame()
                answers += [frame] if frame[0] else []
            assert answers == [(number, 0, b"call %d" % number) for number in (1, 2, 3)]
        finally:
            release.set()
            worker.stop()
