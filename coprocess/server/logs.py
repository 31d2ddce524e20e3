"""Logging: one structured stream, for people or as JSON, in which every line tells of its hook."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from coprocess.context import CallContext, current_call
from coprocess.server.log_text import escape_event
from coprocess.server.redaction import redact_event
from coprocess.streams import StandIn

LogFormat = Literal["auto", "text", "json"]

handler_output = logging.getLogger("handler.output")

_trace_ids: Callable[[], dict[str, str]] | None = None


def add_trace_ids(current: Callable[[], dict[str, str]] | None) -> None:
    """From now on, add to each line what `current` gives for the running code; None: nothing any more."""
    global _trace_ids
    _trace_ids = current


def configure(log_format: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Send all logs, structlog's and the standard library's, to `stream` (default: standard error).

    `auto` is text on a terminal and JSON elsewhere.
    """
    stream = stream or sys.stderr
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_call,
    ]
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact_event,
    ]
    if as_json:
        last.append(structlog.processors.JSONRenderer())
    else:
        last += [
            escape_event,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    # gRPC's core writes to standard error itself, past every format. What matters of it is raised, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.getLogger("pygrpc_native").addFilter(_is_not_raised_too)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()], processors=last
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    return "could not bind" not in record.getMessage()


def _add_call(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    call = current_call.get()
    if call is not None:
        event.setdefault("hook", call.hook_name)
        event.setdefault("hook_type", call.hook_type)
        event.setdefault("api_id", call.api_id)
        if call.version:
            event.setdefault("version", call.version)
    if _trace_ids is not None and "trace_id" not in event:
        event.update(_trace_ids())
    return event


@contextmanager
def capturing_prints() -> Iterator[None]:
    """Log what handlers print, a line an entry; other code prints as usual."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Captured(stdout, logging.INFO), _Captured(stderr, logging.WARNING)
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

_LONGEST_LINE = 16_384


def end_line() -> None:
    """Log what was printed in this thread or task without a line's end. For when a call has ended."""
    if not _Captured.has_held:
        return
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

    #: Whether anything was ever printed: most services' handlers never do, and every call asks.
    has_held = False

    def __init__(self, original: TextIO, level: int) -> None:
        super().__init__(original)
        self._level = level

    def write(self, text: str) -> int:
        _Captured.has_held = True
        call = current_call.get()
        # Logging that fails says so on standard error: not to the log again.
        if call is None or getattr(_thread, "is_logging", False):
            return self._original.write(text)
        held = _unfinished[self._level].get()
        if held is not None and held[0] is not call:
            # Another call's: it ended in the middle of a line.
            _end_line(self._level)
            held = None
        *lines, rest = ((held[1] if held else "") + text).split("\n")
        for line in lines:
            _log(self._level, call, line)
        _unfinished[self._level].set((call, rest) if rest else None)
        if len(rest) > _LONGEST_LINE:
            _end_line(self._level)
        return len(text)
