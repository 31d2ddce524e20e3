"""The alarm that busy threads put off: it wakes who waits for it when they do not."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from coprocess.transport import alarm as module
from coprocess.transport.alarm import Alarm, SleepingAlarm, TimerAlarm, make_alarm
from tests.server import PATIENCE_S, until

KINDS = [SleepingAlarm] + ([TimerAlarm] if module._timer is not None else [])


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[float], Alarm]]:
    made: list[Alarm] = []

    def make(delay_s: float) -> Alarm:
        made.append(request.param(delay_s))
        return made[-1]

    yield make
    for alarm in made:
        alarm.close()


def test_it_is_silent_until_it_is_put_off_and_rings_once(make: Callable[[float], Alarm]) -> None:
    alarm = make(0.001)
    assert not alarm.wait(0.02)
    before_s = time.monotonic()
    alarm.put_off(before_s)
    assert alarm.rings_s == before_s + 0.001
    assert before_s < alarm.again_s < alarm.rings_s
    assert alarm.wait(PATIENCE_S)
    assert time.monotonic() >= alarm.rings_s
    assert not alarm.wait(0.02)


def test_who_looked_at_the_clock_before_it_rang_puts_it_off(make: Callable[[float], Alarm]) -> None:
    """Once, one that was held up between the two looked too early, put off nothing, and nobody watched it."""
    alarm = make(0.001)
    now_s = time.monotonic()
    alarm.put_off(now_s)
    alarm.again_s = now_s + PATIENCE_S
    assert alarm.wait(PATIENCE_S)
    assert now_s >= alarm.again_s


def test_it_wakes_who_waits_already(make: Callable[[float], Alarm]) -> None:
    alarm = make(0.001)
    rung = threading.Semaphore(0)

    def wait() -> None:
        while alarm.wait(PATIENCE_S):
            rung.release()
            if stopped.is_set():
                break

    stopped = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(3):
        alarm.put_off(time.monotonic())
        assert rung.acquire(timeout=PATIENCE_S)
    stopped.set()
    alarm.put_off(time.monotonic())
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_it_does_not_ring_while_it_is_put_off(make: Callable[[float], Alarm]) -> None:
    """For an hour each time: no machine is so slow that it rings between."""
    alarm = make(3600.0)
    rung: list[bool] = []
    thread = threading.Thread(target=lambda: rung.append(alarm.wait(0.2)))
    thread.start()
    for _ in range(100):
        alarm.put_off(time.monotonic())
    thread.join(PATIENCE_S)
    assert rung == [False]


def test_the_system_s_timer_is_told_of_each_time_that_it_is_put_off() -> None:
    if TimerAlarm not in KINDS:
        pytest.skip("this system has no timerfd")
    alarm = TimerAlarm(0.5)
    started_s = time.monotonic()
    while time.monotonic() < started_s + 0.7:
        alarm.put_off(time.monotonic())
        time.sleep(0.01)
    last_s = alarm.rings_s
    assert alarm.wait(PATIENCE_S)
    assert time.monotonic() >= last_s
    alarm.close()


def test_one_that_is_closed_touches_no_file_of_others(make: Callable[[float], Alarm]) -> None:
    alarm = TimerAlarm(0.001) if TimerAlarm in KINDS else SleepingAlarm(0.001)
    alarm.close()
    with open("/dev/null") as file:  # It has the number that the timer had.
        alarm.put_off(time.monotonic())
        assert file.read() == ""


def test_where_no_more_files_may_be_open_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(delay_s: float) -> Alarm:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(module, "TimerAlarm", refuse)
    alarm = make_alarm(0.001)
    assert isinstance(alarm, SleepingAlarm)
    alarm.put_off(time.monotonic())
    assert alarm.wait(PATIENCE_S)
    until(lambda: time.monotonic() > alarm.rings_s)
