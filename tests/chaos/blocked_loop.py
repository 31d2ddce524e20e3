"""Async handlers that block the event loop for far longer than they may."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import grpc

from tests.chaos.load import HANG_S, Figures, Load, stamp_is
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import status_of

HANDLERS = """
import asyncio, time
from coprocess import Pre

@Pre(timeout=0.5)
async def blocks(request): time.sleep(11)

@Pre(timeout=0.5)
async def short(request): await asyncio.sleep(0)

@Pre(timeout=0.5)
async def stops(request): asyncio.get_running_loop().stop()
"""

_BESIDE = 10


def trial(folder: Path, engine: str, rounds: int, *, strict: bool) -> Figures:
    """`strict`: what is behind a blocked loop is answered within a second, and the stop takes 7 s at most."""
    handlers = write(folder / "handlers", a=HANDLERS, good=stamping("good"))
    ends: Counter[str] = Counter()
    slowest_s = slowest_recovery_s = 0.0
    with (
        ServeProcess(handlers, f"--engine={engine}") as service,
        service.client() as client,
        Load(service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.002) as good,
    ):
        for _ in range(rounds):
            since_s = time.monotonic()
            names = ("blocks", *["short"] * _BESIDE)
            calls = [client.future(make_object(hook_name=name), timeout_s=HANG_S) for name in names]
            for call in calls:
                error = call.exception(timeout=2 * HANG_S)
                code = grpc.StatusCode.OK if error is None else status_of(error)[0]
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED), code
                ends[code.name] += 1
            slowest_s = max(slowest_s, time.monotonic() - since_s)
            while client.future(make_object(hook_name="short")).exception(timeout=HANG_S) is not None:
                assert time.monotonic() - since_s < HANG_S, "no other loop took the place"
            slowest_recovery_s = max(slowest_recovery_s, time.monotonic() - since_s)
            assert client.future(make_object(hook_name="stops")).exception(timeout=HANG_S) is None
        good.wait_for(20)
        since_s = time.monotonic()
        last = client.future(make_object(hook_name="blocks"), timeout_s=HANG_S)
        assert last.exception(timeout=HANG_S) is not None
        assert service.end() == 0
        stop_s = time.monotonic() - since_s
    if strict:
        assert slowest_s < 1.0, f"a call was answered after {slowest_s:.2f} s"
        assert stop_s < 7.0, f"the stop took {stop_s:.1f} s"
    return {
        "engine": engine,
        "blocked": rounds + 1,
        "ends": dict(sorted(ends.items())),
        "slowest_answer_s": round(slowest_s, 3),
        "slowest_recovery_s": round(slowest_recovery_s, 2),
        "stop_s": round(stop_s, 2),
        "good_calls": good.answered,
        "good_failed": sum(code is not grpc.StatusCode.UNAVAILABLE for code, _ in good.errors),
    }
