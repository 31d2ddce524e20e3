"""redis-py's connections with a deadline for all that they do, together, in a synchronous operation.

redis-py itself has a timeout for each call, and an operation makes many. Here every blocking call gets the
time that is left before `this_thread.deadline`.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection


class _ThisThread(threading.local):
    deadline = math.inf  # time.monotonic() at which this thread's operation must have ended.


this_thread = _ThisThread()


class _DeadlineSocket:
    """A socket whose every blocking call ends at this thread's deadline, or after its own timeout if sooner.

    Setting a timeout is a system call, so it is left as it is while it is less than 5% too long.
    """

    def __init__(self, connected: socket.socket, timeout_s: float | None) -> None:
        self._socket = connected
        self._armed_s = -1.0
        self.settimeout(timeout_s)

    def settimeout(self, timeout_s: float | None) -> None:
        self._limit_s = math.inf if timeout_s is None else timeout_s

    def recv_into(self, *arguments: Any) -> int:
        self._arm()
        return self._socket.recv_into(*arguments)

    def recv(self, *arguments: Any) -> bytes:
        self._arm()
        return self._socket.recv(*arguments)

    def sendall(self, data: bytes) -> None:
        self._arm()
        self._socket.sendall(data)

    def fileno(self) -> int:
        return self._socket.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def _arm(self) -> None:
        left_s = this_thread.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline has passed")
        left_s = min(left_s, self._limit_s)
        if not self._armed_s * 0.95 <= left_s <= self._armed_s:
            self._socket.settimeout(None if left_s == math.inf else left_s)
            self._armed_s = left_s


class _DeadlineMixin:
    """Makes a redis-py connection class keep this thread's deadline."""

    host: str
    socket_timeout: float | None
    _connect_limit_s: float | None = None

    @property
    def socket_connect_timeout(self) -> float:
        # redis-py reads this anew for each of a name's addresses.
        left_s = this_thread.deadline - time.monotonic()
        limit_s = math.inf if self._connect_limit_s is None else self._connect_limit_s
        # Never 0, nor an exception: redis-py has a socket open by now, which it would leave open.
        return max(min(left_s, limit_s), 0.001)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, limit_s: float | None) -> None:
        self._connect_limit_s = limit_s

    def _connect(self) -> _DeadlineSocket:
        connect: Callable[[], socket.socket] = super()._connect  # type: ignore[misc] # of the class mixed with
        may_overrun = hasattr(self, "check_hostname") or not _is_numeric(self.host)
        connected = _call_within_deadline(connect) if may_overrun else connect()
        return _DeadlineSocket(connected, self.socket_timeout)


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _call_within_deadline(connect: Callable[[], socket.socket]) -> socket.socket:
    """`connect` in a thread, as name look-ups and TLS handshakes keep no deadline; for new connections."""
    deadline = this_thread.deadline
    outcome: Future[socket.socket] = Future()

    def run() -> None:
        this_thread.deadline = deadline
        try:
            connected = connect()
        except Exception as error:  # noqa: BLE001 - it is raised in the waiting thread
            if outcome.set_running_or_notify_cancel():
                outcome.set_exception(error)
            return
        if outcome.set_running_or_notify_cancel():
            outcome.set_result(connected)
        else:
            connected.close()

    threading.Thread(target=run, name="coprocess-store-connect", daemon=True).start()
    try:
        return outcome.result(None if deadline == math.inf else max(deadline - time.monotonic(), 0.0))
    except TimeoutError:
        if outcome.cancel():
            raise TimeoutError("the deadline has passed") from None
        return outcome.result()


class DeadlineConnection(_DeadlineMixin, Connection): ...  # type: ignore[misc] # the mixin overrides an attribute


class DeadlineTlsConnection(_DeadlineMixin, SSLConnection): ...  # type: ignore[misc] # as above


class DeadlineUnixConnection(_DeadlineMixin, UnixDomainSocketConnection):  # type: ignore[misc] # as above
    # redis-py 8.1 reads both when connecting takes too long, and fails on their absence.
    host = "localhost"
    port = 0


class DeadlineManagedConnection(_DeadlineMixin, SentinelManagedConnection): ...  # type: ignore[misc] # as above


class DeadlineManagedTlsConnection(_DeadlineMixin, SentinelManagedSSLConnection): ...  # type: ignore[misc] # as above
