"""Writes the log from a thread of its own: no call, and no time limit, waits for whoever should read it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

#: Of what waits to be written. Entries beyond are lost, and counted.
MOST_BYTES = 4 * 1024 * 1024
# For a descriptor that takes nothing now; then it is asked again.
_POLL_MS = 1000
_INTERVAL_S = 0.005
#: For another process that writes. One that is stopped meanwhile must not keep the others from it.
_TURN_S = 5.0


class LogWriter:
    """Writes to a file descriptor, of which it keeps a duplicate: handlers may close the original."""

    def __init__(self, descriptor: int, tell_lost: Callable[[int], None]) -> None:
        """`tell_lost` is told, by the thread that writes, how many entries were lost, once some fit again."""
        self._original = descriptor
        self._descriptor = os.dup(descriptor)
        self._tell_lost = tell_lost
        # May be entered again, by a signal handler that logs.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._untold = 0
        #: Entries that were not written, so far.
        self.lost = 0
        self._is_direct = False
        #: Of the file that those hold who write to the same log; None: nobody else does.
        self._turns: int | None = None
        self._waits_s = _TURN_S
        os.register_at_fork(after_in_child=self._leave_to_parent)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._write_directly()

    def write(self, text: str) -> None:
        """Take an entry, which is written soon. Never waits."""
        entry = text.encode("utf-8", "backslashreplace")
        if self._is_direct:
            if not _is_writable(self._descriptor) or not _write(self._descriptor, entry):
                self._count_lost()
            return
        with self._lock:
            if self._waiting_bytes + len(entry) > MOST_BYTES:
                self._count_lost()
                return
            self._waiting_bytes += len(entry)
        self._queue.put(entry)

    def flush(self, timeout_s: float) -> None:
        """Wait until all is written, `timeout_s` at most. Takes no lock: a signal handler may call it."""
        until_s = time.monotonic() + timeout_s
        while self._waiting_bytes > 0 and not self._is_direct and time.monotonic() < until_s:
            time.sleep(_INTERVAL_S)

    def take_turns(self, lock: Path) -> None:
        """Write entries whole, where other processes write there, too: whoever writes holds `lock`.

        A pipe that is full takes a long entry piece by piece, and others' entries between.
        """
        self._turns = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        turns = self._turns
        if turns is None:
            yield
            return
        until_s = time.monotonic() + self._waits_s
        while not (is_ours := _try_lock(turns)) and time.monotonic() < until_s:
            time.sleep(_INTERVAL_S)
        # Whoever has it that long is stopped, or hangs: it is waited for once.
        self._waits_s = _TURN_S if is_ours else 0.0
        try:
            yield
        finally:
            if is_ours:
                fcntl.flock(turns, fcntl.LOCK_UN)

    def _leave_to_parent(self) -> None:
        # A forked child has no such thread, and what waits here its parent will write. It keeps no duplicate:
        # who reads the log to its end would wait for the child.
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        if self._turns is not None:
            with contextlib.suppress(OSError):
                os.close(self._turns)
            self._turns = None
        self._descriptor = self._original
        self._write_directly()

    def _write_directly(self) -> None:
        self._is_direct = True

    def _count_lost(self) -> None:
        self.lost += 1
        self._untold += 1

    def _run(self) -> None:
        while True:
            entry = self._queue.get()
            with self._turn():
                is_written = _write(self._descriptor, entry)
            with self._lock:
                self._waiting_bytes -= len(entry)
                if not is_written:
                    self._count_lost()
                    continue
                if not self._untold or self._waiting_bytes > MOST_BYTES // 2:
                    continue
                lost, self._untold = self._untold, 0
            with contextlib.suppress(Exception):  # Without this thread, there would be no log any more.
                self._tell_lost(lost)


def _write(descriptor: int, entry: bytes) -> bool:
    """Write all of `entry`. False where that fails: nobody will ever read it, or the disk is full."""
    rest = memoryview(entry)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            _is_writable(descriptor)
        except OSError:
            return False
    return True


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_writable(descriptor: int) -> bool:
    """Wait until it takes something, a second at most."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(_POLL_MS))


def open_standard_streams() -> None:
    """Open what of standard input, output and error is closed, as the null device.

    Else the first sockets would get their numbers, and whoever writes there would write to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one. For the processes that this one starts, too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has None for those.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as above
