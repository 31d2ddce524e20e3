"""An async handler that blocks the event loop: named in the log with its place, counted, and told once."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from coprocess.runtime.log_limit import LimitedLog
from coprocess.runtime.loop import LoopThread
from coprocess.runtime.loop_watch import TICKS_UNTIL_BLOCKED, LoopWatch
from coprocess.switching import SWITCH_S, ShortSwitches
from coprocess.transport.engines import EngineChoice
from tests.objects import make_object
from tests.serve_process import ServeProcess, write
from tests.server import ENGINES, PATIENCE_S
from tests.test_log_limit import counted

CODE = """
import asyncio, pathlib, time
from coprocess import Pre

HERE = pathlib.Path({here!r})

def hold(name):
    (HERE / name).touch()
    while not (HERE / ("end-" + name)).exists():
        time.sleep(0.005)  # held up here

@Pre
async def blocks(request):
    hold("one")

@Pre
async def starts_what_blocks(request):
    async def inner():
        hold("two")
    await asyncio.create_task(inner())

@Pre
async def waits(request):
    await asyncio.sleep(0.8)

@Pre
def sync(request):
    time.sleep(0.8)
"""
TOLD = "an async handler blocks: all async handlers wait for it"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_log_says_who_blocks_and_where(tmp_path: Path, engine: EngineChoice) -> None:
    handlers = write(tmp_path / "handlers", a=CODE.format(here=str(tmp_path)))
    with ServeProcess(handlers, f"--engine={engine}") as service, service.client() as client:
        # Neither of these blocks, long as they take.
        calls = [client.future(make_object(hook_name=name)) for name in ("waits", "sync")]
        for call in calls:
            call.result(PATIENCE_S)
        assert counted(service.http("GET", "/metrics")[1], "coprocess_loop_blocked_total") == [0]

        call = client.future(make_object(hook_name="blocks"))
        line = service.wait_for(TOLD)
        assert (line["hook"], line["hook_type"], line["level"]) == ("blocks", "Pre", "warning")
        held, handler = line["frames"]
        place = CODE[: CODE.index("# held up here")].count("\n") + 1
        assert held.startswith(f"{handlers / 'a.py'}:")
        assert held.endswith(" in hold")
        assert abs(int(held.partition("a.py:")[2].split()[0]) - place) <= 1  # The loop's head, or its body.
        assert handler.endswith(" in blocks")
        metrics = service.http("GET", "/metrics")[1]
        assert counted(metrics, "coprocess_loop_blocked_total") == [1]
        assert counted(metrics, "coprocess_loop_blocked_seconds_total")[0] >= 0.5
        (tmp_path / "end-one").touch()
        call.result(PATIENCE_S)

        call = client.future(make_object(hook_name="starts_what_blocks"))
        line = service.wait_for(TOLD)
        # Nobody knows whose task that is, but its place is known.
        assert "hook" not in line
        assert [each.rpartition(" ")[2] for each in line["frames"]] == ["hold", "inner"]
        (tmp_path / "end-two").touch()
        call.result(PATIENCE_S)
        assert counted(service.http("GET", "/metrics")[1], "coprocess_loop_blocked_total") == [2]
        assert service.end() == 0


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = new_loop()
    yield loop
    loop.end(PATIENCE_S)
    loop.join(PATIENCE_S)


def new_loop() -> LoopThread:
    return LoopThread(LimitedLog(structlog.get_logger()))


def start(loop: LoopThread, block: threading.Event | None = None) -> None:
    """Run a task, which waits for `block`, as no task should."""
    begun = threading.Event()

    async def run() -> None:
        begun.set()
        if block is not None:
            block.wait(PATIENCE_S)

    assert loop.call_soon(lambda: loop.run_task(run(), "owner"))
    assert begun.wait(PATIENCE_S)


def test_no_loop_is_not_a_blocked_one() -> None:
    told: list[object] = []
    watch = LoopWatch(0.05, lambda owner, stack: told.append(owner), ShortSwitches(owns_process=False))
    for _ in range(100):
        watch.tick()
    loop = new_loop()
    watch.watch(loop)
    start(loop)
    loop.end(PATIENCE_S)
    loop.join(PATIENCE_S)
    for _ in range(100):
        watch.tick()
    assert (told, watch.blocked) == ([], 0)


def test_each_time_is_told_once_and_its_length_is_counted(loop: LoopThread) -> None:
    told: list[object] = []
    watch = LoopWatch(0.05, lambda owner, stack: told.append(owner), ShortSwitches(owns_process=False))
    watch.watch(loop)
    for times in (1, 2):
        block = threading.Event()
        start(loop, block)
        before_s = watch.blocked_s
        while watch.blocked < times:
            watch.tick()
        for _ in range(30):
            watch.tick()
        assert told == ["owner"] * times
        assert watch.blocked_s - before_s == pytest.approx(0.05 * (TICKS_UNTIL_BLOCKED + 30))
        block.set()
        start(loop)  # Its answer has come before this one's.
        after_s = watch.blocked_s
        for _ in itertools.repeat(None, 3):
            watch.tick()
        assert watch.blocked_s == after_s


def test_a_loop_that_has_ended_takes_nothing_and_says_so() -> None:
    loop = new_loop()
    loop.end(PATIENCE_S)
    loop.join(PATIENCE_S)

    # Once, the second was told that it was taken.
    assert [loop.call_soon(lambda: None) for _ in range(3)] == [False] * 3


def test_threads_switch_sooner_while_the_loop_takes_long(loop: LoopThread) -> None:
    """Once, a quick call beside async handlers that compute waited for 5 ms at each of its steps."""
    usual_s = sys.getswitchinterval()
    watch = LoopWatch(0.05, lambda owner, stack: None, ShortSwitches(owns_process=True))
    watch.watch(loop)
    block = threading.Event()
    start(loop, block)
    while sys.getswitchinterval() == usual_s:
        watch.tick()
    assert sys.getswitchinterval() == SWITCH_S
    assert not watch.blocked
    for _ in range(30):
        watch.tick()
    assert sys.getswitchinterval() == SWITCH_S
    block.set()
    start(loop)
    for _ in range(2):
        watch.tick()
    assert sys.getswitchinterval() == SWITCH_S  # This answer came late.
    until_s = time.monotonic() + PATIENCE_S
    while sys.getswitchinterval() == SWITCH_S and time.monotonic() < until_s:
        watch.tick()
        time.sleep(0.005)
    assert sys.getswitchinterval() == usual_s
    start(loop, block := threading.Event())
    while sys.getswitchinterval() == usual_s:
        watch.tick()
    watch.watch(None)
    assert sys.getswitchinterval() == usual_s
    block.set()
