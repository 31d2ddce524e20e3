"""Handlers of the http2 engine that run where calls are read: a slow one holds up no other call."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from coprocess.api.moments import HookType
from coprocess.transport.alarm import Alarm, SleepingAlarm, make_alarm
from coprocess.transport.engine import Rpc
from coprocess.transport.engines import EngineChoice, is_compiled
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.loop_turn import LoopTurn
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.turns import Turns, _Turn
from coprocess.transport.workers import WorkerThreads
from tests.engines.hooks import bare, tcp_connection
from tests.http2.peer import START
from tests.objects import hook_table, make_object
from tests.server import PATIENCE_S, serving, until

HTTP2: EngineChoice = "http2"


def _nothing(rpc: Rpc) -> None: ...


def _may_block(rpc: Rpc) -> None:
    rpc.may_block()


def test_a_callback_that_exits_takes_no_thread_away() -> None:
    """Once, its thread ended, and was counted still: after some, nobody polled any more."""

    def leave() -> None:
        raise SystemExit

    engine: Any
    with bare(HTTP2, lambda rpc: rpc.respond(b"reply"), min_threads=1, max_threads=1) as (client, engine):
        for _ in range(5):
            engine.call_back(leave)
            assert client.raw(b"", timeout=PATIENCE_S) == b"reply"
        assert engine.thread_count == 1


@pytest.mark.parametrize("first", [_nothing, _may_block], ids=["watched", "told"])
@pytest.mark.parametrize("most", [1, 4])
def test_calls_are_answered_beside_those_that_block(first: Callable[[Rpc], None], most: int) -> None:
    """As many block as may, but one; only then does anybody wait."""
    release, blocked = threading.Event(), threading.Semaphore(0)
    callbacks = threading.Event()

    def handler(rpc: Rpc) -> None:
        first(rpc)
        if rpc.payload == b"block":
            rpc.on_cancel(callbacks.set)
            blocked.release()
            release.wait(PATIENCE_S)
        rpc.respond(rpc.payload)

    with bare(HTTP2, handler, min_threads=1, max_threads=most) as (client, engine):
        slow = [client.raw.future(b"block", timeout=PATIENCE_S) for _ in range(most - 1)]
        for _ in slow:
            assert blocked.acquire(timeout=PATIENCE_S)
        for number in range(200):
            assert client.raw(b"%d" % number, timeout=PATIENCE_S) == b"%d" % number
        # All threads for handlers are taken; one reads still, as a cancellation shows.
        last = client.raw.future(b"block", timeout=PATIENCE_S)
        assert blocked.acquire(timeout=PATIENCE_S)
        waiting = client.raw.future(b"waits", timeout=PATIENCE_S)
        last.cancel()
        assert callbacks.wait(PATIENCE_S)
        assert not waiting.done()
        assert engine.thread_count == most
        release.set()
        assert waiting.result() == b"waits"
        assert [call.result() for call in slow] == [b"block"] * (most - 1)


@pytest.mark.parametrize("alarm", [make_alarm, SleepingAlarm])
def test_a_hook_that_is_slow_now_and_then_holds_up_nobody(
    alarm: Callable[[float], Alarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coprocess.transport.http2.turns.make_alarm", alarm)
    release, has_begun = threading.Event(), threading.Event()
    numbers = itertools.count(1)  # On a busy machine several threads count.

    def handler() -> None:
        if next(numbers) == 100:
            has_begun.set()
            release.wait(PATIENCE_S)

    with serving(hook_table(HookType.Pre, handler), engine=HTTP2) as server:
        started = [server.client.future(make_object()) for _ in range(99)]
        for call in started:
            assert call.result(timeout=PATIENCE_S)
        slow = server.client.future(make_object())
        assert has_begun.wait(PATIENCE_S)
        for _ in range(100):
            assert server.client.dispatch(make_object())
        assert not slow.done()
        release.set()
        assert slow.result(timeout=PATIENCE_S)


def test_a_slow_hook_is_known_and_a_quick_one_again() -> None:
    release = threading.Event()

    def handler() -> None:
        release.wait(0.005)

    with serving(hook_table(HookType.Pre, handler), engine=HTTP2) as server:

        def is_slow() -> bool:
            server.client.dispatch(make_object())
            return server.service.gates.states[0].pace.apart > 0

        until(lambda: server.service.gates.states[0].pace.doubt > 0 if is_slow() else False)
        release.set()

        def is_quick() -> bool:
            server.client.dispatch(make_object())
            pace = server.service.gates.states[0].pace
            return pace.apart == pace.doubt == 0

        until(is_quick)


def test_answers_are_written_by_any_thread_while_handlers_run() -> None:
    """Of handlers that answer later, all at one time, beside some that answer in place."""

    def handler(rpc: Rpc) -> None:
        if rpc.payload[0] % 2:
            rpc.respond(rpc.payload)
        else:
            threading.Timer(0.001, rpc.respond, (rpc.payload,)).start()

    with bare(HTTP2, handler) as (client, _):
        payloads = [bytes([number % 256]) * 1000 for number in range(300)]
        calls = [client.raw.future(payload, timeout=PATIENCE_S) for payload in payloads]
        assert [call.result() for call in calls] == payloads


def test_an_answer_does_not_wait_for_who_has_the_lock() -> None:
    """Who has it may wait for the interpreter behind all that want to answer."""
    begun: list[Rpc] = []

    def handler(rpc: Rpc) -> None:
        rpc.may_block()
        begun.append(rpc)

    def answer() -> None:
        for rpc in begun:
            rpc.respond(rpc.payload)

    with bare(HTTP2, handler) as (client, engine):
        server = engine.poller
        assert server is not None
        calls = [client.raw.future(b"%d" % number, timeout=PATIENCE_S) for number in range(2)]
        until(lambda: len(begun) == len(calls) and server.polling_thread != 0)
        with server.lock:
            answers = threading.Thread(target=answer)
            answers.start()
            answers.join(PATIENCE_S)
            assert not answers.is_alive()
            assert not any(call.done() for call in calls)
        assert [call.result() for call in calls] == [b"0", b"1"]


@pytest.mark.parametrize("most", [1, 2, 8])
def test_threads_come_and_go_while_the_lock_is_held(most: int) -> None:
    over = threading.Event()

    def handler(rpc: Rpc) -> None:
        rpc.may_block()
        time.sleep(0.0005)
        rpc.respond(rpc.payload)

    with bare(HTTP2, handler, min_threads=1, max_threads=most) as (client, engine):
        assert engine.poller is not None
        lock = engine.poller.lock

        def hold() -> None:
            while not over.wait(0.0002):
                with lock:
                    time.sleep(0.0005)

        holding = threading.Thread(target=hold)
        holding.start()
        try:
            for _ in range(10):
                payloads = [b"%d" % number for number in range(30)]
                calls = [client.raw.future(payload, timeout=PATIENCE_S) for payload in payloads]
                assert [call.result() for call in calls] == payloads
        finally:
            over.set()
            holding.join()


def test_a_fault_while_it_polls_leaves_somebody_to_poll() -> None:
    def handler(rpc: Rpc) -> None:
        rpc.respond(rpc.payload)

    failed = threading.Event()

    def fail(nothing: object) -> None:
        failed.set()
        raise RuntimeError("a fault of ours")

    with bare(HTTP2, handler, min_threads=1, max_threads=2) as (client, engine):
        assert client.raw(b"before", timeout=PATIENCE_S) == b"before"
        server = engine.poller
        assert server is not None
        with server.lock:
            server.call_later(0.0, fail, None)
        server.wake()
        assert failed.wait(PATIENCE_S)
        assert client.raw(b"after", timeout=PATIENCE_S) == b"after"


def test_a_task_that_another_takes_meanwhile_is_waited_for_no_longer() -> None:
    """Who polls takes tasks without the lock: there may be none any more for who saw one."""

    class JustTaken(deque[Any]):
        def __bool__(self) -> bool:
            return True

    engine = Server({}, Limits())
    turns: Turns[Any] = Turns(engine, _nothing, None)
    turns.tasks = JustTaken()
    turns._turn = _Turn(0)  # Another polls.
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(turns.take()), daemon=True)
    thread.start()
    until(lambda: bool(turns._idle))
    turns._turn = None
    turns.stop(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert taken == [None]


def test_a_loop_that_is_blocked_as_it_is_given_the_turn_is_found_so() -> None:
    """Also where the watcher has looked just before: it sleeps until the next task."""

    class Blocked:
        thread_id = 1
        is_reading = False
        current = None
        has_tasks = True

        def __init__(self) -> None:
            self.on_end: list[Callable[[], None]] = []

        def call_soon(self, callback: Callable[..., object], *arguments: Any) -> bool:
            return True

    engine = Server({}, Limits())
    engine.open()
    turns: Turns[Any] = Turns(engine, _nothing, None)
    turns.start(WorkerThreads("test", turns.take, _nothing, minimum=1, maximum=1))
    loop: Any = Blocked()
    turns.runs_on(loop)
    turns._turn = turn = _Turn(0)
    turns._lend(turn)
    assert isinstance(turns._turn, LoopTurn)
    engine.callbacks.append(lambda: None)
    until(lambda: not isinstance(turns._turn, LoopTurn))
    turns.stop(PATIENCE_S)
    engine.close()


def test_a_connection_that_cannot_be_read_ends_and_the_others_go_on() -> None:
    class Broken(socket.socket):
        def recv(self, *arguments: Any) -> bytes:
            raise RuntimeError("a fault of ours")

    def handler(rpc: Rpc) -> None:
        rpc.respond(rpc.payload)

    with (
        bare(HTTP2, handler) as (client, engine),
        tcp_connection(client.address) as connection,
    ):
        inside: Any = engine.poller
        connection.sendall(START)
        connection.recv(1)
        with inside.lock:
            (broken,) = inside._connections
            broken._socket = Broken(fileno=broken._socket.detach())
        connection.sendall(b"x")
        with suppress(ConnectionResetError):
            while connection.recv(1024):
                pass
        assert client.raw(b"beside", timeout=PATIENCE_S) == b"beside"


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no fault from outside")
def test_a_connection_that_cannot_be_looked_after_ends_and_the_others_are_looked_after() -> None:
    server = Server({}, Limits())
    found: list[str] = []

    class Connection:
        def __init__(self, is_broken: bool) -> None:
            self.is_broken = is_broken

        def look(self, now_s: float) -> None:
            if self.is_broken:
                raise RuntimeError("a fault of ours")
            found.append("looked after")

        def abort(self) -> None:
            found.append("ended")

    inside: Any = server
    # An order is not promised: the broken ones come first, last, or both.
    inside._connections = {Connection(is_broken) for is_broken in (True, False, True)}
    next_s = server._timers.next_s()
    assert next_s is not None
    for _ in range(2):
        server._timers.run_due(next_s)
        next_s = max(timer.when_s for timer in server._timers._heap)
    assert sorted(found) == ["ended"] * 4 + ["looked after"] * 2


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no fault from outside")
def test_a_fault_as_the_watcher_looks_leaves_it_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, nobody polled any more while a handler took long, which had not said that it may."""
    release = threading.Event()

    def handler(rpc: Rpc) -> None:
        if rpc.payload == b"hangs":
            release.wait(PATIENCE_S)
        rpc.respond(rpc.payload)

    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("a fault of ours")

    with bare(HTTP2, handler, min_threads=2, max_threads=4) as (client, engine):
        server = engine.poller
        assert server is not None
        with monkeypatch.context() as patched:
            patched.setattr(server, "flush_held", fail)
            assert client.raw(b"quick", timeout=PATIENCE_S) == b"quick"
            assert failed.wait(PATIENCE_S)
        hangs = client.raw.future(b"hangs", timeout=PATIENCE_S)
        try:
            assert client.raw(b"beside", timeout=PATIENCE_S) == b"beside"
        finally:
            release.set()
        assert hangs.result() == b"hangs"
