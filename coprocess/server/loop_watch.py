"""Tells of handlers that hold up the event loop, and with it all async handlers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import FrameType

from coprocess.server.loop import LoopThread

#: So many ticks in a row without an answer: the loop is blocked. Ticks are counted and not seconds, as a
#: process that does not run at all (stopped, or starved) has none.
TICKS_UNTIL_BLOCKED = 10
_TICKS_BETWEEN = 5
_MOST_FRAMES = 10


class LoopWatch:
    """Asks the loop for a sign of life, again and again, from another thread: calls pay nothing for it."""

    def __init__(self, loop: LoopThread, tick_s: float, tell: Callable[[object, list[str]], None]) -> None:
        """`tick` must be called every `tick_s`. `tell` gets the owner of the task that blocks, and where."""
        self._loop = loop
        self._tick_s = tick_s
        self._tell = tell
        self._ticks = 0
        self._is_asked = False
        self._has_answered = False
        #: Times that the loop was blocked.
        self.blocked = 0
        #: Seconds that it was, from the moment when that was noticed.
        self.blocked_s = 0.0

    def tick(self) -> None:
        if not self._loop.is_running:
            return
        self._ticks += 1
        if not self._is_asked:
            if self._ticks >= _TICKS_BETWEEN:
                self._ticks, self._is_asked, self._has_answered = 0, True, False
                self._loop.call_soon(self._answer)
        elif self._has_answered:
            self._ticks, self._is_asked = 0, False
        elif self._ticks == TICKS_UNTIL_BLOCKED:
            self.blocked += 1
            self.blocked_s += self._ticks * self._tick_s
            owner, frame = self._loop.running()
            self._tell(owner, _stack(frame))
        elif self._ticks > TICKS_UNTIL_BLOCKED:
            self.blocked_s += self._tick_s

    def _answer(self) -> None:
        self._has_answered = True


_AROUND_HANDLERS = {"threading", "asyncio", "uvloop", "coprocess"}


def _stack(frame: FrameType | None) -> list[str]:
    """Where a handler is: `file:line in function`, innermost first, without what called it."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    inner = itertools.dropwhile(_is_around_handlers, reversed(frames))
    lines = [f"{each.f_code.co_filename}:{each.f_lineno} in {each.f_code.co_name}" for each in inner]
    return lines[::-1][:_MOST_FRAMES]


def _is_around_handlers(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in _AROUND_HANDLERS
