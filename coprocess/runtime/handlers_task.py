"""Tasks that the code of handlers begins within a call, on whichever loop that runs.

What a task finds after its handler has returned decides nothing: a check that is left in one lets all by.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from functools import lru_cache
from typing import Any, Final

from coprocess.api.context import current_call
from coprocess.error_text import is_not_ours, name_of
from coprocess.errors import HandlerFailed
from coprocess.loading.handler_modules import NAMESPACE
from coprocess.loading.hooks import Hook

_ASYNCIO: Final = os.path.dirname(asyncio.__file__) + os.sep
_PYTHONS_OWN: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_INSTALLED: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_VENDOR: Final = f"{os.sep}vendor{os.sep}"
#: Of the moments, and of Kong's phases: nobody waits for what is found there.
_DECIDE_NOTHING: Final = ("Event", "log")


class HandlersTask(asyncio.Task[Any]):
    """One that somebody waits for, or asks to be told of its end, or that was left."""

    __slots__ = ("begun_by", "is_told")

    #: The task of the same kind that has begun it.
    begun_by: HandlersTask | None
    #: Whether somebody takes care of its end.
    is_told: bool

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        # What `gather`, `wait` and `shield` ask is for who awaits them, which may be nobody.
        if getattr(getattr(fn, "func", fn), "__module__", None) != "asyncio.tasks":
            self.is_told = True
        super().add_done_callback(fn, context=context)

    @property
    def goes_on_within(self) -> bool:
        """Whether it was begun by one that is at work still, or was cancelled: it is that one's."""
        above = self.begun_by
        while above is not None:
            if not above.done() or above.cancelled():
                return True
            above = above.begun_by
        return False


class TaskFactory:
    """Of a loop: makes its tasks, and notes those that handlers' code begins with the call."""

    __slots__ = ("_note", "_others")

    def __init__(
        self,
        others: Callable[..., Any] | None = None,
        note: Callable[[asyncio.Task[Any], Hook], None] = lambda task, hook: None,
    ) -> None:
        """`others` makes what is not noted. `note` is told of all that are begun within a call."""
        self._others = others or _plain
        self._note = note

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        call: Any = current_call.get()
        if call is None:
            return self._others(loop, coroutine, **options)
        hook = call.hook
        if _decides(call) and _is_handlers_own(coroutine):
            current = asyncio.current_task(loop)
            task: Any = HandlersTask(coroutine, loop=loop, **options)
            task.is_told = False
            task.begun_by = current if isinstance(current, HandlersTask) else None
            call.note_task(task)
        else:
            task = self._others(loop, coroutine, **options)
        self._note(task, hook)
        return task


def note_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Note those of handlers on a loop that is not the service's own, and may make tasks in its own way."""
    factory = loop.get_task_factory()
    if type(factory) is not TaskFactory:
        loop.set_task_factory(TaskFactory(factory))


def _plain(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


def _decides(call: Any) -> bool:
    """Whether what `call` finds from now on is waited for."""
    return not (
        call.hook.type.name in _DECIDE_NOTHING or getattr(call, "is_aside", False)
    ) and call.gate.holds(call)


def _is_handlers_own(coroutine: Any) -> bool:
    """Whether a task of it is begun by handlers' code, and not by a library's for its own ends."""
    code = getattr(coroutine, "cr_code", None)
    if code is not None and not is_not_ours(code.co_filename):
        return False  # As a call of Kong's PDK: who has begun it knows.
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_ASYNCIO):
        frame = frame.f_back
    return _is_handlers_file(frame.f_code.co_filename, str(frame.f_globals.get("__name__", "")))


@lru_cache(1024)
def _is_handlers_file(filename: str, module: str) -> bool:
    """Whether it is no library's, and not of this package."""
    if filename.startswith(_PYTHONS_OWN) or not is_not_ours(filename):
        return False
    if any(folder in filename for folder in _INSTALLED):
        return False
    if not module.startswith(f"{NAMESPACE}."):
        return True
    top = module.split(".")[2] if module.count(".") > 1 else ""
    return f"{_VENDOR}{top}{os.sep}" not in filename and f"{_VENDOR}{top}.py" not in filename


def expect_ended(tasks: Iterable[HandlersTask]) -> None:
    """At the end of the handler that has begun them. Raises HandlerFailed, and cancels what goes on."""
    for task in tasks:
        if task.is_told or task.cancelling() or task.goes_on_within:
            continue
        name = getattr(task.get_coro(), "__qualname__", "a coroutine").rpartition("<locals>.")[2]
        if not task.done():
            with suppress(RuntimeError):  # Its loop is closed.
                task.get_loop().call_soon_threadsafe(task.cancel)
            raise HandlerFailed(
                f"failed: the task of {name}() was not awaited, and is cancelled: what it finds would come "
                "too late. Expected: await it, or, where it is to outlive the call, task.add_done_callback "
                "with what takes care of its end"
            )
        # Private, and the only way to know that nobody has asked. Without it, what has failed is let be.
        if getattr(task, "_log_traceback", False) and (error := task.exception()) is not None:
            raised = name_of(error)
            raise HandlerFailed(
                f"failed: the task of {name}() raised {raised}, and was not awaited. Expected: await it"
            ) from error
