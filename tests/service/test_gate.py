"""The gate of a hook: how many calls run at one time, and that none waits for ever."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from coprocess import Pre, Request
from coprocess.runtime.hook_state import ApiLabels, HookCounts, HookState
from tests.objects import table_of
from tests.server import PATIENCE_S

CONCURRENCY, QUEUE_SIZE, THREADS, CALLS = 3, 20, 8, 1_000


class Caller:
    """What comes to the gate."""

    api_id = "an-api"
    counts: HookCounts


def gate(concurrency: int, queue_size: int) -> HookState[Caller]:
    def declare() -> None:
        @Pre
        def handler(request: Request) -> None: ...

    (hook,) = table_of(declare)
    return HookState(
        hook,
        ApiLabels(),
        concurrency=concurrency,
        queue_size=queue_size,
        timeout_s=1.0,
        on_error="closed",
    )


@pytest.fixture
def threads_that_change_often() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


def test_calls_run_in_order_behind_those_that_run_and_the_rest_is_refused() -> None:
    state, callers = gate(1, 2), [Caller() for _ in range(4)]
    assert [state.enter(each) or state.wait(each) for each in callers] == [True, False, False, None]
    assert (state.running, len(state.queue)) == (1, 2)
    assert state.leave(callers[0], 0.1) is callers[1]
    assert state.drop(callers[2])
    assert not state.drop(callers[1])
    assert state.leave(callers[1], 0.1) is None
    assert (state.running, len(state.queue)) == (0, 0)
    ((_, counts),) = state.counted
    assert (sum(counts.durations), counts.shed) == (2, 1)


def test_a_call_that_was_ended_leaves_nothing_more() -> None:
    state, first, second = gate(1, 2), Caller(), Caller()
    assert state.enter(first)
    assert state.wait(second) is False
    assert state.holds(first)
    assert state.cut_off(first, 0.1) == (True, second)
    assert not state.holds(first)
    assert state.cut_off(first, 0.1) == (False, None)
    assert state.leave(first, 0.1) is None
    assert state.running == 1
    assert state.release(second) == (True, None)
    assert state.running == 0


def test_a_call_that_found_no_room_runs_where_that_came_before_it_waits() -> None:
    state, first, second = gate(1, 2), Caller(), Caller()
    assert state.enter(first)
    assert not state.enter(second)
    # Nobody is in the queue yet: whoever leaves has nobody to call.
    assert state.leave(first, 0.1) is None
    assert state.wait(second)
    assert (state.running, len(state.queue)) == (1, 0)


def test_a_full_queue_refuses_nobody_who_has_room() -> None:
    state, first, waits, third = gate(1, 1), Caller(), Caller(), Caller()
    assert state.enter(first)
    assert state.wait(waits) is False
    assert not state.enter(third)
    state.queue.clear()
    assert state.leave(first, 0.1) is None
    assert state.wait(third)


@pytest.mark.usefixtures("threads_that_change_often")
def test_threads_that_come_and_go_at_one_time_are_never_too_many_and_leave_nobody_waiting() -> None:
    state, lock = gate(CONCURRENCY, QUEUE_SIZE), threading.Lock()
    seen: Counter[str] = Counter()
    inside, most = 0, 0

    def run(caller: Caller) -> None:
        """As the service does: the thread that ends a call runs the next that waits."""
        nonlocal inside, most
        following: Caller | None = caller
        while following is not None:
            with lock:
                inside += 1
                most = max(most, inside)
                seen["ran"] += 1
            with lock:
                inside -= 1
            following = state.leave(following, 0.0)

    def come() -> None:
        for _ in range(CALLS):
            caller = Caller()
            admitted = state.enter(caller) or state.wait(caller)
            if admitted:
                run(caller)
            elif admitted is None:
                with lock:
                    seen["refused"] += 1

    threads = [threading.Thread(target=come) for _ in range(THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE_S)
    assert not any(each.is_alive() for each in threads)
    assert seen["ran"] + seen["refused"] == THREADS * CALLS
    assert most <= CONCURRENCY
    assert (state.running, len(state.queue)) == (0, 0)
    ((_, counts),) = state.counted
    assert counts.shed == seen["refused"]
