"""Which sockets are ready: by epoll where there is one, as `selectors` takes 3 µs more each time."""

from __future__ import annotations

import select
import selectors
import socket
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE

#: Called with what a socket is ready for: EVENT_READ, EVENT_WRITE, or both.
Callback = Callable[[int], None]


class _Epoll:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        #: Of those that come later: it is ready where one of them is.
        self._later = select.epoll()
        self._epoll.register(self._later, select.EPOLLIN)
        self._callbacks: dict[int, Callback] = {}
        self._are_later: set[int] = set()
        #: Whether one of those that come later was ready at the last poll; and those that were found so.
        self.has_later = False
        self._ready_later: list[tuple[int, int]] = []
        #: What `find` has found.
        self._found: list[tuple[int, int]] = []

    def add(self, bound: socket.socket, events: int, callback: Callback, *, later: bool = False) -> None:
        """`later`: it is told of by `next_later`, and not by `poll`."""
        number = bound.fileno()
        if later:
            self._are_later.add(number)
        (self._later if later else self._epoll).register(number, _asked(events))
        self._callbacks[number] = callback

    def watch(self, bound: socket.socket, events: int, callback: Callback, *, later: bool = False) -> None:
        """Add it, or change what it is watched for."""
        number = bound.fileno()
        if number not in self._callbacks or later != (number in self._are_later):
            self.remove(bound)
            self.add(bound, events, callback, later=later)
            return
        self._callbacks[number] = callback
        (self._later if later else self._epoll).modify(number, _asked(events))

    def remove(self, bound: socket.socket) -> None:
        """It may be closed, or may not be there."""
        number = bound.fileno()
        if self._callbacks.pop(number, None) is None:
            return
        if number in self._are_later:
            self._are_later.discard(number)
            self._later.unregister(number)
        else:
            self._epoll.unregister(number)

    def poll(self, timeout_s: float) -> list[tuple[Callback, int]]:
        """Some of those that are ready. The others come next, as the system has them in turn."""
        ready = self._found
        if ready:
            self._found = []
        else:
            ready = self._epoll.poll(timeout_s, _READY_AT_ONCE)
        found = [
            (callback, EVENT_READ if told == select.EPOLLIN else _told(told))
            for number, told in ready
            if (callback := self._callbacks.get(number)) is not None
        ]
        self.has_later = len(found) < len(ready)
        return found

    def next_later(self) -> tuple[Callback, int] | None:
        """One of those that come later and are ready, each in its turn. None: no more are."""
        ready = self._ready_later
        if not ready:
            # Several, and not one each time: who was just read may be ready again.
            ready = self._ready_later = self._later.poll(0, _READY_AT_ONCE)
            ready.reverse()
        while ready:
            number, told = ready.pop()
            callback = self._callbacks.get(number)
            if callback is not None:
                return callback, _told(told)
        return None

    def fileno(self) -> int | None:
        """A descriptor that is ready to be read while a socket is ready; None: there is none."""
        return self._epoll.fileno()

    def is_ready(self) -> bool:
        """Whether `poll` would find something. From any thread."""
        return bool(self._epoll.poll(0, 1))

    def find(self) -> bool:
        """The same, by who polls: what it finds is what `poll` gives next."""
        self._found = self._epoll.poll(0, _READY_AT_ONCE)
        return bool(self._found)

    def close(self) -> None:
        """What is removed later is not there any more."""
        self._callbacks.clear()
        self._epoll.close()
        self._later.close()


def _asked(events: int) -> int:
    return (select.EPOLLIN if events & EVENT_READ else 0) | (select.EPOLLOUT if events & EVENT_WRITE else 0)


def _told(events: int) -> int:
    """An error, or the other side's end, is for both to find."""
    is_for_read, is_for_write = events & ~select.EPOLLOUT, events & ~select.EPOLLIN
    return (EVENT_READ if is_for_read else 0) | (EVENT_WRITE if is_for_write else 0)


class _Selector:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        #: As `_Epoll` has it.
        self.has_later = False
        #: Those of them that were ready at the last poll, the next last; and how often one was told of.
        self._ready_later: list[tuple[Callback, int]] = []
        self._turns = 0

    def add(self, bound: socket.socket, events: int, callback: Callback, *, later: bool = False) -> None:
        if events:  # A selector takes no socket for nothing.
            self._selector.register(bound, events, (callback, later))

    def watch(self, bound: socket.socket, events: int, callback: Callback, *, later: bool = False) -> None:
        self.remove(bound)
        self.add(bound, events, callback, later=later)

    def remove(self, bound: socket.socket) -> None:
        try:
            self._selector.unregister(bound)
        except (KeyError, ValueError):
            return

    def poll(self, timeout_s: float) -> list[tuple[Callback, int]]:
        ready = [(*key.data, events) for key, events in self._selector.select(timeout_s)]
        later = [(callback, events) for callback, is_later, events in ready if is_later]
        at = self._turns % len(later) if later else 0
        self._ready_later = [*later[at:], *later[:at]][::-1]
        self.has_later = bool(later)
        return [(callback, events) for callback, is_later, events in ready if not is_later]

    def next_later(self) -> tuple[Callback, int] | None:
        if not self._ready_later:
            return None
        self._turns += 1
        return self._ready_later.pop()

    def fileno(self) -> int | None:
        return None  # Not each of them has one.

    def is_ready(self) -> bool:
        return bool(self._selector.select(0))

    def find(self) -> bool:
        return self.is_ready()

    def close(self) -> None:
        self._selector.close()


#: Each may bring a millisecond of work, and what came before is to be answered meanwhile.
_READY_AT_ONCE = 8


def make_poller() -> _Epoll | _Selector:
    """`add`, `watch` and `remove` may be called from any thread while another one polls."""
    return _Epoll() if hasattr(select, "epoll") else _Selector()
