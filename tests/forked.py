"""Processes of `coprocess …` that tests start: `Process` is as subprocess.Popen, `run` as subprocess.run.

They are copies of one process of the test run that has imported all (`tests/fork_server.py`), which saves
the second that a start takes. A real start takes place where the command is another, where its environment
differs in what is read at the start of Python or at imports, outside tests, and everywhere with
REAL_STARTS=1.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import fork_server

#: The `coprocess` that is installed beside this Python.
SCRIPT = str(Path(sys.executable).with_name("coprocess"))
#: Modules of the package that it runs as programs.
_PROGRAMS = ("coprocess.desk.tyk.import_probe",)
#: How variables begin that Python, the C library and imported modules read but once.
_READ_ONCE = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "MALLOC_", "GRPC_")


class _Channel(fork_server.Channel):
    """To a fork server that ends with this process."""

    def __init__(self) -> None:
        self.environment = _read_once(os.environ)
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, fork_server.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        atexit.register(process.wait)
        atexit.register(ours.close)

    def start(self, asked: fork_server.Asked, descriptors: Sequence[int]) -> socket.socket:
        with self._lock:
            return super().start(asked, descriptors)


_channel: _Channel | None = None
_channel_lock = threading.Lock()


def _the_channel() -> _Channel:
    global _channel
    with _channel_lock:
        if _channel is None:
            _channel = _Channel()
        return _channel


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    found = {name: value for name, value in environment.items() if name.startswith(_READ_ONCE)}
    # What a fork server has, and what commands set where nothing is set, also those that run in this process.
    return {"GRPC_VERBOSITY": "NONE"} | found


class Process(fork_server.Process):
    """Takes what subprocess.Popen does."""

    def channel_for(self, words: list[str], environment: dict[str, str]) -> fork_server.Channel | None:
        is_module = words[:2] == [sys.executable, "-m"] and words[2] in ("coprocess", *_PROGRAMS)
        if not is_module and words[:1] != [SCRIPT]:
            return None
        # `python -m tests.chaos` measures real processes.
        if os.environ.get("REAL_STARTS") or "PYTEST_CURRENT_TEST" not in os.environ:
            return None
        channel = _the_channel()
        return channel if _read_once(environment) == channel.environment else None


class Activated(Process):
    """By systemd, which passes it `pass_fds`. There is no real start of it."""

    as_systemd = True


def instead(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `module` starts by subprocess.Popen is a copy, too, where it can be."""
    monkeypatch.setattr(module, "subprocess", types.SimpleNamespace(**vars(subprocess) | {"Popen": Process}))


def run(
    words: Sequence[str | Path],
    *,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    real_start: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """As subprocess.run. `real_start`: no copy."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (subprocess.Popen if real_start else Process)(words, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done
