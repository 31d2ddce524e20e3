"""A task that has not begun: code that runs in it, and waits for nothing, leaves it as it was, for the next.

A task costs as much as a quick handler, and most handlers wait for nothing. They run as in a task all the
same: libraries ask for the current one, and keep things by it.
"""

from __future__ import annotations

# For those who make tasks of their own, by asyncio's documentation ("Extending").
from asyncio.tasks import (
    _enter_task,
    _leave_task,
    _register_task,
    _unregister_task,
)
from collections.abc import Callable, Coroutine
from contextvars import Context
from sys import getrefcount
from typing import Any, TypeVar
from weakref import getweakrefcount

from coprocess.api.context import current_call
from coprocess.runtime.untouched_task import UntouchedTask

Result = TypeVar("Result")


class SpareTask:
    """To be used on the loop, and in no other task."""

    __slots__ = ("_coroutine", "_loop", "_references", "_step", "context", "owner", "rest", "task")

    def __init__(self, loop: Any, go_on: Callable[[SpareTask], Coroutine[Any, Any, None]]) -> None:
        """`go_on(self)` is what it runs when it begins: `rest`, for `owner`, where there is one."""
        self._loop = loop
        #: The task's, and of what runs in it. `current_call` is in it at all times.
        self.context = Context()
        self.context.run(current_call.set, None)
        #: For whom something runs in it.
        self.owner: Any = None
        #: What of that waits.
        self.rest: Any = None
        self._coroutine = go_on(self)
        steps: list[Callable[[], object]] = []

        def take(step: Callable[[], object], *, context: Context | None = None) -> None:
            steps.append(step)

        # A task asks its loop to run its first step soon. This takes that step.
        loop.call_soon = take
        try:
            self.task = UntouchedTask(self._coroutine, loop=loop, context=self.context)
        finally:
            del loop.call_soon
        self._step = steps.pop()
        # Who looks through all tasks must not wait for one that may never begin.
        _unregister_task(self.task)
        self.task.asked = []
        self.task.is_touched = False
        self._references = self._count_references()

    def run(self, function: Callable[[Any], Result], owner: Any) -> Result:
        """Call `function(owner)` as in this task, and in its context."""
        loop, task = self._loop, self.task
        self.owner = owner
        _enter_task(loop, task)
        try:
            return self.context.run(function, owner)
        finally:
            _leave_task(loop, task)

    def _count_references(self) -> int:
        task = self.task
        return getrefcount(task) + getweakrefcount(task) + getrefcount(self.context)

    @property
    def is_as_new(self) -> bool:
        """Whether what ran in it left no variable in the context, and left task and context to nobody."""
        task = self.task
        return (
            len(self.context) == 1
            and not task.is_touched
            # As `_count_references`, in place: each call asks.
            and getrefcount(task) + getweakrefcount(task) + getrefcount(self.context) == self._references
        )

    def begin(self) -> None:
        """Run its first step now. It is a task as others are, from then on."""
        step, self._step = self._step, _nothing
        task = self.task
        asked, task.asked = task.asked or (), None
        _register_task(task)
        self.context.run(step)
        for message in asked:
            task.cancel(message)

    def drop(self) -> None:
        """It will never begin."""
        self.task._log_destroy_pending = False  # As asyncio does with its own.
        self._coroutine.close()


def _nothing() -> None: ...
