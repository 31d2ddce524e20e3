"""What handlers print and log, kept for the run that it belongs to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import structlog

from coprocess.desk.debugging import debugger_at_terminal
from coprocess.streams import StandIn

#: Where output goes that is made now; None: where it would go anyway. A coroutine inherits it.
_sink: ContextVar[list[str] | None] = ContextVar("coprocess_trial_output", default=None)


@contextmanager
def collecting_output() -> Iterator[list[str]]:
    """The text that is printed and logged within, if `captured_streams` is on; threads of its own aside."""
    parts: list[str] = []
    token = _sink.set(parts)
    try:
        yield parts
    finally:
        _sink.reset(token)


@contextmanager
def captured_streams(level: int = logging.INFO) -> Iterator[None]:
    """While it is on, `collecting_output` collects. Log records count from `level` on."""
    stdout, stderr = sys.stdout, sys.stderr
    root = logging.getLogger()
    handler, root_level = _LogHandler(level), root.level
    sys.stdout, sys.stderr = _Stream(stdout), _Stream(stderr)
    root.addHandler(handler)
    root.setLevel(level)
    try:
        with debugger_at_terminal(stdout, stderr):
            yield
    finally:
        root.setLevel(root_level)
        root.removeHandler(handler)
        sys.stdout, sys.stderr = stdout, stderr


class _LogHandler(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        parts = _sink.get()
        if parts is not None:
            parts.append(f"{self.format(record)}\n")
        elif record.levelno >= logging.WARNING:
            # As logging itself does where nobody has set it up.
            sys.stderr.write(f"{record.getMessage()}\n")


class _Stream(StandIn):
    def write(self, text: str) -> int:
        parts = _sink.get()
        if parts is None:
            return self._original.write(text)
        parts.append(text)
        return len(text)


def silent_logger() -> Any:
    """One that drops what it is given."""
    return structlog.wrap_logger(None, [_drop])


def _drop(*entry: object) -> NoReturn:
    raise structlog.DropEvent
