"""The threads that run handlers: as many as are needed, within bounds; those that hang are replaced."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from coprocess.transport.workers import MOST_IDLE, WorkerThreads, start_missing
from tests.server import PATIENCE_S, until

Task = Callable[[], None]


class Pool:
    def __init__(self, minimum: int, maximum: int) -> None:
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.threads: WorkerThreads[Task] = WorkerThreads(
            "test", self.tasks.get, lambda task: task(), minimum=minimum, maximum=maximum
        )
        self.release = threading.Event()
        self.blocked: list[int] = []
        self.threads.start()

    def block(self, count: int) -> None:
        """Make `count` threads hang until `release`."""
        before = len(self.blocked)
        for _ in range(count):
            self.tasks.put(self._hang)
        until(lambda: len(self.blocked) == before + count)

    def _hang(self) -> None:
        self.blocked.append(threading.get_ident())
        self.release.wait(PATIENCE_S)

    def runs(self, within_s: float = 0.3) -> bool:
        """Whether a task that is put in now is run."""
        done = threading.Event()
        self.tasks.put(done.set)
        return done.wait(within_s)


@pytest.fixture
def pools() -> Iterator[Callable[[int, int], Pool]]:
    made: list[Pool] = []

    def make(minimum: int, maximum: int) -> Pool:
        made.append(Pool(minimum, maximum))
        return made[-1]

    yield make
    for pool in made:
        pool.release.set()
        for _ in range(100):
            pool.tasks.put(None)


def test_quick_tasks_run_on_few_threads(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(1, 64)
    seen: set[int] = set()
    for _ in range(200):
        done = threading.Event()

        def task(done: threading.Event = done) -> None:
            seen.add(threading.get_ident())
            done.set()

        pool.tasks.put(task)
        assert done.wait(PATIENCE_S)
    # One takes the next while the other is not yet idle: hardly more than these.
    assert len(seen) <= pool.threads.count < 10


def test_threads_grow_when_all_are_blocked_up_to_the_maximum(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(2, 8)
    pool.block(8)
    assert pool.threads.count == 8
    assert pool.threads.busy == 8
    assert not pool.runs()
    assert pool.threads.count == 8
    pool.release.set()
    assert pool.runs()
    until(lambda: pool.threads.busy == 0)
    assert pool.threads.count == 8


def test_one_more_than_are_busy_is_ready(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(1, 8)
    pool.block(3)
    assert pool.runs()


def test_a_hanging_thread_is_replaced(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(1, 2)
    pool.block(2)
    assert not pool.runs()
    assert pool.threads.replace(pool.blocked[0])
    assert pool.runs()
    assert pool.threads.count == 2
    until(lambda: pool.threads.busy == 1)


def test_a_replaced_thread_ends_when_its_task_does(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(1, 1)
    pool.block(1)
    (hanging,) = [thread for thread in threading.enumerate() if thread.ident == pool.blocked[0]]
    assert pool.threads.replace(pool.blocked[0])
    assert pool.runs()
    pool.release.set()
    hanging.join(PATIENCE_S)
    assert not hanging.is_alive()
    assert pool.runs()
    until(lambda: pool.threads.busy == 0)
    assert pool.threads.count == 1


def test_a_thread_is_replaced_once(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(1, 4)
    pool.block(1)
    assert pool.threads.replace(pool.blocked[0])
    assert not pool.threads.replace(pool.blocked[0])
    assert pool.threads.busy == 0


def test_a_thread_of_others_is_not_replaced(pools: Callable[[int, int], Pool]) -> None:
    pool, other = pools(1, 4), pools(1, 4)
    other.block(1)
    count = pool.threads.count
    assert not pool.threads.replace(other.blocked[0])
    assert not pool.threads.replace(threading.get_ident())
    assert (pool.threads.count, pool.threads.busy) == (count, 0)


def test_no_more_hang_than_the_maximum(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(1, 2)
    for _ in range(2):
        pool.block(1)
        assert pool.threads.replace(pool.blocked[-1])
    pool.block(1)
    assert not pool.threads.replace(pool.blocked[-1])
    pool.release.set()
    assert pool.runs()
    until(lambda: pool.threads.busy == 0)


def test_what_a_task_raises_costs_no_thread(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(1, 1)

    def fail() -> None:
        raise SystemExit(1)

    pool.tasks.put(fail)
    assert pool.runs(PATIENCE_S)  # Its traceback is written first.
    assert pool.threads.count == 1
    until(lambda: pool.threads.busy == 0)


def test_threads_end_when_there_are_no_more_tasks(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(3, 8)
    for _ in range(3):
        pool.tasks.put(None)
    until(lambda: pool.threads.count == 0)


def test_after_a_burst_idle_threads_end_but_for_some(pools: Callable[[int, int], Pool]) -> None:
    pool = pools(2, 2 * MOST_IDLE)
    pool.block(2 * MOST_IDLE)
    assert pool.threads.count == 2 * MOST_IDLE
    threads = [thread for thread in threading.enumerate() if thread.ident in pool.blocked]
    pool.release.set()
    until(lambda: pool.threads.count == MOST_IDLE)
    until(lambda: sum(thread.is_alive() for thread in threads) == MOST_IDLE)
    assert pool.runs()


class FewThreads:
    """While it is on, the system starts no thread but for those that are allowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed = 0
        start = threading.Thread.start

        def start_if_allowed(thread: threading.Thread) -> None:
            if thread.name.startswith("test-"):
                if not self.allowed:
                    raise RuntimeError("can't start new thread")
                self.allowed -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_if_allowed)


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> FewThreads:
    return FewThreads(monkeypatch)


def test_a_thread_that_cannot_be_started_loses_no_task_and_is_started_later(
    few_threads: FewThreads, pools: Callable[[int, int], Pool]
) -> None:
    few_threads.allowed = 1
    pool = pools(1, 4)
    pool.block(1)
    assert pool.threads.count == pool.threads.busy == 1
    assert not pool.runs()
    start_missing()
    assert not pool.runs()
    few_threads.allowed = 10
    start_missing()
    assert pool.runs()
    # The cap is the same as before.
    pool.block(3)
    assert pool.threads.count == 4
    start_missing()
    assert pool.threads.count == 4
    pool.release.set()
    until(lambda: pool.threads.busy == 0)


def test_a_thread_that_cannot_be_replaced_now_is_replaced_later(
    few_threads: FewThreads, pools: Callable[[int, int], Pool]
) -> None:
    few_threads.allowed = 1
    pool = pools(1, 1)
    pool.block(1)
    assert not pool.threads.replace(pool.blocked[0])
    assert (pool.threads.count, pool.threads.busy, pool.threads.abandoned) == (1, 1, 0)
    few_threads.allowed = 1
    assert pool.threads.replace(pool.blocked[0])
    assert pool.runs()
    assert (pool.threads.count, pool.threads.abandoned) == (1, 1)


def test_fewer_than_the_minimum_do_and_none_is_an_error(
    few_threads: FewThreads, pools: Callable[[int, int], Pool]
) -> None:
    few_threads.allowed = 1
    pool = pools(3, 8)
    assert pool.runs()
    few_threads.allowed = 10
    start_missing()
    assert pool.threads.count == 3
    pool.block(3)
    assert pool.runs()
    few_threads.allowed = 0
    with pytest.raises(RuntimeError, match="no thread can be started"):
        pools(1, 1)
