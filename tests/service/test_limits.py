"""Concurrency and queue of a hook: a slow one starves no other."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from coprocess.api.moments import HookType
from coprocess.gateways.tyk.wire import Object
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engines import EngineChoice
from tests.objects import hook_table, make_object
from tests.server import PATIENCE_S, fails, serving, until
from tests.service.hooks import blocking_table, counts, stamped, state_of


@pytest.mark.parametrize("name", ["slow", "slow_async"])
def test_a_queued_call_whose_client_gave_up_leaves_the_queue(
    engine: EngineChoice, release: threading.Event, name: str
) -> None:
    with serving(blocking_table(release, concurrency=1), engine=engine) as server:
        running = server.client.future(make_object(hook_name=name))
        until(lambda: server.service.in_flight == 1)
        code, _ = fails(lambda: server.client.dispatch(make_object(hook_name=name), timeout_s=0.2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: not state_of(server, name).queue)
        release.set()
        running.result(PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, name)["ran"] == 1


@pytest.mark.parametrize("name", ["slow", "slow_async"])
def test_beyond_concurrency_and_queue_calls_are_refused_at_once(
    engine: EngineChoice, release: threading.Event, name: str
) -> None:
    table = blocking_table(release, concurrency=2)
    with serving(table, engine=engine, options=ServiceOptions(queue_size=3)) as server:
        calls = [server.client.future(make_object(hook_name=name)) for _ in range(5)]
        until(lambda: server.service.in_flight == 5)
        state = state_of(server, name)
        assert (state.running, len(state.queue)) == (2, 3)
        for _ in range(4):
            code, text = fails(lambda: server.client.dispatch(make_object(hook_name=name)))
            assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, f'Pre hook "{name}" is overloaded')
        assert stamped(server, "fast") == "fast"
        release.set()
        for call in calls:
            reply = Object.FromString(call.result(timeout=PATIENCE_S))
            assert reply.request.set_headers["X-Stamp"] == "slow"
        until(lambda: server.service.in_flight == 0)
        assert counts(server, name) == {"ran": 5, "failed": 0, "timed_out": 0, "shed": 4}
        assert server.service.refused_calls == 4
        assert stamped(server, name) == "slow"


def test_no_more_run_at_one_time_than_may(engine: EngineChoice) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def handler() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    table = hook_table(HookType.Pre, handler, concurrency=3)
    with serving(table, engine=engine, options=ServiceOptions(queue_size=1000)) as server:
        calls = [server.client.future(make_object()) for _ in range(100)]
        for call in calls:
            call.result(timeout=PATIENCE_S)
    assert most <= 3


def test_a_slow_hook_does_not_starve_a_fast_one(engine: EngineChoice, release: threading.Event) -> None:
    table = blocking_table(release, concurrency=16)
    with serving(table, engine=engine, options=ServiceOptions(queue_size=1000)) as server:
        slow = [
            server.client.future(make_object(hook_name=name))
            for name in ("slow", "slow_async")
            for _ in range(100)
        ]
        until(lambda: server.service.in_flight == 200)
        for _ in range(100):
            assert stamped(server, "fast") == "fast"
        release.set()
        for call in slow:
            call.result(timeout=PATIENCE_S)


def test_counts_of_durations(engine: EngineChoice) -> None:
    with serving(hook_table(HookType.Pre, lambda: None), engine=engine) as server:
        for _ in range(20):
            server.client.dispatch(make_object())
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hook")["ran"] == 20
        ((_, counted),) = state_of(server, "hook").counted
        assert counted.duration_sum_s > 0
