"""Handler files at rest: a copy that is under way is waited for, and what changed while it was loaded is
loaded again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import structlog

from coprocess.errors import CoprocessError, LoadError
from coprocess.loading.loaded import Loaded

log = structlog.get_logger("coprocess")

#: A file or folder by its path, with what differs once it is written, replaced, or reached by another link.
#: A folder that is not there has no entry.
Snapshot = Mapping[str, tuple[int, ...]]

#: How long code may go on changing; then a reload fails. Other files, which may be data that handlers write,
#: are waited for as long as a folder that is gone.
MAX_CODE_S = 30.0
MAX_OTHER_S = 5.0
_MAX_LOADS = 3
_TICK_S = 0.1
#: Looking at many files takes time, of which calls get the rest.
_SHARE = 0.1

_CODE = (".py", ".so")


def take_snapshot(folders: Iterable[Path], *, code_only: bool = False) -> dict[str, tuple[int, ...]]:
    """All below the folders, as it is now. Links are followed; what begins with a dot is left out."""
    found: dict[str, tuple[int, ...]] = {}
    for folder in folders:
        _look(str(folder), found, set(), code_only)
    return found


def _look(
    folder: str, found: dict[str, tuple[int, ...]], above: set[tuple[int, int]], code_only: bool
) -> None:
    try:
        status = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError:
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # A link to a folder that it is in.
        return
    # No time: that of a folder changes with data that handlers write.
    found[folder] = identity
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        try:
            if entry.is_dir():
                _look(entry.path, found, above | {identity}, code_only)
            elif not code_only or _is_code(entry.name):
                status = entry.stat()
                # Also the time of the last change: copies keep the other, over an edit of one length, too.
                times = (status.st_mtime_ns, status.st_ctime_ns)
                found[entry.path] = (status.st_dev, status.st_ino, *times, status.st_size)
        except OSError:  # It went away.
            continue


def _is_code(name: str) -> bool:
    return name.endswith((*_CODE, "manifest.json"))


def code_of(snapshot: Snapshot) -> Snapshot:
    """The folders and the files that are loaded."""
    return {path: state for path, state in snapshot.items() if len(state) == 2 or _is_code(path)}


class SettledLoad:
    """Loads handlers, from the second time on once their files are at rest."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        folders: Callable[[], list[Path]],
        settle_s: float,
        is_stopping: Callable[[], bool],
    ) -> None:
        """`settle_s`: how long nothing may have changed; 0: nothing is waited for."""
        self._load = load
        self._folders = folders
        self._settle_s = settle_s
        self._is_stopping = is_stopping
        self._is_first = True

    def __call__(self) -> Loaded:
        """Raises what `load` raises, and LoadError where files keep changing."""
        if not self._is_first:
            self.wait()
        self._is_first = False
        for _ in range(_MAX_LOADS):
            before = take_snapshot(self._folders(), code_only=True)
            loaded = self._load()
            after = take_snapshot(self._folders(), code_only=True)
            if before == after:
                return loaded
            loaded.forget()
            log.info("files changed while they were loaded: again", path=_difference(before, after))
            self.wait()
        raise LoadError(f"{_difference(before, after)}: keeps changing while it is loaded")

    def wait(self) -> None:
        """Until nothing has changed for a while. Raises LoadError where code goes on changing."""
        began_s = at_rest_s = time.monotonic()
        seen, took_s = self._look()
        if self._was_at_rest(seen):
            return
        while True:
            now_s = time.monotonic()
            if now_s - at_rest_s >= self._settle_s and (self._all_there() or now_s - began_s > MAX_OTHER_S):
                return
            if self._is_stopping():
                raise LoadError("the service stops")
            time.sleep(max(_TICK_S, took_s / _SHARE))
            now, took_s = self._look()
            if now == seen:
                continue
            changed, is_code = _difference(seen, now), code_of(now) != code_of(seen)
            seen = now
            waited_s = time.monotonic() - began_s
            if is_code or waited_s < MAX_OTHER_S:
                at_rest_s = time.monotonic()
            if waited_s > MAX_CODE_S:
                raise LoadError(f"{changed}: has kept changing for {waited_s:.0f} s. Expected: files at rest")

    def _look(self) -> tuple[dict[str, tuple[int, ...]], float]:
        began_s = time.monotonic()
        try:
            folders = self._folders()
        except CoprocessError:
            folders = []  # The load tells of it.
        return take_snapshot(folders), time.monotonic() - began_s

    def _all_there(self) -> bool:
        try:
            return all(folder.is_dir() for folder in self._folders())
        except CoprocessError:
            return True

    def _was_at_rest(self, seen: Snapshot) -> bool:
        """Whether the last change is long enough ago, by the time that nobody can set but the file system."""
        if not seen or not self._all_there():
            return self._settle_s == 0 and bool(seen)
        newest_s = 0.0
        for path in seen:
            try:
                newest_s = max(newest_s, os.stat(path).st_ctime)
            except OSError:
                return False
        # A clock that differs, as of a server of files, says nothing: then it is watched.
        return time.time() - newest_s >= self._settle_s


def _difference(before: Snapshot, after: Snapshot) -> str:
    """A path that differs; files first."""
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    return max(paths, key=lambda path: (len(path), path), default="")
