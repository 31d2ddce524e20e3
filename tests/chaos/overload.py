"""More calls of one hook than it may run and queue."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path

import grpc

from tests.chaos.load import HANG_S, Figures, Load, stamp_is
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import status_of

SLOW = """
import asyncio, time
from coprocess import Pre

@Pre(concurrency=4)
def slow(request): time.sleep(0.3)

@Pre(concurrency=4)
async def slow_async(request): await asyncio.sleep(0.3)
"""

_QUEUE = 8
_OFFERED = 100
_SHED, _OK = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK


def _note_time(answered_s: dict[object, float], call: object) -> None:
    answered_s[call] = time.monotonic()


def trial(folder: Path, engine: str, rounds: int, *, strict: bool) -> Figures:
    """`strict`: what is refused is refused within 0.25 s, before any of the calls that run ends."""
    handlers = write(folder / "handlers", slow=SLOW, good=stamping("good"))
    ends: Counter[str] = Counter()
    slowest_refusal_s = 0.0
    with (
        ServeProcess(handlers, f"--engine={engine}", f"--queue-size={_QUEUE}") as service,
        service.client() as client,
        Load(service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.002) as good,
    ):
        good.wait_for(20)
        for number in range(rounds):
            hook = ("slow", "slow_async")[number % 2]
            answered_s: dict[object, float] = {}
            since_s = time.monotonic()
            calls = [client.future(make_object(hook_name=hook), timeout_s=HANG_S) for _ in range(_OFFERED)]
            for call in calls:
                call.add_done_callback(partial(_note_time, answered_s))
            for call in calls:
                error = call.exception(timeout=2 * HANG_S)
                code, text = (_OK, "") if error is None else status_of(error)
                assert code in (_OK, _SHED), f"a call of {hook} ended with {code.name}: {text}"
                assert code is _OK or "overloaded" in text, text
                ends[code.name] += 1
            refused_s = [answered_s.get(call, since_s) - since_s for call in calls if call.code() is _SHED]
            slowest_refusal_s = max(slowest_refusal_s, *refused_s)
        good.wait_for(20)
        page = service.http("GET", "/metrics")[1]
    good.check(40)
    least = rounds * (4 + _QUEUE)
    assert ends["OK"] >= least, f"{ends['OK']} calls were taken, there was room for {least}"
    assert ends["RESOURCE_EXHAUSTED"] > 0, ends
    counted = sum(float(line.split()[-1]) for line in page.splitlines() if 'reason="shed"' in line)
    assert counted == ends["RESOURCE_EXHAUSTED"], f"{counted:g} were counted: {ends}"
    if strict:
        assert slowest_refusal_s < 0.25, f"a call was refused after {slowest_refusal_s:.2f} s"
    return {
        "engine": engine,
        "offered": rounds * _OFFERED,
        "ends": dict(sorted(ends.items())),
        "slowest_refusal_s": round(slowest_refusal_s, 3),
        "good_calls": good.answered,
        "good_failed": len(good.errors),
    }
