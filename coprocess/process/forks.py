"""What a process that a handler forks must not keep of the service: its sockets, and its signal handlers.

A child lives as long as it likes. With the service's sockets it would keep the port, the connections of
clients, and a worker's socket to the front; and the signals that are to end it would do nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from coprocess.descriptors import let_go

#: Where the service listens: ports, and paths of unix sockets. What is bound to one, and the connections that
#: came there, are closed in children.
_ports: dict[int, None] = {}
_paths: dict[str, None] = {}
#: Further descriptors that are closed there.
_descriptors: dict[int, None] = {}
#: What each signal did before the service took it.
_signals: dict[int, Any] = {}
#: The signals that the thread which forks had blocked before.
_blocked = threading.local()
_registered = False


def keep_address_from_children(address: str) -> Callable[[], None]:
    """The service listens on `address`: HOST:PORT or unix:/path. Call what is given at its end."""
    _register()
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        _paths[path] = None
        return lambda: _paths.pop(path, None)
    port = int(address.rpartition(":")[2])
    _ports[port] = None
    return lambda: _ports.pop(port, None)


def keep_descriptor_from_children(descriptor: int) -> None:
    """Of a socket that lives as long as this process; also not passed to programs that it starts."""
    _register()
    os.set_inheritable(descriptor, False)
    _descriptors[descriptor] = None


def keep_signal_from_children(number: int, before: Any) -> Callable[[], None]:
    """Children do with a signal what was done `before` the service took it. Call what is given at its end."""
    _register()
    _signals[number] = before
    return lambda: _signals.pop(number, None)


def _register() -> None:
    global _registered
    if not _registered:
        _registered = True
        os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_let_go)


def _hold_signals() -> None:
    # Else one that comes before the child has let go of its handler would be lost.
    _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, list(_signals))


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.before)


def _let_go() -> None:
    """In the child, before anything else runs. No lock is taken: its holder would not exist here."""
    for number, before in _signals.items():
        signal.signal(number, signal.SIG_DFL if before is None else before)
    if _ports or _paths or _descriptors:
        _close_the_services()
    try:
        _release_signals()
    except BaseException:  # noqa: BLE001 - as KeyboardInterrupt, of a signal that came meanwhile
        # What is raised here is ignored by Python, and the signal would be lost: so it ends the child now.
        os._exit(1)


def _close_the_services() -> None:
    numbers = map(int, os.listdir("/dev/fd"))
    let_go([number for number in numbers if number in _descriptors or _is_the_services(number)])


def _is_the_services(descriptor: int) -> bool:
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:  # No socket.
        return False
    try:
        address = found.getsockname()
    except OSError:
        return False
    finally:
        found.detach()
    if found.family == socket.AF_UNIX:
        # One without a path, as systemd may pass: in bytes, of which the first is 0.
        return (
            f"@{address[1:].decode('utf-8', 'replace')}" if isinstance(address, bytes) else address
        ) in _paths
    return found.family in (socket.AF_INET, socket.AF_INET6) and address[1] in _ports
