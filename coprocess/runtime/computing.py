"""Calls of sync hooks that compute run one after the other: at one time, they would only take turns anyway.

The interpreter runs one thread at a time, in no order to rely on: of thirty calls that compute for 5 ms, some
would wait for seconds, and a quick one would wait behind them all at each of its own steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from coprocess.switching import ShortSwitches

Waiting = TypeVar("Waiting")


class ComputingLine(Generic[Waiting]):
    """Who has the turn computes. It is passed on at the end; before that, where it is not used, or is long.

    So calls that wait for something else, or compute without the interpreter's lock, hold up nobody for long.
    """

    def __init__(self, start: Callable[[Waiting], object], switches: ShortSwitches) -> None:
        """`start` begins a call in a thread of its own, in turn. `switches` are short while one computes."""
        self._start = start
        self._switches = switches
        self._lock = threading.Lock()
        self._turn: Waiting | None = None
        self._since_s = 0.0
        #: In the order in which they came.
        self._line: deque[Waiting] = deque()
        self._came = threading.Event()
        self._is_stopped = False

    def start(self) -> None:
        threading.Thread(target=self._watch, name="computing", daemon=True).start()

    def __len__(self) -> int:
        """Calls that wait for their turn."""
        return len(self._line)

    def enter(self, call: Waiting) -> bool:
        """Whether it has the turn now. Else it waits: `next_after` gives it, or `start` begins it."""
        with self._lock:
            if self._turn is None:
                self._turn, self._since_s = call, time.monotonic()
                self._switches.ask()
                return True
            self._line.append(call)
            if len(self._line) == 1:
                self._came.set()
            return False

    def drop(self, call: Waiting) -> bool:
        """Take a call out of the line. False where it does not wait there."""
        with self._lock:
            if call not in self._line:
                return False
            self._line.remove(call)
            return True

    def next_after(self, call: Waiting) -> Waiting | None:
        """Who has the turn after a call that has ended, and is to be run. None: nobody, or it had lost it."""
        with self._lock:
            if self._turn is not call:
                return None
            self._turn = self._line.popleft() if self._line else None
            self._since_s = time.monotonic()
            if self._turn is None:
                self._switches.ask_no_more()
            return self._turn

    def _watch(self) -> None:
        """Look, again and again, whether the turn is used."""
        while not self._is_stopped:
            self._came.clear()
            if not self._line:
                self._came.wait()
            self._watch_line()

    def _watch_line(self) -> None:
        """As long as anybody waits."""
        look_s, free_looks = _LOOK_S, 0
        while self._line and not self._is_stopped:
            used_s, at_s = time.process_time(), time.monotonic()
            time.sleep(look_s)
            now_s = time.monotonic()
            # Where another thread computes, this one gets the interpreter after the switch interval only; or
            # sooner, by chance, where quick calls pass it from hand to hand.
            is_free = now_s - at_s - look_s < _SOON_S
            free_looks = free_looks + 1 if is_free else 0
            is_idle = is_free and time.process_time() - used_s < _IDLE * (now_s - at_s)
            if is_idle or free_looks >= _SURELY_FREE or now_s - self._since_s > LONGEST_TURN_S:
                free_looks = 0
                # Where calls wait for something else, the next ones will, too.
                look_s = _LOOK_S / 2 if is_idle else _LOOK_S
                self._pass_on(now_s)

    def _pass_on(self, now_s: float) -> None:
        with self._lock:
            if not self._line:
                return
            following = self._turn = self._line.popleft()
            self._since_s = now_s
        self._start(following)

    def stop(self) -> None:
        """End the thread. Calls that wait get their turn from those before them."""
        self._is_stopped = True
        self._came.set()


#: Who computes for longer shares the interpreter with the next.
LONGEST_TURN_S = 0.025
_LOOK_S = 0.002
#: A little less than a short switch takes.
_SOON_S = 0.00045
#: The part of the time that the process computes.
_IDLE = 0.5
#: So many looks in a row find the interpreter free, while the process computes: without its lock, that is.
_SURELY_FREE = 4
