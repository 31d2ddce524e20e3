"""Turns of an event's code to ask Kong, where it does so from more than one thread, or task."""

from __future__ import annotations

import asyncio
import time
from threading import get_ident
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from coprocess.gateways.kong.event import Event

#: Between looks at whether Kong has answered another thread, or task, of the same event.
TURN_S: Final = 0.001


class EventEnded(BaseException):
    """The event is over: its plugin's code ends here. No Exception, so that no plugin takes it for one."""


class Turns:
    """Who came first asks first, so that one that asks without pause holds up nobody.

    Made when a second one asks, which is seldom: what Kong is owed lies here from then on.
    """

    __slots__ = ("_waiting", "is_closed", "of_tasks", "owed")

    def __init__(self, owed: list[bool]) -> None:
        self.owed = owed
        self.of_tasks = asyncio.Lock()
        #: Only the phase itself may ask still.
        self.is_closed = False
        self._waiting: list[int] = []

    def wait(self, event: Event) -> list[bool]:
        """What is owed, when it is this thread's turn. Raises EventEnded."""
        me = get_ident()
        self._waiting.append(me)
        try:
            while not event.is_over:  # Else the connection is another's by now.
                if self.is_closed and me != event.thread:
                    break
                if self.owed and (self.is_closed or self._waiting[0] == me):
                    return self.owed
                time.sleep(TURN_S)
        finally:
            self._waiting.remove(me)
        raise EventEnded
