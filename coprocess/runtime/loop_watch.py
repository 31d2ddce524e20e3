"""Tells of handlers that hold up the event loop, and with it all async handlers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import FrameType

from coprocess.runtime.loop import LoopThread
from coprocess.switching import ShortSwitches

#: So many ticks in a row without an answer: the loop is blocked. Ticks are counted and not seconds, as a
#: process that does not run at all (stopped, or starved) has none.
TICKS_UNTIL_BLOCKED = 10
_TICKS_BETWEEN = 5
_MOST_FRAMES = 10


class LoopWatch:
    """Asks a loop for a sign of life, again and again, from another thread: calls pay nothing for it."""

    def __init__(
        self, tick_s: float, tell: Callable[[object, list[str]], None], switches: ShortSwitches
    ) -> None:
        """`tick` must be called every `tick_s`. `tell` gets the owner of the task that blocks, and where.

        `switches` are short while the loop takes long to answer: what runs on it computes, and others wait.
        """
        self._loop: LoopThread | None = None
        self._tick_s = tick_s
        self._tell = tell
        self._switches = switches
        self._is_slow = False
        self._ticks = 0
        self._is_asked = False
        #: The question that was answered last; one that a loop answers after it was given up counts not.
        self._question = self._answered = 0
        #: Times that the loop was blocked.
        self.blocked = 0
        #: Seconds that it was, from the moment when that was noticed.
        self.blocked_s = 0.0

    def watch(self, loop: LoopThread | None) -> None:
        """Watch `loop` from now on, and the one before no more."""
        self._loop = loop
        self._ticks, self._is_asked = 0, False
        self._set_slow(False)

    @property
    def is_blocked(self) -> bool:
        return self._is_asked and self._ticks >= TICKS_UNTIL_BLOCKED

    @property
    def blocks_for_s(self) -> float:
        """How long it has not answered by now."""
        return self._ticks * self._tick_s if self._is_asked else 0.0

    def tick(self) -> None:
        loop = self._loop
        if loop is None or not loop.is_alive:
            return
        self._ticks += 1
        if not self._is_asked:
            if self._ticks >= _TICKS_BETWEEN:
                self._ticks, self._is_asked = 0, True
                self._question += 1
                loop.call_soon(self._answer, self._question)
        elif self._answered == self._question:
            self._set_slow(self._ticks > 1)
            self._ticks, self._is_asked = 0, False
        elif self._ticks == 1:
            self._set_slow(True)
        elif self._ticks == TICKS_UNTIL_BLOCKED:
            self.blocked += 1
            self.blocked_s += self._ticks * self._tick_s
            owner, frame = loop.running()
            self._tell(owner, _stack(frame))
        elif self._ticks > TICKS_UNTIL_BLOCKED:
            self.blocked_s += self._tick_s

    def _set_slow(self, is_slow: bool) -> None:
        if is_slow != self._is_slow:
            self._is_slow = is_slow
            self._switches.ask() if is_slow else self._switches.ask_no_more()

    def _answer(self, question: int) -> None:
        self._answered = question


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
