"""How logging is set up, and how it is put back where handler code changes it.

What would silence the service, or write past its redaction, is put back. A handler for a file or an error
tracker that is added stays.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

#: Loggers of the service and of what it stands on, with all below them.
_OURS = ("coprocess", "handler", "asyncio", "grpc", "opentelemetry")
_HANDLER_ATTRIBUTES = ("level", "formatter", "filters", "stream")
_LOGGER_ATTRIBUTES = ("level", "propagate", "handlers", "filters")


class LogState:
    """As it is when this is made."""

    def __init__(self) -> None:
        self._root = logging.getLogger()
        logging.getLogger(_OURS[0])
        self._level = self._root.level
        self._disabled_below = self._root.manager.disable
        self._handlers = list(self._root.handlers)
        self._of_handlers = [_values(handler, _HANDLER_ATTRIBUTES) for handler in self._handlers]
        known = [each for each in self._root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
        self._enabled = [logger for logger in known if not logger.disabled]
        self._ours = [logger for logger in known if logger.name.partition(".")[0] in _OURS]
        self._of_ours = [_values(logger, _LOGGER_ATTRIBUTES) for logger in self._ours]
        self._structlog = structlog.get_config() if structlog.is_configured() else None
        self._make_record = logging.getLogRecordFactory()

    def mend(self) -> list[str]:
        """Put back what changed since; what that was, for people."""
        mended = []
        if self._mend_root():
            mended.append("the handlers of the root logger")
        if self._root.level != self._level:
            self._root.setLevel(self._level)
            mended.append("the level of the root logger")
        if self._root.manager.disable != self._disabled_below:
            logging.disable(self._disabled_below)
            mended.append("logging.disable")
        # One that raises would silence all; one that calls the one before it would grow with each reload.
        if logging.getLogRecordFactory() is not self._make_record:
            logging.setLogRecordFactory(self._make_record)
            mended.append("what makes log records")
        if self._mend_loggers():
            mended.append("loggers of the service")
        if self._mend_structlog():
            mended.append("the configuration of structlog")
        return mended

    def _mend_root(self) -> bool:
        root, before = self._root, self._handlers
        added = [handler for handler in root.handlers if handler not in before]
        wanted = [*before, *(handler for handler in added if not _is_console(handler))]
        mended = list(root.handlers) != wanted
        if mended:
            # In one step: other threads log meanwhile.
            root.handlers[:] = wanted
        for handler, values in zip(before, self._of_handlers, strict=True):
            mended |= _put_back(handler, values)
        return mended

    def _mend_loggers(self) -> bool:
        mended = False
        for logger, values in zip(self._ours, self._of_ours, strict=True):
            mended |= _put_back(logger, values)
        if any(logger.disabled for logger in self._ours if logger in self._enabled):
            mended = True
            # Whoever disables ours disables all there are, other folders' too: that is dictConfig's default.
            for logger in self._enabled:
                logger.disabled = False
        if mended:
            # Loggers remember which levels are on; setting one forgets that.
            self._root.setLevel(self._root.level)
        return mended

    def _mend_structlog(self) -> bool:
        now = structlog.get_config() if structlog.is_configured() else None
        if now is None and self._structlog is None:
            return False
        if self._structlog is None:
            structlog.reset_defaults()
            return True
        if now is not None and all(now[name] is value for name, value in self._structlog.items()):
            return False
        structlog.configure(**self._structlog)
        return True


def _values(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}


def _put_back(thing: Any, values: dict[str, Any]) -> bool:
    changed = {name: value for name, value in values.items() if getattr(thing, name, None) != value}
    for name, value in changed.items():
        setattr(thing, name, list(value) if isinstance(value, list) else value)
    return bool(changed)


def _is_console(handler: logging.Handler) -> bool:
    """Whether it writes to standard output or error, where the service's own log goes."""
    if not isinstance(handler, logging.StreamHandler):
        return False
    if any(handler.stream is each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return True
    try:
        return handler.stream.fileno() in (1, 2)
    except (OSError, ValueError, AttributeError):  # A stream that is no file.
        return False
