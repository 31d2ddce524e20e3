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
        self._callbacks: dict[int, Callback] = {}

    def add(self, bound: socket.socket, events: int, callback: Callback) -> None:
        self._epoll.register(bound, _asked(events))
        self._callbacks[bound.fileno()] = callback

    def change(self, bound: socket.socket, events: int, callback: Callback) -> None:
        self._callbacks[bound.fileno()] = callback
        self._epoll.modify(bound, _asked(events))

    def watch(self, bound: socket.socket, events: int, callback: Callback) -> None:
        """Add it, or change what it is watched for."""
        (self.change if bound.fileno() in self._callbacks else self.add)(bound, events, callback)

    def remove(self, bound: socket.socket) -> None:
        """It may be closed, or may not be there."""
        if self._callbacks.pop(bound.fileno(), None) is not None:
            self._epoll.unregister(bound)

    def poll(self, timeout_s: float) -> list[tuple[Callback, int]]:
        """Some of those that are ready. The others come next, as the system has them in turn."""
        return [
            (callback, EVENT_READ if told == select.EPOLLIN else _told(told))
            for number, told in self._epoll.poll(timeout_s, _READY_AT_ONCE)
            if (callback := self._callbacks.get(number)) is not None
        ]

    def fileno(self) -> int | None:
        """A descriptor that is ready to be read while a socket is ready; None: there is none."""
        return self._epoll.fileno()

    def is_ready(self) -> bool:
        """Whether `poll` would find something."""
        return bool(self._epoll.poll(0, 1))

    def close(self) -> None:
        """What is removed later is not there any more."""
        self._callbacks.clear()
        self._epoll.close()


def _asked(events: int) -> int:
    return (select.EPOLLIN if events & EVENT_READ else 0) | (select.EPOLLOUT if events & EVENT_WRITE else 0)


def _told(events: int) -> int:
    """An error, or the other side's end, is for both to find."""
    is_for_read, is_for_write = events & ~select.EPOLLOUT, events & ~select.EPOLLIN
    return (EVENT_READ if is_for_read else 0) | (EVENT_WRITE if is_for_write else 0)


class _Selector:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, bound: socket.socket, events: int, callback: Callback) -> None:
        self._selector.register(bound, events, callback)

    def change(self, bound: socket.socket, events: int, callback: Callback) -> None:
        self._selector.modify(bound, events, callback)

    def watch(self, bound: socket.socket, events: int, callback: Callback) -> None:
        is_there = bound.fileno() in self._selector.get_map()
        (self.change if is_there else self.add)(bound, events, callback)

    def remove(self, bound: socket.socket) -> None:
        try:
            self._selector.unregister(bound)
        except (KeyError, ValueError):
            return

    def poll(self, timeout_s: float) -> list[tuple[Callback, int]]:
        return [(key.data, events) for key, events in self._selector.select(timeout_s)]

    def fileno(self) -> int | None:
        return None  # Not each of them has one.

    def is_ready(self) -> bool:
        return bool(self._selector.select(0))

    def close(self) -> None:
        self._selector.close()


#: Each may bring a millisecond of work, and what came before is to be answered meanwhile.
_READY_AT_ONCE = 8


def make_poller() -> _Epoll | _Selector:
    """`add`, `change` and `remove` may be called from any thread while another one polls."""
    return _Epoll() if hasattr(select, "epoll") else _Selector()
