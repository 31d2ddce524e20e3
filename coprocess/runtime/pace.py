"""Where the calls of a sync hook run: where calls are read, or apart."""

from __future__ import annotations

import resource
import time

#: How often a thread has waited of its own will, and the seconds that it and its process have computed.
Used = tuple[int, float, float]
#: The seconds that a thread and its process have computed. None: this system does not tell.
Computed = tuple[float, float] | None
#: Not every system tells what a thread has used: then time alone counts.
_OF_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)


class Pace:
    """Whether a sync hook is so quick that its calls may run where calls are read.

    A slow one now and then makes no slow hook, and neither does a machine that lets the thread wait for the
    processor, or another thread that keeps the interpreter. A slow hook is tried again, less and less often.
    Not exact, as no lock is taken for it.
    """

    __slots__ = (
        "_computes_s",
        "_pause",
        "_takes_turns",
        "_unlooked",
        "_without_lock",
        "apart",
        "computes",
        "doubt",
    )

    def __init__(self, *, takes_turns: bool = True) -> None:
        """`takes_turns`: its calls may be held to computing one after the other."""
        self._takes_turns = takes_turns
        #: So many calls are to be run apart, before one is tried again.
        self.apart = 1
        self._pause = _FIRST_PAUSE
        #: Rises with slow calls, and falls with quick ones.
        self.doubt = 0
        #: Whether its calls compute for so long that two at a time would only hold up each other.
        self.computes = False
        self._computes_s = 0.0
        #: So many calls are to be run, before it is looked whether they need the interpreter's lock.
        self._without_lock = 0
        # So many calls are to be run, before it is looked again at whether they compute.
        self._unlooked = 0

    def asks_clocks(self) -> bool:
        """Whether `computed` is to be told of the call that runs now.

        The clocks cost more than the hand-over where many threads wait: of a hook that waits, they are asked
        now and then.
        """
        if self._unlooked:
            self._unlooked -= 1
            return False
        return self._takes_turns

    def look(self) -> Used | None:
        """For `took`, where there is doubt: what this thread has used before a call."""
        return _used()

    def took(self, duration_s: float, before: Used | None) -> None:
        """Of a call that ran where calls are read. To be called where it was slow, or there is doubt."""
        if duration_s <= QUICK_S or (before is not None and _only_lost_its_turn(before, duration_s)):
            if self.doubt:
                self.doubt -= 1
                if not self.doubt:
                    self._pause = _FIRST_PAUSE
            return
        self.doubt += _CALLS_PER_SLOW_ONE
        if self.doubt > _CALLS_PER_SLOW_ONE:
            self.doubt = 1  # The next slow one is enough.
            self.apart = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def computed(self, before: Computed, duration_s: float) -> None:
        """Of a call that ran apart, and took `duration_s`."""
        after = computed()
        if after is None or before is None:
            return
        own_s, all_s = after[0] - before[0], after[1] - before[1]
        self._computes_s += (own_s - self._computes_s) * _OF_LAST
        # It computed all the time, and so did others: it does not need the interpreter, and holds up nobody.
        if own_s > _NEARLY_ALL * duration_s and all_s > _MORE_THAN_ONE * duration_s:
            self._without_lock = _LONGEST_PAUSE
        if self._without_lock:
            self._without_lock -= 1
        self.computes = not self._without_lock and self._computes_s > COMPUTES_S
        self._unlooked = 0 if self._computes_s > COMPUTES_S / 2 else _UNLOOKED


def computed() -> Computed:
    """For `Pace.computed`, before a call."""
    if _OF_THREAD is None:
        return None
    return time.thread_time(), time.process_time()


def _used() -> Used | None:
    if _OF_THREAD is None:
        return None
    now = resource.getrusage(_OF_THREAD)
    return now.ru_nvcsw, time.thread_time(), time.process_time()


def _only_lost_its_turn(before: Used, duration_s: float) -> bool:
    """Whether this thread has not computed for long, and waited for nothing but its turn to do so.

    It has waited for the interpreter where other threads of the process computed nearly all the time.
    """
    now = _used()
    if now is None or (own_s := now[1] - before[1]) > _QUICK_COMPUTING_S:
        return False
    others_s = now[2] - before[2] - own_s
    return now[0] == before[0] or others_s > _NEARLY_ALL * (duration_s - own_s)


#: Waiting for less is no longer than a hand-over to another thread, and the way back.
QUICK_S = 0.00025
#: Computing keeps the interpreter from others wherever it runs, so that a hand-over gains them less. And a
#: machine that is slow now takes that long for a quick hook, and longer still for the hand-over.
_QUICK_COMPUTING_S = 0.0005
#: Of the time that it waited: the rest is what changing threads takes, and what the machine does for others.
_NEARLY_ALL = 0.8
#: Less is over before the interpreter is asked for by another thread.
COMPUTES_S = 0.001
_OF_LAST = 0.25
_UNLOOKED = 15
#: Of the time.
_MORE_THAN_ONE = 1.5
_CALLS_PER_SLOW_ONE = 100
_FIRST_PAUSE = 16
_LONGEST_PAUSE = 4096
