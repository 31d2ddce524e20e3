"""Connections whose worker has died: the front refuses what Kong waits for on them.

Kong lets a request by whose connection ends before the answer begins, and refuses it for an answer that it
cannot read. So the front keeps a hand on each connection that it gives away, and sends such bytes on those
that no worker has any more. Which ones these are, Linux tells; elsewhere nothing is kept.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

log = structlog.get_logger("coprocess")

_TICK_S: Final = 0.2
#: After a worker's end: what it was giving to another at that moment is found later.
_LOOKS_S: Final = 10.0
_CAN_TELL: Final = sys.platform == "linux"


class LeftBehind:
    """The connections that workers have. A thread watches those workers, and which connections end."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        """`pids` gives the workers that live."""
        self._pids = pids
        #: By their descriptors here, with the numbers that they have in all processes.
        self._kept: dict[int, tuple[socket.socket, int]] = {}
        #: Those of them that are refused. They stay open until Kong closes them: it may be about to send.
        self._refused: set[int] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def start(self) -> None:
        if _CAN_TELL:
            self._epoll = select.epoll()
            threading.Thread(target=self._run, name="kong-left-behind", daemon=True).start()

    def refuse(self, connected: socket.socket) -> None:
        """No worker has taken this connection."""
        if refuse(connected):
            self.keep(connected, is_refused=True)

    def keep(self, connected: socket.socket, *, is_refused: bool = False) -> None:
        """A worker has taken this connection."""
        if not _CAN_TELL:
            return
        with contextlib.suppress(OSError):  # Where no more files may be open, there is no hand on it.
            mine = connected.dup()
            number = os.fstat(mine.fileno()).st_ino
            with self._lock:
                if self._is_stopped:
                    mine.close()
                    return
                self._kept[mine.fileno()] = mine, number
                if is_refused:
                    self._refused.add(mine.fileno())
                # Asked for nothing, it still tells when both sides are closed.
                self._epoll.register(mine.fileno(), 0)

    def stop(self) -> None:
        """Let go of all: their workers close them."""
        with self._lock:
            self._is_stopped = True
            kept, self._kept = list(self._kept.values()), {}
        for mine, _ in kept:
            mine.close()

    def _run(self) -> None:
        lived, until_s = set(self._pids()), 0.0
        while not self._is_stopped:
            try:
                for descriptor, _ in self._epoll.poll(_TICK_S):
                    self._let_go(descriptor)
                live = set(self._pids())
                if lived - live:
                    until_s = time.monotonic() + _LOOKS_S
                lived = live
                if time.monotonic() < until_s and not self._refuse_left(live):
                    until_s = 0.0
            except Exception:
                log.exception("connections of workers that ended could not be looked for")
                time.sleep(_TICK_S)

    def _let_go(self, descriptor: int) -> None:
        with self._lock:
            kept = self._kept.pop(descriptor, None)
            self._refused.discard(descriptor)
            if kept is not None:
                # Told, as it is open elsewhere: epoll would go on with it.
                self._epoll.unregister(descriptor)
                kept[0].close()

    def _refuse_left(self, live: Iterable[int]) -> bool:
        """False where nobody can say which are left, as a worker is another user's: all are refused."""
        # Listed first: what comes after that has not been looked for.
        left = [each for each in list(self._kept.items()) if each[0] not in self._refused]
        can_tell = True
        try:
            # Twice, as one that is given to another worker now may be seen with neither.
            for _ in range(2):
                held = _sockets_of(live)
                left = [each for each in left if each[1][1] not in held]
        except PermissionError:
            can_tell = False
        if not left:
            return can_tell
        log.warning("a worker left connections behind: what Kong waits for there is refused", count=len(left))
        for descriptor, (mine, _) in left:
            self._refused.add(descriptor)
            if not refuse(mine):  # A part of an answer is on its way: without the rest, it is none.
                with contextlib.suppress(OSError):
                    mine.shutdown(socket.SHUT_RDWR)
        return can_tell


def refuse(connected: socket.socket) -> bool:
    """Send what Kong refuses a request for, whatever it has asked. False where there is no room for it."""
    try:
        # No value of msgpack begins so.
        return connected.send(b"\xc1", socket.MSG_DONTWAIT) == 1
    except OSError:
        return False


def _sockets_of(pids: Iterable[int]) -> set[int]:
    """The numbers of all sockets that these processes have."""
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # It has ended.
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    target = os.readlink(entry.path)
                    if target.startswith("socket:["):
                        found.add(int(target[8:-1]))
    return found
