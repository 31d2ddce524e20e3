"""`breakpoint()` in a handler that is tried: the debugger has the terminal, and time stands still."""

from __future__ import annotations

import math
import os
import pdb
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from coprocess.api.context import current_call
from coprocess.runtime.call import Call


@contextmanager
def debugger_at_terminal(stdout: TextIO, stderr: TextIO) -> Iterator[None]:
    """While it is on, `breakpoint()` and `pdb.set_trace()` put these streams back, and lift time limits."""

    def begin() -> None:
        sys.stdout, sys.stderr = stdout, stderr
        if isinstance(call := current_call.get(), Call):
            call.deadline_s = math.inf

    def breakpoint_hook(*arguments: Any, **words: Any) -> Any:
        chosen = os.environ.get("PYTHONBREAKPOINT", "")
        if chosen == "0":
            return None
        begin()
        if chosen:
            return original_hook(*arguments, **words)
        return _debug(sys._getframe(1), words.get("header"))

    def set_trace(*, header: str | None = None, **_: Any) -> None:
        begin()
        _debug(sys._getframe(1), header)

    original_hook, original_set_trace = sys.breakpointhook, pdb.set_trace
    sys.breakpointhook = breakpoint_hook
    pdb.set_trace = set_trace
    try:
        yield
    finally:
        sys.breakpointhook, pdb.set_trace = original_hook, original_set_trace


def _debug(frame: Any, header: str | None) -> None:
    debugger = pdb.Pdb()
    if header is not None:
        debugger.message(header)
    debugger.set_trace(frame)
