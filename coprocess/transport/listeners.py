"""Unix sockets as files: their owner and permissions, what a dead service left behind, and their end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from coprocess.transport.engine import ListenError

# The kernel's limit is 108 bytes on Linux and 104 on macOS, both with a closing zero.
_LONGEST_PATH_BYTES = 107 if sys.platform == "linux" else 103

Listening = TypeVar("Listening")


class SocketAccess(NamedTuple):
    """Who may connect to a unix socket: its permissions and owner. -1: who runs this process."""

    mode: int = 0o600
    user_id: int = -1
    group_id: int = -1


def listen(
    address: str, bind: Callable[[str], Listening], access: SocketAccess, *, take_over: bool = False
) -> Listening:
    """Call `bind` with `address`; a unix socket is open to those of `access`. Raises ListenError.

    With `take_over`, a socket that another listens on is replaced: at no time is there none. `bind` gets a
    path beside it.
    """
    if not address.startswith("unix:"):
        return bind(address)
    path = Path(address.removeprefix("unix:"))
    if (size := len(os.fsencode(path))) > _LONGEST_PATH_BYTES:
        raise ListenError(
            f"cannot listen on {address}: the path has {size} bytes. "
            f"Expected: {_LONGEST_PATH_BYTES} at most, as for every unix socket"
        )
    if take_over:
        bound = _bind_beside(path, bind, access)
        _ours[str(path)] = _identity(path)
        return bound
    _clear_socket(path)
    # Closed in the beginning: a socket that is narrowed later can be connected to before.
    before = os.umask(0o777)
    try:
        bound = bind(address)
    finally:
        os.umask(before)
    try:
        _open_to(path, access)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ListenError(f"cannot listen on {address}: {_refusal(access, error)}") from None
    _ours[str(path)] = _identity(path)
    return bound


def _bind_beside(path: Path, bind: Callable[[str], Listening], access: SocketAccess) -> Listening:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"cannot listen on unix:{path}: it is there, and no socket")
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise ListenError(f"cannot listen on unix:{path}: {error.strerror}") from None
        if not path.parent.is_dir():
            raise ListenError(f"cannot listen on unix:{path}: no such folder") from None
    try:
        # In a folder of its own, which nobody else can enter: the path is as short as the other.
        folder = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    except OSError as error:
        raise ListenError(f"cannot listen on unix:{path}: {error.strerror}") from None
    beside = folder / "s"
    try:
        bound = bind(f"unix:{beside}")
        _open_to(beside, access)
        beside.rename(path)
    except OSError as error:
        raise ListenError(f"cannot listen on unix:{path}: {_refusal(access, error)}") from None
    finally:
        beside.unlink(missing_ok=True)
        folder.rmdir()
    return bound


def _open_to(path: Path, access: SocketAccess) -> None:
    # In this order nobody else gets in at any time. The user last: who owns the file could put a link in its
    # place, and the permissions would go to what it leads to.
    if access.group_id != -1:
        os.chown(path, -1, access.group_id, follow_symlinks=False)
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "something else was put in its place")
    path.chmod(access.mode)
    if access.user_id != -1:
        os.chown(path, access.user_id, -1, follow_symlinks=False)


def _refusal(access: SocketAccess, error: OSError) -> str:
    user, group = ("" if number == -1 else str(number) for number in (access.user_id, access.group_id))
    owner = f"{user}:{group}" if group else user
    return f"the socket cannot be given mode {access.mode:04o} and owner {owner!r}: {error.strerror}"


def remove_socket(address: str) -> None:
    """Remove the file of a unix socket that `listen` made, and nothing that has come in its place since."""
    if not address.startswith("unix:"):
        return
    path = Path(address.removeprefix("unix:"))
    ours = _ours.pop(str(path), None)
    if ours is not None and _identity(path) == ours:
        path.unlink(missing_ok=True)


def remove_dead_socket(address: str) -> None:
    """Remove the file of a unix socket that another process made, where nobody listens there any more."""
    if address.startswith("unix:"):
        with contextlib.suppress(ListenError):
            _clear_socket(Path(address.removeprefix("unix:")))


#: Of the sockets that this process has made, by path: which file it was.
_ours: dict[str, tuple[int, int] | None] = {}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _clear_socket(path: Path) -> None:
    """Remove a socket that nobody listens on any more; gRPC would replace one that is in use, too."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"cannot listen on unix:{path}: it is there, and no socket")
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise ListenError(f"cannot listen on unix:{path}: {error.strerror}") from None
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
