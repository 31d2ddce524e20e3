"""Logging: one structured stream, for people or as JSON, in which every line tells of its hook."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from coprocess.api.context import CallContext, current_call
from coprocess.bounded import LONGEST_VALUE, bounded, cut
from coprocess.error_text import format_error
from coprocess.process.log_text import escape_event
from coprocess.process.log_writer import LogWriter
from coprocess.process.redaction import redact_event
from coprocess.streams import StandIn

LogFormat = Literal["auto", "text", "json"]

handler_output = logging.getLogger("handler.output")

_trace_ids: Callable[[], dict[str, str]] | None = None


def add_trace_ids(current: Callable[[], dict[str, str]] | None) -> None:
    """From now on, add to each line what `current` gives for the running code; None: nothing any more."""
    global _trace_ids
    _trace_ids = current


def configure(
    log_format: LogFormat, level: str, stream: TextIO | None = None, *, in_background: bool = False
) -> None:
    """Send all logs, structlog's and the standard library's, to `stream` (default: standard error).

    `auto` is text on a terminal and JSON elsewhere. `in_background`: who logs does not wait until it
    is written; `flush` does. So it is with what else goes to standard output and error, then.
    """
    stream = stream or sys.stderr
    _writers.clear()
    if in_background:
        for each in (sys.stdout, stream):
            _writers[each] = LogWriter(each.fileno(), _tell_lost)
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_call,
        # What a handler has bound. After the others: it cannot pass for another hook.
        structlog.contextvars.merge_contextvars,
    ]
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _format_exception,
        _cut_event,
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
    handler = _LogHandler(stream)
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


class _LogHandler(logging.Handler):
    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the lock that logging has for it: an entry may take long to put together, as it has parts
        # of a handler's own making.
        if self.filter(record):
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write(self._stream, f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - as logging's own handlers do: it must not fail who logs
            self.handleError(record)


#: What writes to a stream in the background; empty: nothing does.
_writers: dict[TextIO, LogWriter] = {}


def _write(stream: TextIO, text: str) -> None:
    writer = _writers.get(stream)
    if writer is not None:
        writer.write(text)
        return
    stream.write(text)
    stream.flush()


def _tell_lost(count: int) -> None:
    structlog.get_logger("coprocess").warning(
        "log entries were lost, as nobody read them in time", lost=count
    )


def lost_entries() -> int:
    """How many log entries were never written, so far."""
    return sum(writer.lost for writer in _writers.values())


def flush(timeout_s: float) -> None:
    """Wait until what was logged is written, `timeout_s` at most."""
    until_s = time.monotonic() + timeout_s
    for writer in list(_writers.values()):
        writer.flush(max(0.0, until_s - time.monotonic()))


def _format_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = format_error(error)
    return event


_MOST_FIELDS = 100


def _cut_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Before redaction, which reads through all of it."""
    kept: EventDict = {}
    for number, (key, value) in enumerate(event.items()):
        longest = LONGEST_VALUE if number < _MOST_LONG_FIELDS or key in _ALWAYS else _LONGEST_OF_MANY
        if number < _MOST_FIELDS or key in _ALWAYS:
            kept[cut(key, _LONGEST_OF_MANY)] = bounded(value, longest)
    return kept


_MOST_LONG_FIELDS = 10
_LONGEST_OF_MANY = 200
_ALWAYS = frozenset({"event", "level", "logger", "timestamp", "hook", "hook_type", "api_id", "exception"})


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

_LONGEST_LINE = LONGEST_VALUE
_MOST_PIECES = 4


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
            if self._original in _writers:
                _write(self._original, text)
                return len(text)
            return self._original.write(text)
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
