"""A service whose standard error nobody reads, under handlers that print and fail."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import grpc

from tests import forked
from tests.chaos.load import HANG_S, Figures, Load, stamp_is
from tests.objects import make_object
from tests.serve_process import stamping, write
from tests.server import Client, status_of

HANDLERS = """
import asyncio, time
from coprocess import Pre

@Pre
def prints(request):
    for _ in range(100): print("x" * 1000)

@Pre
def raises(request): raise ValueError("x" * 2**20)

@Pre(timeout=0.2)
def overruns(request): time.sleep(1)

@Pre(timeout=0.2)
async def overruns_async(request): await asyncio.sleep(60)
"""

_OK, _INTERNAL, _TOO_LONG = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_EXPECTED = {"prints": _OK, "raises": _INTERNAL, "overruns": _TOO_LONG, "overruns_async": _TOO_LONG}


def trial(folder: Path, engine: str, rounds: int) -> Figures:
    handlers = write(folder / "handlers", a=HANDLERS, good=stamping("good"))
    address = f"unix:{folder / 'listen'}"
    words = ["serve", f"--handlers={handlers}", f"--listen={address}", "--admin=off", f"--engine={engine}"]
    ends: Counter[str] = Counter()
    slowest_s = 0.0
    with forked.Process(
        [sys.executable, "-m", "coprocess", *words, "--redis=redis://127.0.0.1:1/0"],
        cwd=folder,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            with Client(address) as client:
                grpc.channel_ready_future(client.channel).result(HANG_S)
                load = Load(address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.002)
                with load as good:
                    for _ in range(rounds):
                        for name, expected in _EXPECTED.items():
                            since_s = time.monotonic()
                            error = client.future(make_object(hook_name=name)).exception(timeout=HANG_S)
                            code = _OK if error is None else status_of(error)[0]
                            assert code is expected, f"{name} ended with {code.name}"
                            ends[code.name] += 1
                            slowest_s = max(slowest_s, time.monotonic() - since_s)
                    good.wait_for(20)
            process.terminate()
            assert process.wait(HANG_S) == 0, "the service did not end well"
        finally:
            process.kill()
    good.check(20)
    return {
        "engine": engine,
        "rounds": rounds,
        "ends": dict(sorted(ends.items())),
        "slowest_answer_s": round(slowest_s, 3),
        "good_calls": good.answered,
        "good_failed": len(good.errors),
    }
