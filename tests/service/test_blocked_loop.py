"""An async handler that blocks, stops or breaks the event loop: all calls are answered, later ones run."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Generator
from contextvars import Context
from typing import Any

import grpc
import pytest

from coprocess import Pre
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.loading.hooks import HookTable
from coprocess.runtime import async_calls
from coprocess.runtime.call import Call
from coprocess.runtime.loop import LoopThread
from coprocess.transport.engines import EngineChoice
from tests.objects import make_object, table_of
from tests.server import PATIENCE_S, Server, error_of, fails, serving, until
from tests.service.hooks import counts, stamped

TOO_LONG = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_calls, "GRACE_S", 0.1)


def table(release: threading.Event, begun: threading.Event | None = None) -> HookTable:
    """`begun` is set once the loop is blocked."""

    def declare() -> None:
        @Pre(timeout=0.3)
        async def blocks(request: Any) -> None:
            if begun is not None:
                begun.set()
            release.wait(PATIENCE_S)

        @Pre(timeout=0.3)
        async def short(request: Any) -> None:
            await asyncio.sleep(0)

        @Pre
        async def waits(request: Any) -> None:
            await asyncio.Event().wait()

        @Pre
        async def stamp(request: Any) -> None:
            await asyncio.sleep(0)
            request.headers["X-Stamp"] = "stamped"

    return table_of(declare)


def loops_alive() -> int:
    return sum(thread.name == "async-handlers" for thread in threading.enumerate())


def test_time_limits_hold_and_another_loop_takes_the_place(
    engine: EngineChoice, release: threading.Event
) -> None:
    before, begun = loops_alive(), threading.Event()
    with serving(table(release, begun), engine=engine) as server:
        waits = server.client.future(make_object(hook_name="waits"))
        until(lambda: server.service.in_flight == 1)
        assert stamped(server, "stamp") == "stamped"  # The one before is on the loop by now.
        limited = [server.client.future(make_object(hook_name="blocks"))]
        # Calls overtake each other on their way to the loop.
        assert begun.wait(PATIENCE_S)
        limited += [server.client.future(make_object(hook_name="short")) for _ in range(10)]
        # Nothing releases the loop. Those that have not begun find another one.
        last = server.client.future(make_object(hook_name="stamp"))
        assert {error_of(call)[0] for call in limited} == {TOO_LONG}
        assert last.result(PATIENCE_S)
        code, text = error_of(waits)
        assert code is grpc.StatusCode.INTERNAL
        assert text == 'Pre hook "waits" was given up: another handler blocked the event loop'
        assert stamped(server, "stamp") == "stamped"
        assert server.service.async_calls.given_up == 1
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "short") == {"ran": 10, "failed": 0, "timed_out": 10, "shed": 0}
        assert counts(server, "waits") == {"ran": 1, "failed": 1, "timed_out": 0, "shed": 0}
        assert loops_alive() == before + 2
        release.set()
        until(lambda: loops_alive() == before + 1)
        assert counts(server, "blocks") == {"ran": 1, "failed": 0, "timed_out": 1, "shed": 0}
    until(lambda: loops_alive() == before)


def test_no_more_loops_are_given_up_than_may(
    engine: EngineChoice, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_calls, "MOST_GIVEN_UP", 1)
    with serving(table(release), engine=engine) as server:
        for _ in range(2):
            assert fails(lambda: server.client.dispatch(make_object(hook_name="blocks")))[0] is TOO_LONG
            until(lambda: server.service.async_calls.given_up == 1)
        # The second blocks on; its calls are answered all the same.
        assert fails(lambda: server.client.dispatch(make_object(hook_name="short")))[0] is TOO_LONG
        assert server.service.async_calls.given_up == 1
        release.set()
        assert stamped(server, "stamp") == "stamped"


def test_a_stop_while_the_loop_is_blocked_answers_all(release: threading.Event) -> None:
    with serving(table(release)) as server:
        server.service.async_calls._timeout_s = 3600
        calls = [server.client.future(make_object(hook_name=name)) for name in ("waits", "blocks", "waits")]
        assert error_of(calls[1])[0] is TOO_LONG
        server.stop(drain_s=0.1)
        for call in (calls[0], calls[2]):
            assert error_of(call)[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
        assert not release.is_set()


async def stops() -> None:
    asyncio.get_running_loop().stop()


async def stops_from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, lambda: loop.call_soon_threadsafe(loop.stop))
    await asyncio.sleep(0.01)


async def runs_another() -> None:
    asyncio.run(asyncio.sleep(0))


async def runs_on_it() -> None:
    asyncio.get_running_loop().run_until_complete(asyncio.sleep(0))


def runs_one_in_a_thread() -> None:
    asyncio.run(asyncio.sleep(0))


async def closes() -> None:
    asyncio.get_running_loop().close()


async def sets_another() -> None:
    another = asyncio.new_event_loop()
    asyncio.set_event_loop(another)
    another.close()


async def sets_none() -> None:
    asyncio.set_event_loop(None)


async def sets_task_factory() -> None:
    asyncio.get_running_loop().set_task_factory(lambda loop, coroutine: None)  # type: ignore[arg-type]  # meant


async def cancels_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


async def a_task_exits() -> None:
    async def exits() -> None:
        raise SystemExit(3)

    await asyncio.sleep(0)
    asyncio.get_running_loop().create_task(exits())
    await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("handler", "is_answered"),
    [
        (stops, True),
        (stops_from_a_thread, True),
        (runs_another, False),
        (runs_on_it, False),
        (runs_one_in_a_thread, True),
        (closes, False),
        (sets_another, True),
        (sets_none, True),
        (sets_task_factory, True),
        (cancels_all, None),
        (a_task_exits, False),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_what_handlers_do_to_the_loop_harms_no_later_call(handler: Any, is_answered: bool | None) -> None:
    def declare() -> None:
        Pre(name="hostile")(handler)

        @Pre
        async def stamp(request: Any) -> None:
            await asyncio.sleep(0)
            request.headers["X-Stamp"] = "stamped"

    with serving(table_of(declare)) as server:
        for _ in range(3):
            error = server.client.future(make_object(hook_name="hostile")).exception(PATIENCE_S)
            assert is_answered is None or (error is None) is is_answered
            assert stamped(server, "stamp") == "stamped"
        assert server.service.async_calls.given_up == 0
        until(lambda: server.service.in_flight == 0)
    gc.collect()  # Else the coroutines that nobody awaited are told of while a later test runs.


def test_a_loop_that_has_ended_is_replaced(engine: EngineChoice, release: threading.Event) -> None:
    with serving(table(release), engine=engine) as server:
        assert stamped(server, "stamp") == "stamped"
        loop = loop_of(server)
        waits = server.client.future(make_object(hook_name="waits"))
        # In flight is not enough: it could be handed over when the loop is replaced, and wait on the next.
        # Nor that somebody has a task: the call before may still.
        until(lambda: any(isinstance(owner, Call) and owner.hook_name == "waits" for owner in loop.owners))
        loop._is_over = True
        loop.call_soon(loop._loop.stop)
        assert error_of(waits)[0] in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
        assert stamped(server, "stamp") == "stamped"
        assert server.service.async_calls.given_up == 1


def test_a_call_that_the_collector_closes_elsewhere_ends_without_an_error() -> None:
    class Waits:
        def __await__(self) -> Generator[None]:
            yield

    def declare() -> None:
        @Pre
        async def waits(request: Any) -> None:
            await Waits()

    message = make_object(hook_name="waits").SerializeToString()
    coroutine = Dispatcher(table_of(declare)).open_dispatch(message).run_async()
    Context().run(coroutine.send, None)
    coroutine.close()


def loop_of(server: Server) -> LoopThread:
    loop = server.service.async_calls.loop
    assert loop is not None
    return loop


def test_a_loop_that_cannot_be_started_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    failed: list[str] = []

    def fails_three_times(thread: threading.Thread) -> None:
        if thread.name == "async-handlers" and len(failed) < 3:
            failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fails_three_times)
    with serving(table(threading.Event())) as server:
        assert stamped(server, "stamp") == "stamped"
        assert len(failed) == 3


def test_an_answer_does_not_wait_for_what_blocks_the_loop_after_it(
    engine: EngineChoice, release: threading.Event
) -> None:
    """Answers that come in one turn of the loop are written together, and this turn does not end."""

    def declare() -> None:
        @Pre
        async def stamp(request: Any) -> None:
            asyncio.get_running_loop().call_soon(release.wait, 2 * PATIENCE_S)
            request.headers["X-Stamp"] = "stamped"

    with serving(table_of(declare), engine=engine) as server:
        assert stamped(server, "stamp") == "stamped"
        assert not release.is_set()
        release.set()
