"""Worker processes that end, hang, or cannot be started: small programs that stand in for the real one."""

from __future__ import annotations

import itertools
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coprocess.errors import Status
from coprocess.process import front as front_module
from coprocess.process import restarts, worker_process
from coprocess.process.front import Front
from coprocess.process.restarts import Restarts
from coprocess.process.worker_process import WorkerProcess
from coprocess.transport.engine import Metadata, Methods, Rpc
from coprocess.transport.frame_link import polling_server
from coprocess.transport.http2.grpc_connection import GrpcConnection
from coprocess.transport.http2_engine import Http2Engine
from coprocess.transport.pipe import READY, READY_BODY
from tests.server import PATIENCE_S, Client, engine_options
from tests.test_front import eventually

METHOD = "/test/Call"

WORKER = """
import os, socket, struct, sys, time

here = sys.argv[1]
def is_told(word):
    return os.path.exists(os.path.join(here, word))

front = socket.socket(fileno=int(sys.argv[sys.argv.index("--worker-fd") + 1]))
number = sys.argv[sys.argv.index("--worker-number") + 1]
head = struct.Struct("<IQB")
if is_told("hang at start"):
    time.sleep(60)
if is_told("end at start " + number):
    sys.exit(7)
if is_told("be killed at start " + number):
    if is_told("be killed once"):
        os.unlink(os.path.join(here, "be killed at start " + number))
    os.kill(os.getpid(), 9)
front.sendall(head.pack(8, 0, 254) + struct.pack("<II", 1, 0))
front.settimeout(0.1)
while True:
    if not is_told("be silent"):
        waits_s = 1000.0 if is_told("begin nothing") else 0.0
        front.sendall(head.pack(16, 0, 253) + struct.pack("<dd", 0.5, waits_s))
    if is_told("end " + number):
        sys.exit(7)
    if is_told("close " + number):
        front.close()
        time.sleep(60)
    if is_told("read nothing"):
        time.sleep(0.1)
        continue
    try:
        frame = front.recv(65536)
    except TimeoutError:
        continue
    if not frame:
        sys.exit(0)
    _, call_id, _ = head.unpack_from(frame)
    front.sendall(head.pack(1, call_id, 0) + number.encode())
"""


class Call(Rpc):
    """Tells how it ended."""

    def __init__(self, payload: bytes = b"") -> None:
        self.method = METHOD
        self.payload = payload
        self._end: queue.SimpleQueue[tuple[Status | None, str]] = queue.SimpleQueue()

    def respond(self, reply: bytes) -> None:
        self._end.put((None, reply.decode()))

    def fail(self, status: Status, message: str) -> None:
        self._end.put((status, message))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Nobody gives up."""

    def metadata(self) -> Metadata:
        return ()

    def time_allowed_s(self) -> float | None:
        return None

    def end(self) -> tuple[Status | None, str]:
        return self._end.get(timeout=PATIENCE_S)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    folder = tmp_path / "told"
    folder.mkdir()
    return folder


@contextmanager
def running(told: Path, *, silence_s: float = 20.0, engine: Http2Engine | None = None) -> Iterator[Front]:
    front = Front([told / "0.sock", told / "1.sock"], [METHOD], silence_s=silence_s)
    try:
        assert front.start(lambda: False, None if engine is None else engine.poller)
        yield front
    finally:
        front.stop(5.0)


@pytest.fixture(autouse=True)
def own_command(monkeypatch: pytest.MonkeyPatch, told: Path, tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    monkeypatch.setattr(worker_process, "_own_command", lambda: [sys.executable, str(program), str(told)])
    monkeypatch.setattr(restarts, "_FIRST_DELAY_S", 0.01)


def call(front: Front, payload: bytes = b"") -> Call:
    rpc = Call(payload)
    front.handle(rpc)
    return rpc


def test_ends_in_a_row_delay_the_next_start_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ends = Restarts()

    def delay_s(served_s: float = 0.0, *, answered: bool = False) -> float:
        return ends.delay_after_s(served_s, answered=answered)

    assert [delay_s() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert ends.in_a_row == 7
    # Its clients are better off with one that answers some of them.
    assert delay_s(answered=True) == 2.0
    # One that served for long is none of them.
    assert delay_s(3600.0) == 0.5
    assert ends.in_a_row == 1
    # A power of two of the row's length would be no number any more.
    assert max(delay_s() for _ in range(5000)) == 10.0


def test_workers_that_all_keep_ending_end_the_service_with_the_reason(told: Path) -> None:
    with running(told) as front:
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        front.on_failure = lambda: ended.put(front.failure)
        for number in "01":
            (told / f"end at start {number}").touch()
        for number in "01":
            (told / f"end {number}").touch()
        assert "5 times in a row" in ended.get(timeout=PATIENCE_S)
        assert "status 7" in front.failure
        assert call(front).end() == (Status.UNAVAILABLE, "no worker process can take the call")
        assert front.refused_calls == 1


def test_a_worker_that_keeps_ending_ends_no_service_that_another_serves(told: Path) -> None:
    with running(told) as front:
        (told / "end at start 0").touch()
        (told / "end 0").touch()
        eventually(lambda: front.restarts >= 6)
        assert front.failure == ""
        assert {call(front).end() for _ in range(5)} == {(None, "1")}
        # It is tried again, for as long as it takes.
        (told / "end 0").unlink()
        (told / "end at start 0").unlink()
        eventually(lambda: front.ready == [True, True])


def test_a_silent_worker_gets_calls_only_where_no_other_can(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(told) as front:
        monkeypatch.setattr(worker_process, "_SILENT_S", 0.0)
        (told / "be silent").touch()
        eventually(lambda: front.ready == [False, False])
        # It may just be busy.
        assert call(front).end()[0] is None
        (told / "be silent").unlink()
        eventually(lambda: any(front.ready))
        assert front.kills == 0


def test_a_worker_that_takes_no_calls_any_more_is_replaced(told: Path) -> None:
    (told / "read nothing").touch()
    with running(told, silence_s=1.5) as front:
        # More than their sockets take: each waits for nothing.
        calls = [call(front, b"x" * 2**20) for _ in range(20)]
        eventually(lambda: front.kills >= 2)
        assert {each.end()[0] for each in calls} == {Status.UNAVAILABLE}
        front._silence_s = PATIENCE_S
        (told / "read nothing").unlink()
        eventually(lambda: any(front.ready))
        assert call(front).end()[0] is None


def test_a_worker_that_begins_no_calls_any_more_is_replaced(told: Path) -> None:
    """It reads them, but all its threads hang."""
    with running(told, silence_s=20.0) as front:
        (told / "begin nothing").touch()
        eventually(lambda: front.kills >= 1)
        (told / "begin nothing").unlink()
        eventually(lambda: all(front.ready))
        assert call(front).end()[0] is None


def test_a_worker_that_closes_its_socket_and_lives_on_is_replaced(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_END_S", 0.2)
    with running(told) as front:
        (told / "close 0").touch()
        eventually(lambda: front.ready == [False, True])
        (told / "close 0").unlink()
        eventually(lambda: front.ready == [True, True])


def test_a_worker_that_hangs_at_its_start_is_killed(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(told) as front:
        monkeypatch.setattr(front_module, "_START_TIMEOUT_S", 1.0)
        (told / "hang at start").touch()
        (told / "end 0").touch()
        eventually(lambda: front.kills >= 1)
        monkeypatch.setattr(front_module, "_START_TIMEOUT_S", PATIENCE_S)
        (told / "end 0").unlink()
        (told / "hang at start").unlink()
        eventually(lambda: front.ready == [True, True])


def test_a_worker_that_cannot_be_started_is_tried_again(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(told) as front:
        known = worker_process._own_command
        monkeypatch.setattr(worker_process, "_own_command", lambda: [str(told / "no such program")])
        (told / "end 0").touch()
        eventually(lambda: front.ready == [False, True])
        (told / "end 0").unlink()
        eventually(lambda: front._restarts[0].in_a_row > 3)
        monkeypatch.setattr(worker_process, "_own_command", known)
        eventually(lambda: front.ready == [True, True])


def test_the_first_start_fails_where_a_worker_cannot_be_started(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_own_command", lambda: [str(told / "no such program")])
    front = Front([told / "0.sock"], [METHOD], silence_s=1.0)
    assert not front.start(lambda: False)
    front.stop(1.0)


def test_the_first_start_goes_on_where_a_worker_is_killed(told: Path) -> None:
    """Once, the service ended."""
    for name in ("be killed at start 0", "be killed at start 1", "be killed once"):
        (told / name).touch()
    with running(told) as front:
        eventually(lambda: front.ready == [True, True])
        assert front.restarts == 2
        assert call(front).end()[0] is None


def test_the_first_start_waits_for_no_worker_that_is_killed_again_and_again(told: Path) -> None:
    (told / "be killed at start 0").touch()
    with running(told) as front:
        assert call(front).end() == (None, "1")
        (told / "be killed at start 0").unlink()
        eventually(lambda: front.ready == [True, True])


def test_the_first_start_fails_where_every_worker_is_killed_again_and_again(told: Path) -> None:
    for number in "01":
        (told / f"be killed at start {number}").touch()
    front = Front([told / "0.sock", told / "1.sock"], [METHOD], silence_s=1.0)
    assert not front.start(lambda: False)
    assert "5 times in a row" in front.failure
    assert "status -9" in front.failure
    front.stop(1.0)


def test_what_a_worker_does_not_read_is_bounded(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coprocess.transport.frame_link.MAX_UNSENT_BYTES", 4 * 2**20)
    (told / "read nothing").touch()
    with running(told) as front:
        calls = [call(front, b"x" * 2**20) for _ in range(20)]
        assert front.refused_calls > 0
        front.stop(0.1)
        ends = [each.end() for each in calls]
        assert ends.count((Status.UNAVAILABLE, "no worker process can take the call")) == front.refused_calls
        assert {status for status, _ in ends} == {Status.UNAVAILABLE}


@pytest.mark.parametrize("is_relayed", [True, False])
def test_a_call_that_is_passed_on_where_it_is_read_ends_as_one_that_a_thread_passes_on(
    told: Path, is_relayed: bool
) -> None:
    engine = Http2Engine(engine_options())
    address = engine.listen("127.0.0.1:0")
    engine.start(Methods(unary={METHOD: lambda rpc: rpc.fail(Status.UNAVAILABLE, "not yet")}))
    try:
        with running(told, engine=engine) as front, grpc.insecure_channel(address) as channel:
            in_thread: list[str] = []

            def handle(rpc: Rpc) -> None:
                in_thread.append(rpc.method)
                front.handle(rpc)

            engine.use(Methods(unary={METHOD: handle}, relays=front.methods.relays if is_relayed else {}))
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

            def end(**options: Any) -> tuple[Any, Any]:
                # gRPC compresses no small one.
                call: Any = method.future(b"x" * 2000, **{"timeout": PATIENCE_S, **options})
                call.exception()
                return call.code(), call.details()

            assert {method(b"x", timeout=PATIENCE_S) for _ in range(4)} <= {b"0", b"1"}
            assert bool(in_thread) != is_relayed
            # What must be unpacked goes by a thread in any case.
            in_thread.clear()
            assert end(compression=grpc.Compression.Gzip)[0] is grpc.StatusCode.OK
            assert in_thread
            (told / "read nothing").touch()
            eventually(lambda: front.in_flight == 0)
            late = [end(timeout=0.5)[0] for _ in range(2)]
            assert set(late) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}
            waiting: list[Any] = [method.future(b"x", timeout=PATIENCE_S) for _ in range(4)]
            eventually(lambda: front.in_flight >= len(waiting))
            for number in "01":
                (told / f"end {number}").touch()
            for call in waiting:
                assert call.code() is grpc.StatusCode.UNAVAILABLE
                assert call.details() == "the worker process ended"
            for number in "01":
                (told / f"end {number}").unlink()
            (told / "read nothing").unlink()
            eventually(lambda: front.ready == [True, True])
            assert front.in_flight == 0
            assert end()[0] is grpc.StatusCode.OK
            assert front.drain(PATIENCE_S)
            assert end() == (grpc.StatusCode.UNAVAILABLE, "the service is shutting down")
    finally:
        engine.stop()


def test_a_fault_in_one_answer_ends_its_connection_alone(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, the worker whose answer it was was given up, with all of its calls, and that call had no end."""
    engine = Http2Engine(engine_options())
    address = engine.listen("127.0.0.1:0")
    engine.start(Methods(unary={METHOD: lambda rpc: rpc.fail(Status.UNAVAILABLE, "not yet")}))
    respond, failed = GrpcConnection.respond, list[Any]()

    def fails_once(connection: Any, *arguments: Any) -> None:
        if not failed:
            failed.append(connection)
            raise RuntimeError("a fault of ours")
        respond(connection, *arguments)

    try:
        with running(told, engine=engine) as front, grpc.insecure_channel(address) as channel:
            engine.use(Methods(unary={METHOD: front.handle}, relays=front.methods.relays))
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            before = [worker.process.pid for worker in front._workers]
            monkeypatch.setattr(GrpcConnection, "respond", fails_once)
            call: Any = method.future(b"x", timeout=PATIENCE_S)
            call.exception()
            assert failed
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            # By another: a busy client may not know yet that its connection is gone.
            with Client(address) as client:
                again: grpc.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(METHOD)
                assert again(b"x", timeout=PATIENCE_S) in (b"0", b"1")
            assert [worker.process.pid for worker in front._workers] == before
            assert front.in_flight == 0
    finally:
        engine.stop()


def test_a_fault_in_the_end_of_a_lost_call_keeps_no_other_from_its_own(told: Path) -> None:
    aborted: list[bool] = []
    stream: Any = SimpleNamespace(owner=SimpleNamespace(is_dirty=True, abort=lambda: aborted.append(True)))
    with running(told) as front:
        worker = front._workers[0]
        with worker._lock:
            worker._end(stream, Status.UNAVAILABLE, b"the worker process ended")
    assert aborted


def test_calls_of_one_read_go_to_a_quick_worker_together_and_else_to_the_one_with_the_fewest() -> None:
    front = Front([], [METHOD], silence_s=1.0)
    found: list[int] = []

    class Worker(SimpleNamespace):
        def put(self, call_id: int, kind: int, message: bytes, before: bytes) -> bool:
            self.link.is_dirty = True
            found.append(self.number)
            return True

    workers = [
        Worker(number=number, is_able=True, at_once=1, outstanding={}, link=SimpleNamespace(is_dirty=False))
        for number in range(2)
    ]
    inside: Any = front
    inside._workers = workers
    to_a_thread: Any = object()
    begin: Any = front.methods.relays[METHOD](lambda *call: to_a_thread)
    connection, request = (
        SimpleNamespace(owner=SimpleNamespace(comes_later=False)),
        SimpleNamespace(timeout_s=None),
    )

    def begun(count: int) -> list[Any]:
        """What has the calls of the next read."""
        for worker in workers:
            worker.link.is_dirty = False
        return [begin(connection, SimpleNamespace(), request, b"", False) for _ in range(count)]

    def chosen(count: int) -> list[int]:
        found.clear()
        begun(count)
        return found

    assert chosen(4) == [0, 1, 0, 1]
    workers[0].at_once = workers[1].at_once = 3
    assert chosen(8) == [0, 0, 0, 1, 1, 1, 0, 0]
    # The next read begins with the one that has fewer.
    assert chosen(1) == [1]
    workers[1].outstanding.clear()
    workers[1].is_able = False
    assert chosen(2) == [0, 0]
    workers[0].is_able = False
    assert begun(2) == [to_a_thread] * 2


@contextmanager
def one_worker(told: Path) -> Iterator[Any]:
    """A worker that no front looks after."""
    server, stop = polling_server("test")
    worker = WorkerProcess(0, told / "0.sock", lambda: None, server=server)
    try:
        assert worker.settled.wait(PATIENCE_S)
        yield worker
    finally:
        worker.process.kill()
        worker.clear_up()
        stop()


def heard_again(worker: Any) -> None:
    before = worker._frames_heard
    eventually(lambda: worker._frames_heard > before)


def test_a_worker_without_calls_is_no_worker_that_takes_none(told: Path) -> None:
    with one_worker(told) as worker:
        for _ in range(4):
            heard_again(worker)
            worker.look_after(6.0, start_s=60.0, silence_s=10.0)
        assert worker.killed == ""


def test_a_worker_whose_calls_wait_is_given_the_longest_time_of_its_hooks(told: Path) -> None:
    with one_worker(told) as worker:
        heard_again(worker)  # Its longest is 0.5 s.
        (told / "be silent").touch()
        for waits_s, is_killed in ((10.4, False), (10.6, True)):
            # Where it told once more meanwhile, it waits for nothing again.
            eventually(partial(_looks_killed, worker, waits_s, is_killed))


def _looks_killed(worker: Any, waits_s: float, is_killed: bool) -> bool:
    worker._waits_s = waits_s
    worker.look_after(0.0, start_s=60.0, silence_s=10.0)
    return bool(worker.killed) == is_killed


def test_a_silent_worker_is_not_waited_for_at_the_end(told: Path) -> None:
    with one_worker(told) as worker:
        (told / "be silent").touch()
        (told / "read nothing").touch()

        def is_silent() -> bool:
            worker.look_after(3.0, start_s=60.0, silence_s=1000.0)
            return not worker.ready

        eventually(is_silent)
        worker.end()
        assert worker.process.wait(PATIENCE_S) == -signal.SIGKILL


def test_a_worker_that_hangs_at_the_first_start_ends_it_and_is_not_started_again(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "_START_TIMEOUT_S", 0.1)
    (told / "hang at start").touch()
    front = Front([told / "0.sock"], [METHOD], silence_s=20.0)
    try:
        assert not front.start(lambda: False)
        assert front.restarts == 0
        assert front.start_failure == "worker 0 ended with status -9; its log tells why"
    finally:
        front.stop(5.0)


def test_time_in_which_the_front_slept_is_nobodys_silence(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: queue.SimpleQueue[float] = queue.SimpleQueue()
    monkeypatch.setattr(WorkerProcess, "look_after", lambda worker, passed_s, **limits: passed.put(passed_s))
    clock = SimpleNamespace(monotonic=itertools.count(step=100.0).__next__)
    with running(told):
        monkeypatch.setattr(front_module, "time", clock)
        assert max(passed.get(timeout=PATIENCE_S) for _ in range(6)) <= 1.0
        monkeypatch.setattr(front_module, "time", time)


def test_a_service_of_which_one_worker_runs_does_not_end_though_all_kept_ending_before(told: Path) -> None:
    with running(told) as front:
        inside: Any = front
        for restarts_of_one in inside._restarts:
            restarts_of_one.in_a_row = restarts.MANY
        inside._fail_if_none_runs(7)
        assert front.failure == ""


def test_a_worker_has_so_many_calls_and_no_more(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "MAX_OUTSTANDING", 2)
    (told / "read nothing").touch()
    with one_worker(told) as worker, worker._lock:
        stream: Any = object()
        assert [worker.take(stream, call_id, 0, b"", b"") for call_id in (1, 2, 3)] == [True, True, False]
        worker.outstanding.clear()


def test_where_all_are_silent_a_call_goes_to_the_one_with_the_fewest() -> None:
    front = Front([], [METHOD], silence_s=1.0)
    found: list[str] = []

    def silent(name: str, calls: int) -> Any:
        def send(*call: object) -> bool:
            found.append(name)
            return name != "gone"

        outstanding = dict.fromkeys(range(calls))
        return SimpleNamespace(is_able=False, ready=False, started=True, outstanding=outstanding, send=send)

    inside: Any = front
    inside._workers = [silent("most", 3), silent("gone", 0), silent("few", 1)]
    front.handle(Call())
    # One that is gone is passed over.
    assert found == ["gone", "few"]


def test_a_signal_to_a_worker_that_starts_reaches_it_when_it_has_started(told: Path) -> None:
    with one_worker(told) as worker:
        worker.started = False
        worker.signal(signal.SIGHUP)
        heard_again(worker)  # It lives.
        worker._take_notice(READY, READY_BODY.pack(1, 0))
        # It takes none.
        assert worker.process.wait(PATIENCE_S) == -signal.SIGHUP
