"""Unix sockets as files: their permissions, what a dead service left behind, and their end."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from coprocess.server.engine import ListenError

Listening = TypeVar("Listening")


def listen(address: str, bind: Callable[[str], Listening], *, socket_mode: int) -> Listening:
    """Call `bind` with `address`; a unix socket gets the permissions `socket_mode`. Raises ListenError."""
    if not address.startswith("unix:"):
        return bind(address)
    path = Path(address.removeprefix("unix:"))
    _clear_socket(path)
    # From the beginning: a socket that is narrowed later can be connected to before.
    before = os.umask(0o777 & ~socket_mode)
    try:
        bound = bind(address)
    finally:
        os.umask(before)
    path.chmod(socket_mode)
    return bound


def remove_socket(address: str) -> None:
    """Remove the file of a unix socket; other addresses have none."""
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def _clear_socket(path: Path) -> None:
    """Remove a socket that nobody listens on any more; gRPC would replace one that is in use, too."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ListenError(f"cannot listen on unix:{path}: it is there, and no socket")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ListenError(f"cannot listen on unix:{path}: no such folder") from None
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ListenError(f"cannot listen on unix:{path}: Address already in use")
