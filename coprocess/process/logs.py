"""Logging: one structured stream, for people or as JSON, in which every line tells of its hook."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from coprocess.api.context import current_call
from coprocess.bounded import LONGEST_VALUE, bounded, cut
from coprocess.error_text import format_error
from coprocess.process.log_text import escape_event
from coprocess.process.log_writer import LogWriter
from coprocess.process.redaction import redact_event
from coprocess.runtime import prints

LogFormat = Literal["auto", "text", "json"]

_trace_ids: Callable[[], dict[str, str]] | None = None
_worker: int | None = None


def add_trace_ids(current: Callable[[], dict[str, str]] | None) -> None:
    """From now on, add to each line what `current` gives for the running code; None: nothing any more."""
    global _trace_ids
    _trace_ids = current


def configure(
    log_format: LogFormat,
    level: str,
    stream: TextIO | None = None,
    *,
    in_background: bool = False,
    worker: int | None = None,
) -> None:
    """Send all logs, structlog's and the standard library's, to `stream` (default: standard error).

    `auto` is text on a terminal and JSON elsewhere. `in_background`: who logs does not wait until it
    is written; `flush` does. So it is with what else goes to standard output and error, then.
    `worker`: the number of this process among several that write one log; each entry names it.
    """
    global _worker
    _worker = worker
    stream = stream or sys.stderr
    _writers.clear()
    if in_background:
        # Python's own write past every format, and past redaction.
        threading.excepthook = _tell_of_thread
        sys.unraisablehook = _tell_of_ignored
        for each in (sys.stdout, stream):
            _writers[each] = LogWriter(each.fileno(), _tell_lost)
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_whose,
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
    handler = _LogHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()], processors=last
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It tells of each header of each call what it does with its bytes.
    logging.getLogger("hpack").setLevel(logging.INFO)
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


def _tell_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        thread = args.thread.name if args.thread is not None else None
        structlog.get_logger("coprocess").error(
            "a thread ended with an exception", thread=thread, exc_info=args.exc_value
        )


def _tell_of_ignored(args: sys.UnraisableHookArgs) -> None:
    # Only what it is called: more of it is code of others, and it may be half gone.
    where = getattr(args.object, "__qualname__", type(args.object).__name__)
    structlog.get_logger("coprocess").error("an exception was ignored", where=where, exc_info=args.exc_value)


def take_turns(lock: Path) -> None:
    """Other processes write to the same log: entries come whole, as whoever writes holds the file `lock`."""
    for writer in _writers.values():
        with suppress(OSError):
            writer.take_turns(lock)


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
_ALWAYS = frozenset(
    {"event", "level", "logger", "timestamp", "hook", "hook_type", "api_id", "worker", "exception"}
)


def _add_whose(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if _worker is not None:
        event.setdefault("worker", _worker)
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
    with prints.capturing(_print):
        yield


def _print(stream: TextIO, text: str) -> None:
    if stream in _writers:
        _write(stream, text)
    else:
        stream.write(text)
