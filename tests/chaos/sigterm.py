"""SIGTERM under full load."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc

from tests.chaos.load import Figures, Load, stamp_is
from tests.objects import make_object
from tests.serve_process import ServeProcess, write

COUNTING = """
import os, time
from coprocess import Pre

begun = os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@Pre
def stamp(request):
    os.write(begun, b".")
    time.sleep(0.003)
    request.headers["X-Stamp"] = "done"
"""

#: How calls may end that were not taken. grpcio cancels what came when it had stopped looking for calls.
REFUSED = {"http2": {grpc.StatusCode.UNAVAILABLE}}
REFUSED["grpcio"] = REFUSED["http2"] | {grpc.StatusCode.CANCELLED}


def trial(folder: Path, engine: str, stops: int, *, flags: Sequence[str] = ()) -> Figures:
    """Every call whose handler began is answered; the others are refused."""
    begun = folder / "begun"
    handlers = write(folder / "handlers", a=COUNTING.format(path=str(begun)))
    answered, slowest_s, ends = 0, 0.0, Counter[str]()
    for _ in range(stops):
        begun.unlink(missing_ok=True)
        with ServeProcess(handlers, f"--engine={engine}", "--drain-s=0", *flags) as service:
            with Load(
                service.address,
                make_object(hook_name="stamp"),
                connections=8,
                judge=stamp_is("done"),
                until_refused=True,
            ) as load:
                load.wait_for(60)
                since_s = time.monotonic()
                status = service.end()
                slowest_s = max(slowest_s, time.monotonic() - since_s)
            assert status == 0, f"exit status {status}"
            assert not load.wrong, load.wrong
            assert load.answered == begun.stat().st_size, (
                f"{begun.stat().st_size} calls began, {load.answered} were answered: {load.errors}"
            )
            codes = {code for code, _ in load.errors}
            assert codes <= REFUSED[engine], f"refused with {codes}"
            answered += load.answered
            ends.update(code.name for code, _ in load.errors)
    return {
        "engine": engine,
        "stops": stops,
        "calls_begun_and_answered": answered,
        "lost": 0,
        "refused": dict(sorted(ends.items())),
        "slowest_stop_s": round(slowest_s, 2),
    }
