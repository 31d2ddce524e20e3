"""What handlers print: it becomes entries of the log, which know their call."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from coprocess.api.context import CallContext, current_call
from coprocess.bounded import LONGEST_VALUE, cut
from coprocess.streams import StandIn

handler_output = logging.getLogger("handler.output")


@contextmanager
def capturing(outside: Callable[[TextIO, str], object]) -> Iterator[None]:
    """Log what handlers print, a line an entry. What other code prints goes to `outside`, with the stream."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout = _Captured(stdout, logging.INFO, outside)
    sys.stderr = _Captured(stderr, logging.WARNING, outside)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr


#: By level: the call that printed, and the line that it has not ended yet.
_unfinished: dict[int, ContextVar[tuple[CallContext, str] | None]] = {
    level: ContextVar(f"coprocess_unfinished_line_{level}", default=None)
    for level in (logging.INFO, logging.WARNING)
}
_thread = threading.local()
#: Whether anything was ever printed: most services' handlers never do, and every call asks.
has_printed = False

_LONGEST_LINE = LONGEST_VALUE
_MOST_PIECES = 4


def end_line() -> None:
    """Log what was printed in this thread or task without a line's end. For when a call has ended.

    To be called where `has_printed`.
    """
    for level in _unfinished:
        _end_line(level)


def _end_line(level: int) -> None:
    held = _unfinished[level].get()
    if held is not None:
        _unfinished[level].set(None)
        _log(level, *held)


def _log(level: int, call: CallContext, line: str) -> None:
    token = current_call.set(call)
    _thread.is_logging = True
    try:
        handler_output.log(level, "%s", line)
    finally:
        _thread.is_logging = False
        current_call.reset(token)


class _Captured(StandIn):
    """Standard output or error, as handlers see it."""

    def __init__(self, original: TextIO, level: int, outside: Callable[[TextIO, str], object]) -> None:
        super().__init__(original)
        self._level = level
        self._outside = outside

    def write(self, text: str) -> int:
        global has_printed
        has_printed = True
        call = current_call.get()
        # Logging that fails says so on standard error: not to the log again.
        if call is None or getattr(_thread, "is_logging", False):
            self._outside(self._original, text)
            return len(text)
        held = _unfinished[self._level].get()
        if held is not None and held[0] is not call:
            # Another call's: it ended in the middle of a line.
            _end_line(self._level)
            held = None
        *lines, rest = ((held[1] if held else "") + text).split("\n")
        for line in lines:
            for piece in _pieces(line) or [line]:
                _log(self._level, call, piece)
        if len(rest) > _LONGEST_LINE:
            *pieces, rest = _pieces(rest)
            for piece in pieces:
                _log(self._level, call, piece)
        _unfinished[self._level].set((call, rest) if rest else None)
        return len(text)


def _pieces(line: str) -> list[str]:
    """`line`, cut where it is endless."""
    kept = cut(line, _MOST_PIECES * _LONGEST_LINE)
    return [kept[start : start + _LONGEST_LINE] for start in range(0, len(kept), _LONGEST_LINE)]
