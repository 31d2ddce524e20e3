"""Coroutines and tasks that a handler does not await: their code, as of a check, runs never, or too late.

Python warns of each coroutine when it is thrown away. It is noted with the call whose code runs there: that
one fails. Else a check that became `async def` would let all by, where the code around it stayed as it was.
Tasks are noted by the loop that makes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

from coprocess.api.context import current_call
from coprocess.errors import HandlerFailed
from coprocess.runtime.handlers_task import HandlersTask, expect_ended

#: Of Python's own; where it has none of this name, nothing is noted.
_NAME: Final = "_warn_unawaited_coroutine"

#: Whether any was noted, since the process began. Calls ask for this first: it costs next to nothing.
has_any = False


def note_unawaited() -> None:
    """From now on, of all calls."""
    warn: Any = getattr(warnings, _NAME, None)
    if warn is not None and not isinstance(warn, _Noting):
        setattr(warnings, _NAME, _Noting(warn))


class _Noting:
    """In the place of the function that warns."""

    def __init__(self, warn: Callable[[Any], None]) -> None:
        self._warn = warn

    def __call__(self, coroutine: Any) -> None:
        global has_any
        call: Any = current_call.get()
        if call is not None:
            call.unawaited = getattr(coroutine, "__qualname__", "a coroutine")
            has_any = True
        self._warn(coroutine)


def note_task(call: Any, task: HandlersTask) -> None:
    """Of code of `call`, which runs."""
    global has_any
    try:
        call.begun_tasks.append(task)
    except AttributeError:
        call.begun_tasks = [task]
    has_any = True


def expect_awaited(call: Any) -> None:
    """At the end of its handler. Raises HandlerFailed."""
    tasks = getattr(call, "begun_tasks", None)
    if tasks:
        call.begun_tasks = []  # They know the call: a cycle would be the collector's.
        expect_ended(tasks)
    name = getattr(call, "unawaited", None)
    if name is not None:
        raise HandlerFailed(
            f"failed: {name}() was not awaited, so that its code did not run. Expected: await {name}(…), "
            "in a function that is async def"
        )
