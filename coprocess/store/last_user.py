"""Stops an embedded server whose users were killed: run as a process of its own, beside the server.

    last_user.py FOLDER SOCKET GRACE_S

A user that ends in order stops the server itself (`embedded`). One that was killed cannot, but the kernel
lets go of its lock, which this process looks at. It imports the standard library alone, to stay small.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from contextlib import suppress

#: So long, a service that is started again finds the server of the one that was killed.
GRACE_S = 10.0
_ANSWER_S = 5.0
#: Who removes a folder removes its files one by one: so long, it may be there yet.
_REMOVAL_S = 1.0
_POLL_S = 0.01


def watch(folder: str, socket_path: str, grace_s: float = GRACE_S, look_s: float = 1.0) -> None:
    """Return when the server is gone, or another process watches it. It looks every `look_s` seconds.

    Raises OSError where one of the files is gone. None is made: the folder may be on its way to be removed.
    """

    def opened(name: str) -> int:
        return os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def is_in_place() -> bool:
        """Whether the folder is the server's still: it may be removed, and made anew for another."""
        try:
            return os.path.samestat(os.fstat(server), os.stat(f"{folder}/server.lock"))
        except OSError:
            return False

    own, users, deciding, server = map(opened, ("watch.lock", "users.lock", "start.lock", "server.lock"))
    if not takes(own):
        return
    pid: int | None = None
    unused_since_s: float | None = None
    while True:
        with suppress(OSError, ValueError):  # The folder may be removed, and the server would live on.
            found = _pid_of_server(folder)
            if is_in_place():
                pid = found
        # While somebody starts or stops the server, or looks whether it runs, these locks are his.
        if takes(deciding):
            try:
                if _is_free(server):
                    if is_in_place() and _is_free(users):
                        remove_socket_folder(folder, socket_path)
                    return
                if not _is_free(users):
                    unused_since_s = None
                elif unused_since_s is None:
                    unused_since_s = time.monotonic()
                elif time.monotonic() - unused_since_s >= grace_s:
                    with suppress(OSError):
                        if is_in_place():
                            _stop(folder, socket_path, pid, server)
                        elif pid is not None:
                            # Told to stop, it would remove a socket by its name, perhaps another server's.
                            os.kill(pid, signal.SIGKILL)
                            remove_socket_folder_of_none(folder, socket_path)
                    return
            finally:
                fcntl.flock(deciding, fcntl.LOCK_UN)
        time.sleep(look_s)


def _pid_of_server(folder: str) -> int:
    """Raises OSError, ValueError where its file is gone, or is just being written."""
    with open(f"{folder}/valkey.pid") as file:
        return int(file.read())


def _stop(folder: str, socket_path: str, pid: int | None, server: int) -> None:
    try:
        _shut_down(socket_path)
    except OSError:
        # Somebody has removed the socket. The server lives, as its lock is held.
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
    until_s = time.monotonic() + _ANSWER_S
    while time.monotonic() < until_s:
        if _is_free(server):
            remove_socket_folder(folder, socket_path)
            return
        time.sleep(_POLL_S)


def remove_socket_folder(folder: str, socket_path: str) -> None:
    """Where the socket of `folder` lies in one of its own. Needs start.lock, and that no server runs."""
    place = os.path.dirname(socket_path)
    if place != folder:
        with suppress(OSError):
            with suppress(FileNotFoundError):
                os.unlink(socket_path)
            os.rmdir(place)


def remove_socket_folder_of_none(folder: str, socket_path: str) -> None:
    """As that, where `folder` is gone, or soon is. If it was made anew, the socket is the next server's."""
    until_s = time.monotonic() + _REMOVAL_S
    while os.path.lexists(folder):
        if time.monotonic() >= until_s:
            return
        time.sleep(_POLL_S)
    remove_socket_folder(folder, socket_path)


def takes(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(lock: int) -> bool:
    taken = takes(lock)
    fcntl.flock(lock, fcntl.LOCK_UN)
    return taken


def _shut_down(socket_path: str) -> None:
    """The server saves its data, and closes the connection for an answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(socket_path)
        connection.sendall(b"SHUTDOWN\r\n")
        connection.recv(1000)


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2], float(sys.argv[3]))
