"""Worker processes that end as soon as they start: one while another serves, and then all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from coprocess.gateways.tyk.wire import Object
from coprocess.process.restarts import MANY
from tests.chaos.load import HANG_S, Figures, Load
from tests.objects import make_object
from tests.serve_process import ServeProcess, write

CODE = """
import os, pathlib, time
from coprocess import Pre

here = pathlib.Path({here!r})
with open(here / "starts", "a") as file:
    file.write(".")
if (here / "broken").exists():
    os._exit(7)

@Pre
def pid(request):
    request.headers["X-Pid"] = str(os.getpid())
"""

_ONE_LOOPS_S = 10.0


def trial(folder: Path, engine: str) -> Figures:
    """Starts become fewer; no call fails while one serves; once none does, the service ends with a reason."""
    handlers = write(folder / "handlers", a=CODE.format(here=str(folder)))
    seen: set[int] = set()

    def judge(sent: Any, reply: Object) -> None:
        seen.add(int(reply.request.set_headers["X-Pid"]))

    with ServeProcess(handlers, f"--engine={engine}", "--workers=2") as service:
        message = make_object(hook_name="pid")
        with Load(service.address, message, judge=judge, pause_s=0.005) as load:
            until_s = time.monotonic() + HANG_S
            while len(seen) < 2:
                assert time.monotonic() < until_s, f"only {seen} answer"
                time.sleep(0.01)
            (folder / "broken").touch()
            victim, other = seen
            before = _starts(folder)
            os.kill(victim, signal.SIGKILL)
            load.wait_for(50)
            failed = len(load.errors)
            time.sleep(_ONE_LOOPS_S)
            starts = _starts(folder) - before
            assert 1 <= starts <= MANY, f"{starts} starts in {_ONE_LOOPS_S:g} s"
            assert len(load.errors) == failed, load.errors[failed:]
        os.kill(other, signal.SIGKILL)
        since_s = time.monotonic()
        assert service.process.wait(6 * HANG_S) == 1, "not the exit status of a failure"
        ended_s = time.monotonic() - since_s
    told = [line["event"] for line in service.lines if "no worker process can run" in line["event"]]
    assert told, "nothing tells why the service ended"
    return {
        "engine": engine,
        "answered": load.answered,
        "failed_with_their_worker": len(load.errors),
        "looped_s": _ONE_LOOPS_S,
        "starts_of_one": starts,
        "starts": _starts(folder) - before,
        "ended_after_s": round(ended_s, 1),
        "reason": told[0],
    }


def _starts(folder: Path) -> int:
    return len((folder / "starts").read_text())
