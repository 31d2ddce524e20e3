"""Handlers that take too long."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from coprocess.api.moments import HookType
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engines import EngineChoice, is_compiled
from tests.objects import hook_table, make_object
from tests.server import PATIENCE_S, error_of, fails, serving, until
from tests.service.hooks import blocking_table, counts, ends_late, is_stamped, stamped, state_of

# Time-outs.

QUICKLY = ServiceOptions(timeout_s=0.1, queue_size=8)
#: Of calls that overrun, and of one behind them that must not, though the machine is busy.
SOON = ServiceOptions(timeout_s=1.0, queue_size=8)


def test_a_sync_handler_that_overruns_is_answered_and_its_hook_serves_on(
    engine: EngineChoice, release: threading.Event
) -> None:
    with serving(blocking_table(release), engine=engine, options=QUICKLY, max_threads=4) as server:
        for _ in range(3):
            code, text = fails(lambda: server.client.dispatch(make_object(hook_name="slow")))
            assert (code, text) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                'Pre hook "slow" took longer than 0.1 s',
            )
        assert state_of(server, "slow").running == 0
        assert stamped(server, "fast") == "fast"
        assert counts(server, "slow") == {"ran": 3, "failed": 0, "timed_out": 3, "shed": 0}
        release.set()
        until(lambda: is_stamped(server, "slow"))
        until(lambda: server.service.in_flight == 0)
        ended = counts(server, "slow")
        assert ended["ran"] == ended["timed_out"] + 1 >= 4


def test_a_sync_handler_is_given_up_when_its_clients_deadline_passes(
    engine: EngineChoice, release: threading.Event
) -> None:
    """Else a hook whose handlers hang would be taken by calls that nobody waits for, as long as its limit."""
    options, begun = ServiceOptions(timeout_s=3600), threading.Event()
    with serving(blocking_table(release, begun, concurrency=1), engine=engine, options=options) as server:
        ends_late(server, "slow", begun.is_set)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "slow") == {"ran": 1, "failed": 0, "timed_out": 1, "shed": 0}
        release.set()
        assert stamped(server, "slow") == "slow"


def test_the_time_in_the_queue_is_part_of_what_the_client_allows(
    engine: EngineChoice, release: threading.Event
) -> None:
    began, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def handler(request: Any) -> None:
        began.release()
        go_on.acquire(timeout=PATIENCE_S)

    with serving(hook_table(HookType.Pre, handler, concurrency=1), engine=engine) as server:
        calls = [server.client.future(make_object(), timeout_s=25) for _ in range(2)]
        assert began.acquire(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 2)
        time.sleep(0.5)  # In the queue.
        go_on.release()
        assert began.acquire(timeout=PATIENCE_S)
        (second,) = server.service.running.values()
        server.service.watchdog.end_overdue()
        allowed_s = second.rpc.time_allowed_s()
        assert allowed_s is not None
        assert second.deadline_s == pytest.approx(second.since_s + allowed_s, abs=0.25)
        go_on.release()
        for call in calls:
            call.result(timeout=PATIENCE_S)


def test_what_waits_behind_a_handler_that_overruns_is_run(
    engine: EngineChoice, release: threading.Event
) -> None:
    began = threading.Semaphore(0)

    def handler(request: Any) -> None:
        began.release()
        if "X-Hang" in request.headers:
            release.wait(PATIENCE_S)

    hanging = make_object()
    hanging.request.headers["X-Hang"] = "1"
    table = hook_table(HookType.Pre, handler, concurrency=1)
    with serving(table, engine=engine, options=SOON) as server:
        # The second hangs in a thread of the service's own, and is replaced there.
        calls = [server.client.future(message) for message in (hanging, hanging, make_object())]
        assert error_of(calls[0])[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error_of(calls[1])[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert calls[2].result(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hook") == {"ran": 3, "failed": 0, "timed_out": 2, "shed": 0}


def test_where_no_more_threads_may_hang_calls_are_answered_all_the_same(
    engine: EngineChoice, release: threading.Event
) -> None:
    with (
        capture_logs() as logged,
        serving(
            blocking_table(release), engine=engine, options=QUICKLY, min_threads=1, max_threads=2
        ) as server,
    ):
        # Two may hang beside the two that serve; two more take these, too.
        calls = [server.client.future(make_object(hook_name="slow")) for _ in range(4)]
        assert {error_of(call)[0] for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert counts(server, "slow")["timed_out"] == 4
        assert server.engine.abandoned_thread_count == 2
        assert any("cannot be replaced" in entry["event"] for entry in logged)
        release.set()
        until(lambda: server.service.in_flight == 0)
        until(lambda: server.engine.abandoned_thread_count == 0)
        until(lambda: is_stamped(server, "slow"))
        until(lambda: server.service.in_flight == 0)
        ended = counts(server, "slow")
        assert ended["ran"] == ended["timed_out"] + 1 >= 5
        assert (ended["failed"], ended["shed"]) == (0, 0)


def test_an_async_handler_that_overruns_is_cancelled(engine: EngineChoice) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def handler() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serving(hook_table(HookType.Pre, handler), engine=engine, options=QUICKLY) as server:
        calls = 0
        while not begun.is_set():  # Where the machine stands still, its time may be over before.
            calls += 1
            code, text = fails(lambda: server.client.dispatch(make_object()))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert text == 'Pre hook "hook" took longer than 0.1 s'
        assert cancelled.wait(PATIENCE_S)
        assert server.service.in_flight == 0
        assert counts(server, "hook") == {"ran": calls, "failed": 0, "timed_out": calls, "shed": 0}


def test_an_async_handler_that_will_not_be_cancelled_is_answered(
    engine: EngineChoice, release: threading.Event
) -> None:
    async def handler(request: Any) -> None:
        while "X-Hang" in request.headers and not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    hanging = make_object()
    hanging.request.headers["X-Hang"] = "1"
    table = hook_table(HookType.Pre, handler, concurrency=1)
    with serving(table, engine=engine, options=SOON) as server:
        calls = [server.client.future(message) for message in (hanging, make_object())]
        assert error_of(calls[0])[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert calls[1].result(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        release.set()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_timeout_error_of_its_own_is_a_failure(engine: EngineChoice, *, asynchronous: bool) -> None:
    def sync() -> None:
        raise TimeoutError("upstream")

    async def on_the_loop() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    with serving(hook_table(HookType.Pre, on_the_loop if asynchronous else sync), engine=engine) as server:
        code, text = fails(lambda: server.client.dispatch(make_object()))
        assert (code, text) == (grpc.StatusCode.INTERNAL, 'Pre hook "hook" raised TimeoutError')
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hook") == {"ran": 1, "failed": 1, "timed_out": 0, "shed": 0}


def test_a_hooks_own_timeout(engine: EngineChoice, release: threading.Event) -> None:
    with serving(blocking_table(release, timeout=0.1), engine=engine) as server:
        for name in ("slow", "slow_async"):
            code, _ = fails(lambda name=name: server.client.dispatch(make_object(hook_name=name)))  # type: ignore[misc]  # a default is no parameter
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_a_call_that_begins_while_the_thread_before_it_is_replaced_stays_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dispatcher = Dispatcher(hook_table(HookType.Pre, lambda request: None))
    service = Service(dispatcher, ServiceOptions(concurrency=1))
    first, second = (dispatcher.open_dispatch(make_object().SerializeToString()) for _ in range(2))
    gate = service.gates[first.hook]
    for call in (first, second):
        call.gate, call.since_s, call.timed_out = gate, 0.0, False
    assert gate.enter(first)
    assert gate.wait(second) is False
    me = 7
    service.running[me] = first

    def replace(thread_id: int) -> bool:
        # Meanwhile, the thread ends the one, and goes on with the next.
        assert gate.leave(service.running.pop(thread_id), 0.0) is second
        service.running[thread_id] = second
        return True

    monkeypatch.setattr(service._own_threads, "replace", replace)
    service.watchdog.abandon(me, first)
    assert service.running == {me: second}
    assert gate.holds(second)
