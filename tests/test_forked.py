"""Copies of a fork server are what a new process would be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.loading import write
from tests.server import PATIENCE_S

TELLS = """
import atexit, json, os, pathlib, signal, sys, threading
from coprocess import Pre

@Pre
def stamp(request): ...

told = {
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "path": sys.path,
    "cwd": os.getcwd(),
    "environ": dict(os.environ),
    "main": sys.modules["__main__"].__name__,
    "group": os.getpgrp() == os.getpid(),
    "session": os.getsid(0),
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": [thread.name for thread in threading.enumerate()],
    "inherited": sorted(n for n in map(int, os.listdir("/dev/fd")) if n < 3 or _is_inherited(n)),
}
for name in ("stdin", "stdout", "stderr"):
    stream = getattr(sys, name)
    raw = stream.buffer.raw if hasattr(stream.buffer, "raw") else stream.buffer
    told[name] = [stream.encoding, stream.errors, stream.line_buffering, stream.mode, stream.fileno()]
    told[name] += [raw.name, raw.mode, raw.closefd, type(stream.buffer).__name__]
    told[name] += [stream is getattr(sys, f"__{name}__")]
pathlib.Path("told.json").write_text(json.dumps(told, default=str))
atexit.register(lambda: pathlib.Path("ended").touch())
"""
CHECK = [sys.executable, "-m", "coprocess", "check", "--handlers=handlers"]


def test_a_copy_is_given_what_a_new_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = "def _is_inherited(n):\n    import os\n"
    inherited += "    try: return os.get_inheritable(n)\n    except OSError: return False\n"
    write(tmp_path, {"handlers/a.py": inherited + TELLS})
    monkeypatch.setenv("MINE", "ä")
    seen: list[tuple[dict[str, Any], int, str, str]] = []
    ours, theirs = os.pipe()
    for real_start in (False, True):
        done = forked.run(
            CHECK,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=[theirs],
            process_group=0,
            env=dict(os.environ),
            real_start=real_start,
        )
        assert (tmp_path / "told.json").exists(), done
        told = json.loads((tmp_path / "told.json").read_text())
        (tmp_path / "told.json").unlink()
        (tmp_path / "ended").unlink()  # It ended as an interpreter does.
        assert theirs in told["inherited"]
        seen.append((told, done.returncode, done.stdout, done.stderr))
    os.close(ours)
    os.close(theirs)
    for of_copy, of_new in zip(seen[0][0].items(), seen[1][0].items(), strict=True):
        assert of_copy == of_new
    assert seen[0] == seen[1]


def test_a_copy_ends_by_signals_and_timeouts(tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": "import time\ntime.sleep(1000)"})
    with forked.Process(CHECK, cwd=tmp_path) as process:
        try:
            assert process.poll() is None
            assert os.getpgid(process.pid) == os.getpgrp()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
        finally:
            process.kill()
        assert process.wait(PATIENCE_S) == process.poll() == -signal.SIGKILL


def test_a_copy_cannot_stand_for_another_start_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"handlers/a.py": "import sys\nassert sys.flags.utf8_mode"})
    monkeypatch.setenv("PYTHONUTF8", "1")
    done = forked.run(CHECK, cwd=tmp_path, capture_output=True, text=True)
    assert "AssertionError" not in done.stderr + done.stdout
