"""Who wants to know that a call is over: told once, whichever of the two comes first."""

from __future__ import annotations

import sys
import threading

from coprocess.transport.cancellations import _REMEMBERED, Cancellations


def test_who_asked_is_told_once() -> None:
    cancels, told = Cancellations(), [0]
    cancels.when_over(7, lambda: told.append(7))
    cancels.is_over(8)
    assert told == [0]
    cancels.is_over(7)
    cancels.is_over(7)
    assert told == [0, 7]
    assert not cancels


def test_who_asks_later_is_told_at_once() -> None:
    cancels, told = Cancellations(), [0]
    cancels.is_over(7)
    cancels.when_over(7, lambda: told.append(7))
    assert told == [0, 7]
    assert not cancels


def test_the_last_that_asked_for_a_call_is_told() -> None:
    """A call that waited in a queue asks again when it begins."""
    cancels, told = Cancellations(), [""]
    cancels.when_over(7, lambda: told.append("queued"))
    cancels.when_over(7, lambda: told.append("running"))
    cancels.is_over(7)
    assert told == ["", "running"]


def test_only_the_last_calls_are_remembered() -> None:
    cancels, told = Cancellations(), [0]
    for call_id in range(_REMEMBERED + 1):
        cancels.is_over(call_id)
    cancels.when_over(0, lambda: told.append(0))
    assert told == [0]
    cancels.when_over(1, lambda: told.append(1))
    assert told == [0, 1]
    assert len(cancels.over) == _REMEMBERED


def test_threads_that_hear_of_ends_at_one_time_do_not_fail() -> None:
    cancels = Cancellations()
    failed: list[Exception] = []

    def hear(first: int) -> None:
        try:
            for call_id in range(first, first + 20_000):
                cancels.is_over(call_id)
        except RuntimeError as error:
            failed.append(error)

    threads = [threading.Thread(target=hear, args=(number * 100_000,)) for number in range(8)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert failed == []
    assert len(cancels.over) == _REMEMBERED
