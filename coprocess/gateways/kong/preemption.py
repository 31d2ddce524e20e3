"""How the threads that run events share the processor with each other."""

from __future__ import annotations

import contextlib
import os
import threading


class Crowd(threading.local):
    """Of each thread: whether it has many beside it that run events, as the system is told.

    One of many whose answer from Kong has come does not push another from the processor, which has the
    interpreter's lock, only to wait for that: two changes of threads for nothing. One of few does, as others'
    processes would keep it waiting.

    Of 16 connections on one core, an event took 19 % less of it so (six pairs of runs, each with less), and
    threads changed 4.7 times, not 8.
    """

    #: None: the thread has told nothing yet.
    is_told: bool | None = None

    def tell(self, *, is_crowd: bool) -> bool:
        self.is_told = is_crowd
        with contextlib.suppress(AttributeError, OSError):  # Not every system has it, or allows it.
            # Else the operator has chosen another.
            if os.sched_getscheduler(0) in (os.SCHED_OTHER, os.SCHED_BATCH):
                chosen = os.SCHED_BATCH if is_crowd else os.SCHED_OTHER
                os.sched_setscheduler(0, chosen, os.sched_param(0))
        return is_crowd
