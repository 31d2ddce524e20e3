"""Which hooks count as quick."""

from __future__ import annotations

import time

import pytest

from coprocess.gateways.kong.gateway import KongGateway
from coprocess.runtime import pace as pace_module
from coprocess.runtime.around.gateway import AroundGateway
from coprocess.runtime.pace import QUICK_S, Pace
from coprocess.transport.engines import is_compiled

SLOW_S = 10 * QUICK_S


def began() -> Pace:
    pace = Pace()
    assert pace.apart == 1, "an unknown hook does not run where calls are read"
    pace.apart = 0
    return pace


def test_two_slow_calls_in_a_row_make_a_slow_hook_that_is_tried_less_and_less_often() -> None:
    pace, pauses = began(), []
    pace.took(SLOW_S, None)
    assert pace.apart == 0
    for _ in range(12):
        pace.took(SLOW_S, None)
        pauses.append(pace.apart)
    assert pauses[:3] == [16, 32, 64]
    assert pauses[-1] == pauses[-2] == 4096


def test_one_slow_call_of_a_thousand_makes_no_slow_hook() -> None:
    pace = began()
    for number in range(10_000):
        duration_s = SLOW_S if number % 1000 == 0 else 0.0
        if pace.doubt or duration_s > QUICK_S:
            pace.took(duration_s, None)
        assert pace.apart == 0


@pytest.mark.skipif(pace_module._OF_THREAD is None, reason="this system does not tell what a thread used")
def test_a_call_that_waits_for_the_processor_is_told_from_one_that_waits() -> None:
    pace = began()
    pace.took(SLOW_S, None)
    pace.took(SLOW_S, pace.look())
    assert pace.apart == 0
    before = pace.look()
    time.sleep(0.001)
    pace.took(SLOW_S, before)
    assert pace.apart == 16


@pytest.mark.skipif(is_compiled(), reason="compiled code takes no function from outside")
@pytest.mark.skipif(pace_module._OF_THREAD is None, reason="this system does not tell what a thread used")
def test_a_call_that_waits_for_the_interpreter_is_told_from_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pace = began()
    pace.took(SLOW_S, None)
    used = [(1, 0.0, 10.0), (2, 0.0, 10.0 + SLOW_S), (2, 0.0, 10.0), (3, 0.0, 10.0 + SLOW_S / 2)]
    monkeypatch.setattr(pace_module, "_used", lambda: used.pop(0))
    pace.took(SLOW_S, pace.look())  # Another thread computed all the time.
    assert pace.apart == 0
    pace.took(SLOW_S, pace.look())
    assert pace.apart == 16


@pytest.mark.skipif(is_compiled(), reason="compiled code takes no function from outside")
@pytest.mark.skipif(pace_module._OF_THREAD is None, reason="this system does not tell what a thread used")
def test_a_quick_call_on_a_slow_machine_is_told_from_one_that_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pace = began()
    pace.took(SLOW_S, None)
    used = [(1, 0.0, 0.0), (1, 1.5 * QUICK_S, 1.5 * QUICK_S), (1, 0.0, 0.0), (1, SLOW_S, SLOW_S)]
    monkeypatch.setattr(pace_module, "_used", lambda: used.pop(0))
    pace.took(1.5 * QUICK_S, pace.look())
    assert pace.apart == 0
    pace.took(SLOW_S, pace.look())
    assert pace.apart == 16


def test_hooks_whose_calls_wait_for_their_gateway_never_compute_one_after_the_other() -> None:
    pace, other = Pace(takes_turns=False), Pace()
    assert not pace.asks_clocks()
    assert other.asks_clocks()
    assert KongGateway.is_asked_meanwhile
    assert not AroundGateway.is_asked_meanwhile


@pytest.mark.skipif(pace_module._OF_THREAD is None, reason="this system does not tell what a thread used")
def test_of_a_hook_that_waits_the_clocks_are_asked_now_and_then_and_of_one_that_computes_each_time() -> None:
    pace = Pace()
    pace.computed((time.thread_time(), time.process_time()), 0.05)
    asked = [pace.asks_clocks() for _ in range(17)]
    assert asked == [False] * 15 + [True] * 2
    for _ in range(20):
        pace.computed((time.thread_time() - 0.005, time.process_time() - 0.005), 0.005)
    assert pace.computes
    assert all(pace.asks_clocks() for _ in range(20))
