"""Sockets that are bound to an address, and what of a connection's the peer's system does not have yet."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios


def unix_socket(path: str) -> socket.socket:
    """Raises OSError."""
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    return bound


def tcp_sockets(address: str) -> list[socket.socket]:
    """One for each address that the name in `HOST:PORT` has, all with one port.

    Raises OSError, and ValueError where `address` is none.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > _HIGHEST_PORT:
        raise ValueError(f"expected HOST:PORT, the port from 0 to {_HIGHEST_PORT}")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, target in dict.fromkeys(found):
            # All that have one name share the port that the first was given.
            at = (target[0], bound[0].getsockname()[1] if bound else target[1], *target[2:])
            bound.append(
                socket.create_server(
                    at,
                    family=family,
                    # As "[::]" is meant, and as other servers take it.
                    dualstack_ipv6=host == "::" and family == socket.AF_INET6,
                )
            )
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def undelivered_bytes(connected: socket.socket) -> int:
    """What was written and not acknowledged; 0 also where the system does not tell."""
    return _bytes_of(connected, termios.TIOCOUTQ)


def unread_bytes(connected: socket.socket) -> int:
    """What has come and was not read; 0 also where the system does not tell."""
    return _bytes_of(connected, termios.FIONREAD)


def _bytes_of(connected: socket.socket, queue: int) -> int:
    try:
        return int.from_bytes(fcntl.ioctl(connected, queue, bytes(4)), sys.byteorder)
    except OSError:
        return 0


_HIGHEST_PORT = 65_535
