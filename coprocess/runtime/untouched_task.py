"""A task that knows whether anybody did something with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any


class UntouchedTask(asyncio.Task[None]):
    """Until `is_touched`."""

    __slots__ = ("asked", "is_touched")

    is_touched: bool
    #: Requests to cancel it, which wait until it has begun: else it would end without a step of its own, and
    #: what it was to go on with would be lost. None: it has begun.
    asked: list[Any] | None

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__("is_touched", True)
        super().__setattr__(name, value)

    def set_name(self, value: object, /) -> None:
        self.is_touched = True
        super().set_name(value)

    def cancel(self, msg: Any = None) -> bool:
        self.is_touched = True
        if self.asked is not None:
            self.asked.append(msg)
            return True
        return super().cancel(msg)

    def cancelling(self) -> int:
        return super().cancelling() + len(self.asked or ())

    def uncancel(self) -> int:
        if self.asked:
            self.asked.pop()
            return self.cancelling()
        return super().uncancel()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        self.is_touched = True
        super().add_done_callback(fn, context=context)
