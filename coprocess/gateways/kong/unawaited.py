"""Coroutines of a plugin's own that a phase makes and never awaits: their code, as of a check, does not run.

Python tells of each when it is thrown away, by a warning. It is noted with the event whose code runs there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

from coprocess.api.context import current_call
from coprocess.errors import HandlerFailed
from coprocess.gateways.kong.event import Event

#: Of Python's own; where it has none of this name, nothing is noted.
_NAME: Final = "_warn_unawaited_coroutine"


def note_unawaited() -> None:
    """From now on, of all events."""
    warn: Any = getattr(warnings, _NAME, None)
    if warn is not None and not isinstance(warn, _Noting):
        setattr(warnings, _NAME, _Noting(warn))


class _Noting:
    """In the place of the function that warns."""

    def __init__(self, warn: Callable[[Any], None]) -> None:
        self._warn = warn

    def __call__(self, coroutine: Any) -> None:
        event = getattr(current_call.get(), "event", None)
        if isinstance(event, Event):
            event.unawaited = getattr(coroutine, "__qualname__", "a coroutine")
        self._warn(coroutine)


def expect_awaited(name: str | None) -> None:
    """At the end of a phase, with what was noted. Raises HandlerFailed."""
    if name is not None:
        raise HandlerFailed(
            f"failed: {name}() was not awaited, so that its code did not run. Expected: await {name}(…), "
            "in a phase that is async def"
        )
