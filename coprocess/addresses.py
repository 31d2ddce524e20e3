"""Addresses to listen on or to call, and who owns what is listened on, as settings write them."""

from __future__ import annotations

import grp
import ipaddress
import pwd
from typing import Literal


def is_local(address: str) -> bool:
    """Whether only this machine reaches a `normal_address`. A name counts as public, but for localhost."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def normal_address(address: str) -> str:
    """`HOST:PORT` or `unix:/path`, from the spellings that gateways use too. Raises ValueError."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        path = path.removeprefix("//")
        if not path:
            raise _wrong(address, "no path")
        if path.endswith("/"):
            raise _wrong(address, "a folder is no socket")
        return f"unix:{path}"
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    is_ipv6 = host.startswith("[") and host.endswith("]")
    if not colon:
        raise _wrong(address, "no port" if address else "")
    if "/" in host:
        raise _wrong(address)
    if ":" in host and not is_ipv6:
        raise _wrong(address, "an IPv6 address stands in brackets, as in [::1]:5555")
    if not (port.isascii() and port.isdigit()):
        raise _wrong(address, f"{port!r} is no port" if port else "no port")
    if len(port) > 5 or int(port) > _HIGHEST_PORT:
        raise _wrong(address, f"port {port} is over {_HIGHEST_PORT}")
    if not host.strip("[]"):
        raise _wrong(address, f"no host, such as 127.0.0.1:{port}")
    return f"{host}:{port}"


_HIGHEST_PORT = 65535


def _wrong(address: str, why: str = "") -> ValueError:
    reason = f"{why}; " if why else ""
    return ValueError(f"{address!r}: {reason}expected HOST:PORT or unix:/path")


def find_owner(text: str) -> tuple[int, int]:
    """User and group ids of `USER`, `USER:GROUP` or `:GROUP`; -1: not named. Raises ValueError."""
    user, colon, group = text.partition(":")
    if not (user or group) or (colon and not group):
        raise ValueError(f"{text!r}: expected USER, USER:GROUP or :GROUP")
    return _find_id("user", user), _find_id("group", group)


def _find_id(kind: Literal["user", "group"], name: str) -> int:
    if not name:
        return -1
    if name.isascii() and name.isdigit():
        # The highest means "leave it as it is".
        if int(name) >= _NO_ID:
            raise ValueError(f"{kind} {name}: expected a number below {_NO_ID}")
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ValueError(f"no such {kind} on this machine: {name!r}") from None


_NO_ID = 2**32 - 1
