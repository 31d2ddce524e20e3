"""How a thread looks for a moment before it sleeps: by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coprocess.transport.http2.spinning import SPIN_S, Spinning

SOON_S, LATE_S = SPIN_S / 2, 0.01
#: What a look takes here, and to give way where nobody else runs.
LOOK_S, YIELD_S = 0.000001, 0.0000005
#: More than it takes to be sure.
SEVERAL = 20


class World:
    """Something is ready at times; it tells whether that was found by looking."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.ready_s = 0.0
        self.looks = 0
        #: What to give way takes.
        self.others_take: Callable[[], float] = lambda: YIELD_S
        self.spinning = Spinning(self._is_ready, lambda: self.now_s, self._give_way)

    def _is_ready(self) -> bool:
        self.looks += 1
        self.now_s += LOOK_S
        return self.now_s >= self.ready_s

    def _give_way(self) -> None:
        self.now_s += self.others_take()

    def wait(self, gap_s: float, calls: int = 1) -> bool:
        """Until something is ready after `gap_s`. Whether it looked until then."""
        self.ready_s = self.now_s + gap_s
        has_found = self.spinning.find(1.0, calls)
        if not has_found:
            self.now_s = max(self.now_s, self.ready_s)  # It sleeps.
        self.spinning.woke()
        return has_found


@pytest.fixture
def world() -> World:
    return World()


def test_it_looks_once_several_sleeps_were_short(world: World) -> None:
    assert not world.wait(SOON_S)
    assert not world.looks
    assert [world.wait(SOON_S) for _ in range(SEVERAL)][-1]


def test_what_comes_seldom_is_not_looked_for(world: World) -> None:
    assert not any(world.wait(LATE_S) for _ in range(SEVERAL))
    # Nor where a short sleep comes between.
    for _ in range(SEVERAL):
        world.wait(SOON_S)
        world.wait(LATE_S)
    assert not world.looks


def test_where_several_calls_come_at_one_time_their_client_has_the_processor(world: World) -> None:
    for _ in range(SEVERAL):
        world.wait(SOON_S, calls=1)
        world.wait(SOON_S, calls=2)
    assert not world.looks


def test_it_ends_looking_in_time_and_does_not_look_the_next_time(world: World) -> None:
    for _ in range(SEVERAL):
        world.wait(SOON_S)
    before_s = world.now_s
    world.ready_s = before_s + LATE_S
    assert not world.spinning.find(1.0, 1)
    assert world.now_s - before_s <= SPIN_S + LOOK_S + YIELD_S
    world.spinning.woke()
    looks = world.looks
    world.wait(SOON_S)
    assert world.looks == looks


def test_it_looks_no_longer_than_it_was_to_wait(world: World) -> None:
    for _ in range(SEVERAL):
        world.wait(SOON_S)
    before_s = world.now_s
    world.ready_s = before_s + LATE_S
    assert not world.spinning.find(SPIN_S / 10, 1)
    assert world.now_s - before_s <= SPIN_S / 10 + LOOK_S + YIELD_S


def test_where_others_have_use_for_the_processor_it_looks_ever_more_seldom(world: World) -> None:
    world.others_take = lambda: 0.001
    for _ in range(10_000):
        assert not world.wait(SOON_S)
    assert world.looks < 20
    # Once they have not, it looks again some time.
    world.others_take = lambda: YIELD_S
    found = [world.wait(SOON_S) for _ in range(40_000)]
    assert all(found[-1000:])


def test_one_that_ran_for_a_moment_is_no_reason_to_stop_for_long(world: World) -> None:
    for _ in range(SEVERAL):
        world.wait(SOON_S)
    takes = iter([0.001])
    world.others_take = lambda: next(takes, YIELD_S)
    found = [world.wait(SOON_S) for _ in range(1000)]
    assert found.count(False) < 5


def test_where_every_second_look_is_in_vain_it_looks_ever_more_seldom(world: World) -> None:
    for _ in range(5000):
        world.wait(SOON_S)
        world.wait(SPIN_S * 1.3)
    before = world.looks
    for _ in range(5000):
        world.wait(SOON_S)
        world.wait(SPIN_S * 1.3)
    assert world.looks - before < 500
