"""One of several worker processes hangs under load; then the whole service is stopped for a while."""

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

CODE = """
import ctypes, os
from coprocess import Pre

@Pre
def pid(request):
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def holds_the_interpreter(request):
    ctypes.PyDLL(None).sleep(3600)
"""

_CONNECTIONS = 8
_SILENCE_S = 2.0
_PAUSE_S = 6.0


def trial(folder: Path, engine: str, hangs: int) -> Figures:
    """Stopped, or held, in turn: only calls that the worker had fail, with UNAVAILABLE; it is replaced.

    Calls of 100 kB, some of which are given up early; the admin pages answer all the time.
    """
    handlers = write(folder / "handlers", a=CODE)
    seen: set[int] = set()
    slowest_s = slowest_page_s = 0.0

    def judge(sent: Any, reply: Object) -> None:
        seen.add(int(reply.request.set_headers["X-Pid"]))

    flags = (f"--engine={engine}", "--workers=2", f"--worker-silence-s={_SILENCE_S:g}")
    with ServeProcess(handlers, *flags) as service, service.client() as client:
        message = make_object(hook_name="pid")
        message.request.body = "x" * 100_000

        def both() -> set[int]:
            seen.clear()
            until_s = time.monotonic() + HANG_S
            while len(seen) < 2:
                assert time.monotonic() < until_s, f"only {seen} answer"
                time.sleep(0.01)
            return seen.copy()

        load = Load(service.address, message, connections=_CONNECTIONS, judge=judge, pause_s=0.002)
        with load:
            for number in range(hangs):
                before = both()
                failed = len(load.errors)
                held = []
                if number % 2:
                    held = [client.future(make_object(hook_name="holds_the_interpreter"), timeout_s=HANG_S)]
                else:
                    os.kill(next(iter(before)), signal.SIGSTOP)
                since_s = time.monotonic()
                given_up = [client.future(message, timeout_s=0.1) for _ in range(50)]
                while not _is_replaced(service, number + 1):
                    page_since_s = time.monotonic()
                    assert service.http("GET", "/metrics")[0] == 200
                    slowest_page_s = max(slowest_page_s, time.monotonic() - page_since_s)
                    assert time.monotonic() - since_s < HANG_S, "it was not replaced"
                    time.sleep(0.2)
                slowest_s = max(slowest_s, time.monotonic() - since_s)
                assert {call.exception(timeout=HANG_S) is None for call in held} <= {False}
                for call in given_up:
                    call.exception(timeout=HANG_S)
                # A connection has one call at a time, so that many can have been in the worker.
                assert len(load.errors) - failed <= _CONNECTIONS, load.errors[failed:]
            failed, kills = len(load.errors), _count(service, "coprocess_worker_kills_total")
            pids = [service.process.pid, *both()]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(_PAUSE_S)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            load.wait_for(50)
            assert _count(service, "coprocess_worker_kills_total") == kills, "killed, though all were stopped"
            assert len(load.errors) == failed, load.errors[failed:]
        assert service.end() == 0
    ends = Counter(code.name for code, _ in load.errors)
    assert {code for code, _ in load.errors} <= {grpc.StatusCode.UNAVAILABLE}, load.errors
    return {
        "engine": engine,
        "hangs": hangs,
        "silence_s": _SILENCE_S,
        "answered": load.answered,
        "failed_with_their_worker": dict(ends),
        "slowest_replacement_s": round(slowest_s, 2),
        "slowest_page_s": round(slowest_page_s, 2),
        "pause_s": _PAUSE_S,
    }


def _is_replaced(service: ServeProcess, kills: int) -> bool:
    return (
        _count(service, "coprocess_worker_kills_total") >= kills
        and _count(service, "coprocess_workers_ready") == 2
    )


def _count(service: ServeProcess, metric: str) -> int:
    page = service.http("GET", "/metrics")[1]
    return next(int(float(line.split()[1])) for line in page.splitlines() if line.startswith(f"{metric} "))
