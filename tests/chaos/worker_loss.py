"""kill -9 of one of several worker processes under load; each has a forked child, which outlives it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from coprocess.gateways.tyk.wire import Object
from tests.chaos.load import HANG_S, Figures, Load
from tests.objects import make_object
from tests.serve_process import ServeProcess, write

PID = """
import os, time
from coprocess import Pre

children = []

@Pre
def pid(request):
    if not children:
        parent = os.getpid()
        child = os.fork()
        children.append(child)  # Another thread may have forked, too.
        if not child:
            os.closerange(1, 3)  # Who reads the log reads it to its end.
            while os.getppid() == parent:
                time.sleep(0.1)
            time.sleep(5)
            os._exit(0)
    time.sleep(0.003)
    request.headers["X-Pid"] = str(os.getpid())
"""

_CONNECTIONS = 8


def trial(folder: Path, engine: str, kills: int) -> Figures:
    """Only calls that the killed worker had fail, with UNAVAILABLE; the other serves on; it is replaced."""
    handlers = write(folder / "handlers", a=PID)
    seen: set[int] = set()
    slowest_s = 0.0

    def judge(sent: Any, reply: Object) -> None:
        seen.add(int(reply.request.set_headers["X-Pid"]))

    def both() -> set[int]:
        """The processes that answer now, when there are two."""
        seen.clear()
        until_s = time.monotonic() + HANG_S
        while len(seen) < 2:
            assert time.monotonic() < until_s, f"only {seen} answer"
            time.sleep(0.01)
        return seen.copy()

    with ServeProcess(handlers, f"--engine={engine}", "--workers=2") as service:
        message = make_object(hook_name="pid")
        with Load(service.address, message, connections=_CONNECTIONS, judge=judge) as load:
            for _ in range(kills):
                victim = both().pop()
                failed = len(load.errors)
                os.kill(victim, signal.SIGKILL)
                since_s = time.monotonic()
                load.wait_for(50)
                while victim in both():  # What it had answered before may be looked at late.
                    assert time.monotonic() - since_s < HANG_S, "the dead answer"
                slowest_s = max(slowest_s, time.monotonic() - since_s)
                # A connection has one call at a time, so that many can have been in the worker.
                assert len(load.errors) - failed <= _CONNECTIONS, load.errors[failed:]
        assert service.end() == 0
    ends = Counter(code.name for code, _ in load.errors)
    assert {code for code, _ in load.errors} <= {grpc.StatusCode.UNAVAILABLE}, load.errors
    assert load.answered >= 50 * kills
    return {
        "engine": engine,
        "kills": kills,
        "answered": load.answered,
        "failed_with_their_worker": dict(ends),
        "slowest_replacement_s": round(slowest_s, 2),
    }
