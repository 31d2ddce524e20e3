"""What systemd is told of a service of `Type=notify`: a datagram for each change (sd_notify(3)).

And the sockets that it passes, where a .socket unit holds the addresses (sd_listen_fds(3)).
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import MutableMapping

import structlog

from coprocess.errors import ConfigError

log = structlog.get_logger("coprocess")


class ServiceManager:
    """Tells systemd of this process. Where it was not started by systemd, it tells nobody."""

    def __init__(self, socket_name: str | None, watchdog_s: float | None) -> None:
        """`watchdog_s`: what systemd wants to hear of this process once in; None: never."""
        self._address = socket_name and ("\0" + socket_name[1:] if socket_name[0] == "@" else socket_name)
        self._watchdog_s = watchdog_s
        self._watched = False
        self._has_failed = False

    def ready(self, status: str) -> None:
        """The service has started, or a reload has ended. `status` is for `systemctl status`, one line."""
        self._tell("READY=1", f"STATUS={status}")
        if self._address and self._watchdog_s is not None and not self._watched:
            self._watched = True
            # Not in a thread that has other things to do: loading handlers may take long.
            threading.Thread(
                target=self._say_alive, args=(self._watchdog_s / 3,), name="systemd-watchdog", daemon=True
            ).start()

    def reloading(self) -> None:
        # By the time, systemd knows which of its signals this is the answer to.
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=loading handlers")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=stopping")

    def _say_alive(self, interval_s: float) -> None:
        while True:
            self._tell("WATCHDOG=1")
            time.sleep(interval_s)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_TIMEOUT_S)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("systemd could not be told", what=lines[0], reason=error.strerror or str(error))


_TIMEOUT_S = 1.0


def take_service_manager(environ: MutableMapping[str, str] = os.environ) -> ServiceManager:
    """The one that `environ` names. Its variables are taken out: they are not for processes started here."""
    me = str(os.getpid())
    name = environ.pop("NOTIFY_SOCKET", "")
    watchdog_us, watched_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", me)
    is_watched = watchdog_us.isdecimal() and int(watchdog_us) > 0 and watched_pid == me
    # Others than these are for virtual machines.
    return ServiceManager(
        name if name[:1] in ("/", "@") else None, int(watchdog_us) / 1e6 if is_watched else None
    )


def take_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Those that systemd passes to this process, in the unit's order; its variables are taken out.

    Raises ConfigError for one that does not listen for streams.
    """
    # Removed, whoever they are for.
    count, pid, names = (environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    sockets = []
    for index, name in itertools.zip_longest(range(int(count)), names.split(":")[: int(count)]):
        descriptor = _FIRST_DESCRIPTOR + index
        try:
            os.set_inheritable(descriptor, False)
            passed = socket.socket(fileno=descriptor)
            is_good = (
                passed.family in _FAMILIES
                and passed.type == socket.SOCK_STREAM
                and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            )
        except OSError:
            is_good = False
        if not is_good:
            raise ConfigError(
                f"LISTEN_FDS={count}: descriptor {descriptor} ({name or 'without a name'}) is no socket that "
                "listens for streams. Expected: a .socket unit with ListenStream= and without Accept=yes"
            )
        sockets.append(passed)
    return sockets


def address_of(listening: socket.socket) -> str:
    """As the setting `listen` has it. Of a socket without a path, `unix:@name`."""
    name = listening.getsockname()
    if listening.family != socket.AF_UNIX:
        host = f"[{name[0]}]" if listening.family == socket.AF_INET6 else name[0]
        return f"{host}:{name[1]}"
    return f"unix:@{name[1:].decode('utf-8', 'replace')}" if isinstance(name, bytes) else f"unix:{name}"


_FIRST_DESCRIPTOR = 3
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
