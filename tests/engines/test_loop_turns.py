"""The loop of async handlers reads calls where all go to it. When it is blocked, a thread reads them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import grpc
import pytest

from coprocess import Event, Pre, trigger_event
from coprocess.loading.hooks import HookTable
from coprocess.runtime.service_options import ServiceOptions
from coprocess.runtime.spare_task import SpareTask
from coprocess.transport.engines import is_compiled
from coprocess.transport.http2.loop_turn import LoopTurn
from coprocess.transport.http2.turns import Turns
from coprocess.transport.http2_engine import Http2Engine
from tests.event_loops import KINDS, use_loops_of
from tests.objects import make_object, make_request, table_of
from tests.server import PATIENCE_S, Server, error_of, serving, until
from tests.service.hooks import stamped

SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")


@pytest.fixture(params=KINDS, autouse=True)
def each_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    use_loops_of(request.param, monkeypatch)


def turns(server: Server) -> Turns[Any]:
    assert isinstance(server.engine, Http2Engine)
    return server.engine._turns


def is_read_on_loop(server: Server) -> bool:
    return isinstance(turns(server)._turn, LoopTurn)


class Handlers:
    """What may happen on a loop that reads calls."""

    def __init__(self) -> None:
        self.blocked = threading.Event()
        self.release = threading.Event()
        self.forever = threading.Event()
        self.cancelled = threading.Event()
        self.events = threading.Semaphore(0)
        self.threads: list[int] = []

    def wait(self) -> None:
        self.blocked.set()
        self.release.wait(PATIENCE_S)

    def table(self) -> HookTable:
        def declare() -> None:
            @Pre
            async def quick(request: Any) -> None:
                request.headers["X-Stamp"] = str(threading.get_ident())

            @Pre
            async def blocks_at_once(request: Any) -> None:
                self.wait()

            @Pre
            async def blocks_later(request: Any) -> None:
                await asyncio.sleep(0.001)
                self.wait()

            @Pre
            async def own_context(request: Any) -> None:
                before = SEEN.get()
                task = asyncio.current_task()
                SEEN.set("this call")
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.sleep(0)
                assert asyncio.current_task() is task is not None
                request.headers["X-Stamp"] = f"{before}, {SEEN.get()}"

            @Pre
            async def times_out(request: Any) -> None:
                try:
                    async with asyncio.timeout(0):
                        await asyncio.sleep(PATIENCE_S)
                except TimeoutError:
                    request.headers["X-Stamp"] = "timed out"

            @Pre
            async def forever(request: Any) -> None:
                self.forever.set()
                try:
                    await asyncio.sleep(PATIENCE_S)
                finally:
                    self.cancelled.set()

            @Pre
            async def fails(request: Any) -> None:
                raise SystemExit

            @Pre
            async def tells(request: Any) -> None:
                trigger_event("told", "")
                request.headers["X-Stamp"] = "told"

            @Event
            async def told(event: Any) -> None:
                self.events.release()

            @Pre(concurrency=1)
            async def one_by_one(request: Any) -> None:
                await asyncio.sleep(0)

            @Pre
            async def measure(request: Any) -> None:
                request.headers["X-Stamp"] = str(len(request.body))

            @Pre
            def plain(request: Any) -> None:
                # Where a loop runs in this thread, that raises.
                asyncio.run(asyncio.sleep(0))
                request.headers["X-Stamp"] = str(threading.get_ident())

        return table_of(declare)


@contextmanager
def read_on_loop(handlers: Handlers, options: ServiceOptions | None = None) -> Iterator[Server]:
    """A service whose loop has just read a call."""
    with serving(handlers.table(), engine="http2", options=options) as server:
        lend(server)
        yield server


def lend(server: Server) -> None:
    def is_lent() -> bool:
        stamped(server, "quick")
        return is_read_on_loop(server)

    until(is_lent)


@pytest.mark.parametrize("name", ["blocks_at_once", "blocks_later"])
def test_a_handler_that_blocks_the_loop_holds_up_no_other_hook(name: str) -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as server:
        for _ in range(3):
            handlers.blocked.clear()
            handlers.release.clear()
            slow = server.client.future(make_object(hook_name=name))
            assert handlers.blocked.wait(PATIENCE_S)
            for _ in range(20):
                assert stamped(server, "plain")
            assert not slow.done()
            handlers.release.set()
            assert slow.result(timeout=PATIENCE_S)
            lend(server)


def test_what_is_no_call_may_block_the_loop_while_the_watcher_sleeps() -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as server:
        until(lambda: time.monotonic() > turns(server)._alarm.again_s + 0.5)

        async def block() -> None:
            handlers.wait()

        outcome = server.service.async_calls.spawn(block())
        assert handlers.blocked.wait(PATIENCE_S)
        assert stamped(server, "plain")
        assert not outcome.done()
        handlers.release.set()
        outcome.result(PATIENCE_S)
        lend(server)


def test_a_sync_handler_runs_on_no_loop_and_each_call_is_answered() -> None:
    with read_on_loop(Handlers()) as server:
        loop = server.service.async_calls.loop
        assert loop is not None
        for _ in range(3):
            lend(server)
            calls = [
                server.client.future(make_object(hook_name=name)) for name in ["quick", "plain", "quick"] * 5
            ]
            assert all(call.result(timeout=PATIENCE_S) for call in calls)
            assert stamped(server, "plain") != str(loop.thread_id) == stamped(server, "quick")


def test_each_call_has_a_task_and_a_context_of_its_own() -> None:
    with read_on_loop(Handlers()) as server:
        for _ in range(50):
            assert stamped(server, "own_context") == "nothing, this call"
            assert stamped(server, "times_out") == "timed out"


class Keepers:
    """Handlers that wait for nothing, and do something with their task, which no other call may notice."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.by_task: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self.ended = threading.Semaphore(0)
        self.left: list[asyncio.Task[Any]] = []

    def table(self) -> HookTable:
        def current() -> asyncio.Task[Any]:
            task = asyncio.current_task()
            assert task is not None
            return task

        def declare() -> None:
            @Pre
            async def quick(request: Any) -> None:
                task, now = current(), asyncio.get_running_loop().time()
                is_new = not (
                    task.cancelling()
                    or task in self.kept
                    or task in self.by_task
                    or hasattr(task, "mark")
                    or task.get_name() == "named"
                )
                request.headers["X-Stamp"] = f"{is_new} {now > 0}"

            @Pre
            async def keeps(request: Any) -> None:
                self.kept.append(current())

            @Pre
            async def keeps_weakly(request: Any) -> None:
                self.by_task[current()] = 1

            @Pre
            async def marks(request: Any) -> None:
                current().mark = True  # type: ignore[attr-defined]  # as some do

            @Pre
            async def names(request: Any) -> None:
                current().set_name("named")

            @Pre
            async def cancels_itself(request: Any) -> None:
                current().cancel()

            @Pre
            async def cancels_itself_and_waits(request: Any) -> None:
                current().cancel()
                try:
                    await asyncio.sleep(PATIENCE_S)
                finally:
                    self.ended.release()

            @Pre
            async def changes_its_mind(request: Any) -> None:
                task = current()
                task.cancel()
                asked, left = task.cancelling(), task.uncancel()
                await asyncio.sleep(0)
                request.headers["X-Stamp"] = f"{asked} {left} {task.cancelling()}"

            @Pre
            async def asks_for_its_end(request: Any) -> None:
                current().add_done_callback(lambda done: self.ended.release())

            @Pre
            async def leaves_a_waiter(request: Any) -> None:
                async def wait(other: asyncio.Task[Any]) -> None:
                    await asyncio.wait([other])
                    self.ended.release()

                task = asyncio.create_task(wait(current()))
                self.left.append(task)
                task.add_done_callback(lambda done: None)

            @Pre
            async def waits_for_all(request: Any) -> None:
                others = asyncio.all_tasks() - {current()} - set(self.left)
                if others:
                    await asyncio.wait(others)

        return table_of(declare)


def test_what_a_handler_does_with_its_task_no_other_call_notices() -> None:
    keepers = Keepers()
    with serving(keepers.table(), engine="http2") as server:
        names = ["keeps", "keeps_weakly", "marks", "names", "cancels_itself", "asks_for_its_end"]
        for name in [*names, "leaves_a_waiter", "waits_for_all"]:
            lend(server)
            for _ in range(3):
                server.client.dispatch(make_object(hook_name=name))
                assert stamped(server, "quick") == "True True"
        for _ in range(6):
            assert keepers.ended.acquire(timeout=PATIENCE_S)
        assert len(set(map(id, keepers.kept))) == 3
        until(lambda: all(task.done() for task in keepers.kept))


def test_a_handler_that_cancels_its_task_and_waits_is_cancelled_at_once() -> None:
    """Once, its task ended without a step, and the call waited for its time limit."""
    keepers = Keepers()
    with serving(
        keepers.table(), engine="http2", options=ServiceOptions(timeout_s=10 * PATIENCE_S)
    ) as server:
        lend(server)
        with pytest.raises(grpc.RpcError):
            server.client.dispatch(make_object(hook_name="cancels_itself_and_waits"))
        assert keepers.ended.acquire(timeout=PATIENCE_S)
        assert stamped(server, "quick") == "True True"
        if sys.version_info >= (3, 13):  # Before, a task that was asked once is cancelled once.
            lend(server)
            assert stamped(server, "changes_its_mind") == "1 0 0"
            assert stamped(server, "quick") == "True True"


def test_calls_that_wait_for_nothing_need_no_task_each(monkeypatch: pytest.MonkeyPatch) -> None:
    with read_on_loop(Handlers()) as server:
        loop = server.service.async_calls.loop
        assert loop is not None
        make, made = loop.make_spare, list[SpareTask]()

        def make_and_count(go_on: Callable[[SpareTask], Coroutine[Any, Any, None]]) -> SpareTask:
            made.append(make(go_on))
            return made[-1]

        monkeypatch.setattr(loop, "make_spare", make_and_count)
        assert all(stamped(server, "quick") for _ in range(20))
        # Who looks from another thread at the task that runs has it at that moment: that one is not as new.
        assert len(made) < 20


def test_the_deadline_of_a_client_ends_its_call() -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as server:
        for timeout_s in (0.2, 2.0, PATIENCE_S / 2):
            call = server.client.future(make_object(hook_name="forever"), timeout_s=timeout_s)
            assert error_of(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
            if handlers.forever.is_set():  # Else the machine stood still for as long.
                break
        assert handlers.cancelled.wait(PATIENCE_S)
        assert stamped(server, "quick")


def test_a_handler_that_ends_a_program_fails_its_call() -> None:
    with read_on_loop(Handlers()) as server:
        for _ in range(5):
            call = server.client.future(make_object(hook_name="fails"))
            assert error_of(call)[0] is grpc.StatusCode.INTERNAL
            assert stamped(server, "quick")


def test_an_event_that_a_first_step_triggers_runs_in_a_task_of_its_own() -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as server:
        for _ in range(5):
            assert stamped(server, "tells") == "told"
            assert handlers.events.acquire(timeout=PATIENCE_S)


def test_calls_that_wait_for_their_place_run_one_after_the_other() -> None:
    with read_on_loop(Handlers(), ServiceOptions(queue_size=2000)) as server:
        calls = [server.client.future(make_object(hook_name="one_by_one")) for _ in range(1000)]
        assert all(call.result(timeout=PATIENCE_S) for call in calls)


def test_a_large_message_is_read_elsewhere() -> None:
    body = b"x" * 300_000
    with read_on_loop(Handlers()) as server:
        large = make_object(hook_name="measure", request=make_request(body=body))
        for _ in range(3):
            lend(server)
            assert server.client.dispatch(large).request.set_headers["X-Stamp"] == str(len(body))


def _end_loop(server: Server) -> None:
    loop = server.service.async_calls.loop
    assert loop is not None
    loop.end(0.0)
    until(lambda: not loop.is_alive)


def _stop_loop(server: Server) -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()

    server.service.async_calls.spawn(stop()).result(PATIENCE_S)


@pytest.mark.parametrize("end", [_end_loop, _stop_loop])
def test_a_loop_that_ends_holds_up_nobody(end: Callable[[Server], None]) -> None:
    with read_on_loop(Handlers()) as server:
        end(server)
        assert stamped(server, "plain")
        assert stamped(server, "quick")
        lend(server)


@pytest.mark.parametrize("is_blocked", [False, True], ids=["free", "blocked"])
def test_a_service_whose_loop_reads_calls_ends_well(is_blocked: bool) -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as server:
        if is_blocked:
            slow = server.client.future(make_object(hook_name="blocks_later"))
            assert handlers.blocked.wait(PATIENCE_S)
        else:
            # The last answer is out a moment before its call has ended.
            until(lambda: not server.service.in_flight)
        assert server.stop(drain_s=0.0) is not is_blocked
        if is_blocked:
            assert slow.exception(timeout=PATIENCE_S) is not None
        assert turns(server)._turn is None
        handlers.release.set()
        # Nothing is closed that the loop still watches.
        until(lambda: not turns(server)._server._is_open)


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no fault from outside")
def test_a_fault_while_a_loop_polls_has_a_thread_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, what was answered there was not written until something else was to be done."""
    failed = threading.Event()
    with read_on_loop(Handlers()) as server:
        polled = turns(server)._server
        poll = polled.poll

        def fail(timeout_s: float) -> None:
            if not failed.is_set() and is_read_on_loop(server):
                failed.set()
                raise RuntimeError("a fault of ours")
            poll(timeout_s)

        taken_back: list[object] = []
        take_back = Turns.take_back

        def tells(self: Turns[Any], turn: object) -> None:
            take_back(self, turn)
            taken_back.append(self._turn is not turn)

        monkeypatch.setattr(Turns, "take_back", tells)
        monkeypatch.setattr(turns(server), "_watch_loop", lambda lent, ticks: None)
        monkeypatch.setattr(polled, "poll", fail)
        # Whoever reads on a busy machine may be a thread for a while.
        for _ in range(100):
            stamped(server, "quick")
            if failed.is_set():
                break
        until(lambda: bool(taken_back))
        assert taken_back[0]


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_what_else_is_on_the_loop_has_its_turn_where_calls_follow_each_other_closely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with read_on_loop(Handlers()) as server:
        polled = turns(server)._server
        loop = server.service.async_calls.loop
        assert loop is not None
        has_run = threading.Event()
        finds = 0

        def find_soon(timeout_s: float, calls: int) -> bool:
            nonlocal finds
            finds += not has_run.is_set()
            return finds < 10_000

        monkeypatch.setattr(polled, "find_soon", find_soon)
        stamped(server, "quick")
        finds = 0
        loop.call_soon(has_run.set)
        assert has_run.wait(PATIENCE_S)
        # Of a millisecond, there are some hundred.
        assert finds < 5_000
        monkeypatch.undo()
        assert stamped(server, "quick")
