"""A stop that comes while handlers load: where a module's code does not end, the process ends without it."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: How long a load may go on after the stop. Most end soon, and the stop takes its usual way.
GRACE_S = 1.0
_TICK_S = 0.2
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class LoadWatch:
    """Watches from a thread of its own, as the main thread is the one that hangs."""

    def __init__(
        self, is_stopping: Callable[[], bool], stop: Callable[[], None], end: Callable[[], None]
    ) -> None:
        """`stop` is called where a signal came and its handler did not run; `end` ends the process."""
        self._is_stopping = is_stopping
        self._stop = stop
        self._end = end

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the code within. It does not return where the process is being ended meanwhile."""
        lock = threading.Lock()
        is_over = threading.Event()
        reader, writer = socket.socketpair()
        with reader, writer, _woken_by_signals(writer):
            watch = threading.Thread(
                target=self._watch, args=(reader, is_over, lock), name="load-watch", daemon=True
            )
            watch.start()
            try:
                yield
            finally:
                # Held for ever by who ends the process.
                with lock:
                    is_over.set()
            with contextlib.suppress(OSError):
                writer.send(b"\0")
            watch.join(_TICK_S)

    def _watch(self, reader: socket.socket, is_over: threading.Event, lock: threading.Lock) -> None:
        stopped_s: float | None = None
        while not is_over.is_set():
            if stopped_s is None and self._is_stopping():
                stopped_s = time.monotonic()
            if stopped_s is not None and time.monotonic() - stopped_s > GRACE_S:
                with lock:
                    if not is_over.is_set():
                        self._end()
                return
            try:
                if select.select([reader], [], [], _TICK_S)[0] and _is_told_to_stop(reader.recv(100)):
                    # The main thread may be in code that lets no handler run.
                    self._stop()
            except (OSError, ValueError):  # It is over.
                return


def _is_told_to_stop(numbers: bytes) -> bool:
    return any(number in numbers for number in _STOP_SIGNALS)


@contextmanager
def _woken_by_signals(writer: socket.socket) -> Iterator[None]:
    """Signals are written there by the interpreter itself, also while no Python code of this thread runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
