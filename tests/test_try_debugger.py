"""`breakpoint()` in a handler that `coprocess try` runs: the debugger has the terminal, without a limit."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests import forked
from tests.loading import write
from tests.server import PATIENCE_S

_HANDLER = """from coprocess import Pre, Request
@Pre(timeout=0.5)
{prefix}def stopped(request: Request) -> None:
    print("before")
    {stop}
    {rest}
    request.headers["X-After"] = "1"
"""


def debugged(folder: Path, answers: list[bytes], **variables: str) -> tuple[int, str]:
    """`coprocess try` at a terminal: an answer whenever the debugger asks. Status and what was shown."""
    terminal, inner = os.openpty()
    process = forked.Process(
        [sys.executable, "-m", "coprocess", "try", "GET", "/"],
        cwd=folder,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**os.environ, "TERM": "dumb", **variables},
    )
    os.close(inner)
    shown = b""
    waiting = list(answers)
    asked = 0
    try:
        while part := os.read(terminal, 65536):
            shown += part
            if waiting and shown.count(b"(Pdb) ") > asked:
                asked += 1
                # Longer than the handler's time limit.
                time.sleep(0.7)
                os.write(terminal, waiting.pop(0))
    except OSError:  # At its end, a terminal is not empty but broken.
        pass
    finally:
        os.close(terminal)
    return process.wait(PATIENCE_S), shown.decode()


@pytest.mark.parametrize("stop", ["breakpoint()", "import pdb; pdb.set_trace()"])
@pytest.mark.parametrize(
    ("prefix", "rest"), [("", "pass"), ("async ", "import asyncio; await asyncio.sleep(0.01)")]
)
def test_a_breakpoint_stops_at_the_terminal(stop: str, prefix: str, rest: str, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": _HANDLER.format(prefix=prefix, stop=stop, rest=rest)})

    status, shown = debugged(tmp_path, [b"p request.method + '-seen'\n", b"c\n"])

    assert "'GET-seen'" in shown
    # It stops in the handler, and not in what called the debugger.
    assert "handlers/a.py(" in shown
    assert "X-After: 1" in shown
    assert status == 0


def test_a_breakpoint_that_is_switched_off(tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": _HANDLER.format(prefix="", stop="breakpoint()", rest="pass")})

    status, shown = debugged(tmp_path, [], PYTHONBREAKPOINT="0")

    assert status == 0
    assert "(Pdb)" not in shown
    assert "| before" in shown


def test_without_a_breakpoint_the_limit_holds(tmp_path: Path) -> None:
    stop = "import time; time.sleep(0.6)"
    write(tmp_path, {"handlers/a.py": _HANDLER.format(prefix="", stop=stop, rest="pass")})

    status, shown = debugged(tmp_path, [])

    assert status == 1
    assert "took longer than 0.5 s" in shown
