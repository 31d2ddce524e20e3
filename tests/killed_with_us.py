"""Ends server processes of tests whose own process was killed, also with its whole group.

One process, in a session of its own, knows them by their ids. It ends when this one does, and kills what is
left.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading

_CODE = """
import os, signal, sys
left = set()
for line in sys.stdin:
    (left.add if line[0] == "+" else left.discard)(int(line[1:]))
for pid in left:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""
_lock = threading.Lock()
_watch: subprocess.Popen[bytes] | None = None


def watch(pid: int) -> None:
    _tell(f"+{pid}\n")


def forget(pid: int) -> None:
    """Its id may be another's from now on."""
    _tell(f"-{pid}\n")


def _tell(line: str) -> None:
    global _watch
    with _lock:
        if _watch is None:
            _watch = subprocess.Popen(
                [sys.executable, "-IS", "-c", _CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            atexit.register(_end, _watch)
        assert _watch.stdin is not None
        os.write(_watch.stdin.fileno(), line.encode())


def _end(watch: subprocess.Popen[bytes]) -> None:
    watch.communicate()
