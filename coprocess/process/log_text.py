"""Entries of the log for people: one line each, of what a terminal shows and does not obey.

Handlers log what callers sent. An escape sequence would be obeyed by who reads the log, a mark of writing
direction would show it in another order, and a line's end would make a line that looks like one of ours.
"""

from __future__ import annotations

from typing import Any

from structlog.typing import EventDict, WrappedLogger

from coprocess.text import block, printable

#: The renderer shows these as they are.
_BARE = ("event", "level", "logger", "logger_name", "timestamp")
#: What else has several lines.
_BLOCKS = ("exception", "stack")
#: With one of these in it, a value is shown as its `repr`, which has escapes already.
_QUOTED = frozenset(" \t=\r\n\"'")


def escape_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The log processor, before an entry is rendered as text."""
    return {_name(name): _value(name, value) for name, value in event.items()}


def _name(name: str) -> str:
    return repr(name) if _QUOTED.intersection(name) else printable(name)


def _value(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name in _BLOCKS:
        return block(value)
    return printable(value) if name in _BARE or not _QUOTED.intersection(value) else value
