"""How long a thread that computes keeps the interpreter from those that wait: Python's switch interval.

It is short only while somebody asks for that: threads that wait for a store, say, pass the interpreter from
hand to hand then, and do a quarter less.
"""

from __future__ import annotations

import sys
import threading

_lock = threading.Lock()
_asked = 0
_usual_s = 0.0


def usual_s() -> float:
    """What it is where nobody asks for a short one."""
    with _lock:
        now_s = sys.getswitchinterval()
        return _usual_s if _asked and now_s <= SWITCH_S else now_s


def set_usual_s(interval_s: float) -> None:
    global _usual_s
    with _lock:
        _usual_s = interval_s
        sys.setswitchinterval(min(interval_s, SWITCH_S) if _asked else interval_s)


class ShortSwitches:
    """For one service: threads give each other the interpreter more often, as long as it asks for that."""

    def __init__(self, *, owns_process: bool) -> None:
        """`owns_process`: else nothing is changed, as it concerns all that runs in it."""
        self._owns_process = owns_process

    def ask(self) -> None:
        global _asked, _usual_s
        if not self._owns_process:
            return
        with _lock:
            _asked += 1
            if _asked == 1:
                _usual_s = sys.getswitchinterval()
                sys.setswitchinterval(min(_usual_s, SWITCH_S))

    def ask_no_more(self) -> None:
        global _asked
        if not self._owns_process:
            return
        with _lock:
            _asked -= 1
            if _asked == 0:
                sys.setswitchinterval(_usual_s)


#: A thread that wants the interpreter waits for that long, at each of its steps, for one that computes; and
#: quick calls have a few of them.
SWITCH_S = 0.0005
