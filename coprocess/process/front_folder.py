"""The folder that a front process shares with its workers: removed by it, or by them, where it was killed.

The front holds a lock on the folder, which the kernel lets go of when the front is gone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "coprocess-"


@contextmanager
def folder_of_front() -> Iterator[Path]:
    """In the front: the folder, which is there within."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)


def log_lock(folder: Path) -> Path:
    """What whoever writes to the log holds: the front and its workers have one."""
    return folder / "log.lock"


def folder_of_worker(admin: str) -> Path:
    """The folder, in a worker whose admin pages are at `admin`."""
    return Path(admin.removeprefix("unix:")).parent


@contextmanager
def clearing_up_for_front(admin: str) -> Iterator[None]:
    """In a worker whose admin pages are at `admin`: where its front is gone by the end, its folder goes, too.

    The last worker removes it. One that was killed as well cannot, and leaves it.
    """
    try:
        yield
    finally:
        if admin.startswith("unix:"):
            with suppress(OSError):
                _remove_if_left(folder_of_worker(admin))


def _remove_if_left(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Held, the front lives: a worker that takes the place of this one needs the folder.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another worker's admin pages: it has not ended, and does this itself.
        if folder.name.startswith(_PREFIX) and not any(folder.glob("worker-*.sock")):
            shutil.rmtree(folder)
    finally:
        os.close(lock)
