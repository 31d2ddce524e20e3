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


def watch(folder: str, socket_path: str, grace_s: float = GRACE_S, look_s: float = 1.0) -> None:
    """Return when the server is gone, or another process watches it. It looks every `look_s` seconds.

    Raises OSError where one of the files is gone. None is made: the folder may be on its way to be removed.
    """

    def opened(name: str) -> int:
        return os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    own, users, deciding, server = map(opened, ("watch.lock", "users.lock", "start.lock", "server.lock"))
    if not _takes(own):
        return
    pid: int | None = None
    unused_since_s: float | None = None
    while True:
        with suppress(OSError, ValueError):  # The folder may be removed, and the server would live on.
            pid = _pid_of_server(folder)
        # While somebody starts or stops the server, or looks whether it runs, these locks are his.
        if _takes(deciding):
            try:
                if _is_free(server):
                    return
                if not _is_free(users):
                    unused_since_s = None
                elif unused_since_s is None:
                    unused_since_s = time.monotonic()
                elif time.monotonic() - unused_since_s >= grace_s:
                    with suppress(OSError):
                        try:
                            _shut_down(socket_path)
                        except OSError:
                            # The socket was removed with the folder. The server lives, as its lock is held.
                            if pid is not None:
                                os.kill(pid, signal.SIGTERM)
                    return
            finally:
                fcntl.flock(deciding, fcntl.LOCK_UN)
        time.sleep(look_s)


def _pid_of_server(folder: str) -> int:
    """Raises OSError, ValueError where its file is gone, or is just being written."""
    with open(f"{folder}/valkey.pid") as file:
        return int(file.read())


def _takes(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(lock: int) -> bool:
    taken = _takes(lock)
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
