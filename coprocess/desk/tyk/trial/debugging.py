"""`breakpoint()` in a handler that is tried: the debugger has the terminal, and time stands still."""

from __future__ import annotations

import asyncio
import os
import pdb
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

#: The time limit of the coroutine that runs.
limit_of_coroutine: ContextVar[asyncio.Timeout | None] = ContextVar("coprocess_trial_limit", default=None)

_was_used = False


def was_used() -> bool:
    """Whether a debugger ran since `debugger_at_terminal`: how long handlers take says nothing then."""
    return _was_used


@contextmanager
def debugger_at_terminal(stdout: TextIO, stderr: TextIO) -> Iterator[None]:
    """While it is on, `breakpoint()` and `pdb.set_trace()` put these streams back, and lift time limits."""
    global _was_used
    _was_used = False

    def begin() -> None:
        global _was_used
        _was_used = True
        sys.stdout, sys.stderr = stdout, stderr
        if (limit := limit_of_coroutine.get()) is not None and not limit.expired():
            limit.reschedule(None)

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
