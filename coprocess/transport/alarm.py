"""An alarm that a busy thread puts off again and again, so that another is woken only when it does not."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from typing import Any, Protocol


class Alarm(Protocol):
    """Rings once, some time after it was put off last. It is silent until that was done once."""

    #: time.monotonic() when it rings, or has rung.
    rings_s: float
    #: From when on it is to be put off again. Before, that would be for little. Always, once it has rung: who
    #: looked at the clock before, and was held up, puts it off nevertheless.
    again_s: float

    def put_off(self, now_s: float) -> None:
        """From any thread."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has rung before `timeout_s` was over. By one thread only."""

    def close(self) -> None:
        """By the thread that waits. `put_off` does nothing from then on."""


def make_alarm(delay_s: float) -> Alarm:
    """It rings so long after it was put off; `again_s` is when half of that is over."""
    try:
        return TimerAlarm(delay_s)
    except OSError:  # This system has none, or no more files may be open.
        return SleepingAlarm(delay_s)


class SilentAlarm:
    """Never rings."""

    rings_s = 0.0
    again_s = float("inf")

    def put_off(self, now_s: float) -> None: ...

    def wait(self, timeout_s: float | None = None) -> bool:
        return False

    def close(self) -> None: ...


class SleepingAlarm:
    """For systems without such a timer: the thread that waits wakes up to see whether it was put off."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self.rings_s = self.again_s = 0.0
        self._is_set = threading.Event()

    def put_off(self, now_s: float) -> None:
        self.rings_s = now_s + self._delay_s
        self.again_s = now_s + self._delay_s / 2
        if not self._is_set.is_set():
            self._is_set.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        until_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while self._is_set.wait(timeout_s):
            now_s = time.monotonic()
            rings_s = self.rings_s
            if now_s < rings_s:
                if now_s >= until_s:
                    break
                time.sleep(min(rings_s, until_s) - now_s)
                continue
            self._is_set.clear()
            if now_s >= self.rings_s:
                self.again_s = 0.0
                return True
            self._is_set.set()  # Put off just now.
        return False

    def close(self) -> None:
        self.again_s = float("inf")


class TimerAlarm:
    """The system's timer: the thread that waits sleeps until it rings, however often it is put off.

    One that wakes up to look takes the interpreter from a thread that is busy: that takes as long as a few
    quick calls, a thousand times a second.
    """

    def __init__(self, delay_s: float) -> None:
        """OSError where the system has none, or gives no more."""
        if _timer is None:
            raise OSError("there is no timerfd")
        library, make_times = _timer
        self._descriptor: int = library.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            raise OSError("there is no timerfd more")
        self._set_time = library.timerfd_settime
        if self._set_time(self._descriptor, 0, make_times(), None):
            os.close(self._descriptor)
            raise OSError("a timerfd cannot be set")
        self._times = make_times((0, 0), divmod(int(delay_s * 1e9), 1_000_000_000))
        self._delay_s = delay_s
        self.rings_s = self.again_s = 0.0
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._is_closed = False
        self._lock = threading.Lock()

    def put_off(self, now_s: float) -> None:
        self.rings_s = now_s + self._delay_s
        self.again_s = now_s + self._delay_s / 2
        with self._lock:  # Else it could be closed now, and the number be another file's.
            if not self._is_closed:
                self._set_time(self._descriptor, 0, self._times, None)

    def wait(self, timeout_s: float | None = None) -> bool:
        while self._poll.poll(None if timeout_s is None else timeout_s * 1000):
            try:
                os.read(self._descriptor, 8)
            except BlockingIOError:  # Put off just now.
                continue
            self.again_s = 0.0
            return True
        return False

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self._descriptor)


def _load() -> tuple[Any, Any] | None:
    """The C library, where it has a timerfd, and its `struct itimerspec`.

    It is called with the interpreter's lock held, as its calls take less than giving that up, as `os` does.
    """
    try:
        import ctypes
    except ImportError:  # Python can be built without.
        return None
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    library = ctypes.PyDLL(None)
    if not hasattr(library, "timerfd_create"):
        return None

    class Times(ctypes.Structure):
        """How often it rings again, and when it rings first, in seconds and nanoseconds."""

        _fields_ = (("again", ctypes.c_long * 2), ("first", ctypes.c_long * 2))

    library.timerfd_settime.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.POINTER(Times),
        ctypes.c_void_p,
    ]
    return library, Times


_timer = _load()
