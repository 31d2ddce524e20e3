"""What a plugin logs, told to Kong's own log at its level, where the operator wants it there.

Kong takes each line of a plugin server's standard error as one of level info. What must be seen at another
level it takes as PDK calls only: so lines are kept until the event's next one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from coprocess.bounded import cut
from coprocess.error_text import name_of
from coprocess.gateways.kong.answers import StepFailed
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.methods import Method
from coprocess.gateways.kong.turns import EventEnded
from coprocess.text import printable

#: Of one event; what it logs beyond stands on standard error alone, as all of it does.
_MOST_LINES: Final = 20
_LONGEST_LINE: Final = 2000
_METHODS: Final = (
    (logging.CRITICAL, Method("kong.log.crit")),
    (logging.ERROR, Method("kong.log.err")),
    (logging.WARNING, Method("kong.log.warn")),
)
_ERROR: Final = Method("kong.log.err")
#: Of the event that runs: what is to be told.
_lines: ContextVar[list[tuple[Method, str]] | None] = ContextVar("coprocess_kong_lines", default=None)


class _Listener(logging.Handler):
    """Keeps what plugins log, from warnings on: what is less, Kong has at the right level already."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        lines = _lines.get()
        if lines is None or len(lines) >= _MOST_LINES or record.name == "coprocess":
            return
        try:
            text = _text_of(record)
        except Exception:  # noqa: BLE001 - as logging's own handlers do: it must not fail who logs
            self.handleError(record)
            return
        lines.append((next(method for level, method in _METHODS if record.levelno >= level), text))


def _text_of(record: logging.LogRecord) -> str:
    # structlog makes records of a dict.
    text = record.msg.get("event", "") if isinstance(record.msg, dict) else record.getMessage()
    return printable(cut(str(text), _LONGEST_LINE))


_listener: Final = _Listener()


class _Telling:
    """An event, as a phase sees it: what was logged is told before each of its calls."""

    def __init__(self, event: Event, told: Callable[[str], str]) -> None:
        self._event = event
        self._told = told
        self.lines: list[tuple[Method, str]] = []

    def ask(self, method: Method, arguments: tuple[Any, ...]) -> Any:
        self.tell()
        return self._event.ask(method, arguments)

    @property
    def is_asking(self) -> bool:
        return self._event.is_asking

    @property
    def is_over(self) -> bool:
        return self._event.is_over

    def close_to_others(self) -> None:
        self._event.close_to_others()

    async def ask_async(self, method: Method, arguments: tuple[Any, ...]) -> Any:
        await self.tell_async()
        return await self._event.ask_async(method, arguments)

    def tell_last(self) -> None:
        """At the end of the phase."""
        if self.lines:
            self._event.close_to_others()
            with suppress(EventEnded):
                self.tell()

    def tell(self) -> None:
        while self.lines and (line := self._next_line()) is not None:
            method, text = line
            with suppress(StepFailed):
                self._event.ask(method, (self._told(text),))

    async def tell_last_async(self) -> None:
        if self.lines:
            self._event.close_to_others()
            with suppress(EventEnded):
                await self.tell_async(is_last=True)

    async def tell_async(self, *, is_last: bool = False) -> None:
        while self.lines and (line := self._next_line()) is not None:
            method, text = line
            with suppress(StepFailed):
                await self._event.ask_async(method, (self._told(text),), is_last=is_last)

    def _next_line(self) -> tuple[Method, str] | None:
        try:
            return self.lines.pop(0)
        except IndexError:  # Another thread of the phase tells it.
            return None

    def fail(self, phase: str, error: Exception) -> None:
        """By the type alone: an exception's text is for the server's own log."""
        text = f"{phase} failed; what the plugin server logs tells why: {name_of(error)}"
        self.lines.append((_ERROR, text))


def telling(
    run: Callable[[Any, Any], None], name: str, phase: str, redact: Callable[[str], str]
) -> Callable[[Any, Event], None]:
    """`run`, with what it logs and its failure told to Kong's log.

    `name` is the plugin's: the one that Kong puts before a line is another's, where that has logged first.
    """
    logging.getLogger().addHandler(_listener)

    def tells(instance: Any, event: Event) -> None:
        telling = _Telling(event, lambda text: f"{name}: {redact(text)}")
        _lines.set(telling.lines)
        try:
            run(instance, telling)
        except Exception as error:
            telling.fail(phase, error)
            raise
        finally:
            telling.tell_last()

    return tells


def async_telling(
    run: Callable[[Any, Any], Awaitable[None]], name: str, phase: str, redact: Callable[[str], str]
) -> Callable[[Any, Event], Awaitable[None]]:
    """As `telling`, for an async phase."""
    logging.getLogger().addHandler(_listener)

    async def tells(instance: Any, event: Event) -> None:
        telling = _Telling(event, lambda text: f"{name}: {redact(text)}")
        _lines.set(telling.lines)
        try:
            await run(instance, telling)
        except Exception as error:
            telling.fail(phase, error)
            raise
        finally:
            await telling.tell_last_async()

    return tells
