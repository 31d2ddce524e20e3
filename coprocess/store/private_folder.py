"""A folder that only this user can enter, and that nobody has prepared: no links that lead out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from coprocess.errors import ConfigError

_EXPECTED = "Expected: a folder that this user owns, and no links in it"


def make_private(folder: Path) -> None:
    """Make `folder`, or take what is there, for this user alone. ConfigError names what is wrong with it.

    Links are not followed, neither here nor in the folder: what they lead to would be written to, and get
    other permissions. Once this returns nobody else can put any there.
    """
    _refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(descriptor).st_uid
        if owner != os.geteuid():
            raise ConfigError(f"{folder}: belongs to user {owner}, not to {os.geteuid()}. {_EXPECTED}")
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    _look_through(folder)


def _look_through(folder: Path) -> None:
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries]
    for path in paths:
        _refuse_link(path)
        try:
            found = path.lstat()
        except FileNotFoundError:  # A server that runs there is done with it.
            continue
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{path}: belongs to user {found.st_uid}, not to {os.geteuid()}. {_EXPECTED}")
        if stat.S_ISDIR(found.st_mode):
            _look_through(path)
        elif stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise ConfigError(f"{path}: is a hard link: the same file has another name, too. {_EXPECTED}")
        elif not (stat.S_ISREG(found.st_mode) or stat.S_ISSOCK(found.st_mode)):
            raise ConfigError(f"{path}: is neither a file nor a folder. {_EXPECTED}")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise ConfigError(f"{path}: is a link, to {os.readlink(path)}. {_EXPECTED}")


def open_lock_file(path: Path) -> int:
    """A descriptor of `path`, which is made where it is not there. OSError where it is a link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
