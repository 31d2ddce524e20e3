"""Notices when handler files or the settings file have changed, by their paths.

Looked at again and again: what the system tells of a folder ends where a link is switched to another one, or
where it is renamed and made anew, as releases and mounted volumes do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from coprocess.errors import CoprocessError
from coprocess.process.settled_files import take_snapshot

_TICK_S = 0.2
#: Looking at many files takes time, of which calls get the rest.
_SHARE = 0.05
_STOP_TIMEOUT_S = 1.0

_SUFFIXES = (".py", ".json", ".so")


class FileWatch:
    """Calls back, from a thread of its own, when files have changed and have come to rest.

    What is no code may be data that handlers write: it is not looked at.
    """

    def __init__(
        self,
        folders: Callable[[], list[Path]],
        settings_file: Path | None,
        on_change: Callable[[], None],
        settle_s: float,
    ) -> None:
        """`folders` is asked each time; it may raise CoprocessError later. `settle_s`: what "at rest" is.

        `settings_file` None: there is none.
        """
        self._ask_folders = folders
        self._folders = folders()
        self._settings_file = settings_file
        self._on_change = on_change
        self._settle_s = settle_s
        self._stop = threading.Event()
        self._seen = self._look()
        self._thread = threading.Thread(target=self._watch, name="file-watch", daemon=True)

    def start(self) -> None:
        """No change is missed from when this object was made."""
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _watch(self) -> None:
        told, changed_s = self._seen, time.monotonic()
        while True:
            began_s = time.monotonic()
            now = self._look()
            took_s = time.monotonic() - began_s
            if now != self._seen:
                self._seen, changed_s = now, time.monotonic()
            if self._seen != told and time.monotonic() - changed_s >= self._settle_s:
                told = self._seen
                self._on_change()
            if self._stop.wait(max(_TICK_S, took_s / _SHARE)):
                return

    def _look(self) -> dict[str, tuple[int, ...]]:
        with suppress(CoprocessError):  # The reload that follows tells of it.
            self._folders = self._ask_folders()
        seen = take_snapshot(self._folders)
        seen = {path: state for path, state in seen.items() if len(state) == 2 or path.endswith(_SUFFIXES)}
        if self._settings_file is None:
            return seen
        try:
            file = self._settings_file.stat()
        except OSError:
            return seen
        seen[str(self._settings_file)] = (file.st_dev, file.st_ino, file.st_mtime_ns, file.st_size)
        return seen
