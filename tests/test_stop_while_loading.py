"""A stop always ends the process, also where a module's code hangs; SIGHUP never does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, until

ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(10**6)",
    "lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "except": "import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass",
    # C code that lets no signal handler run.
    "c": "import ctypes; libc = ctypes.CDLL(None)\nwhile True: libc.sleep(10**6)",
}
HANGING = "stopping while handlers load: this module's code does not end"


def hang(tmp_path: Path, kind: str) -> str:
    return f"import pathlib; pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n{ENDLESS[kind]}\n"


@pytest.mark.parametrize("kind", ENDLESS)
def test_sigterm_ends_a_start_that_hangs_at_import(tmp_path: Path, kind: str) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("one"), b=hang(tmp_path, kind))
    with ServeProcess(handlers, wait=False) as service:
        until((tmp_path / "begun").exists)
        assert service.end() == 0
        assert service.logged(HANGING)["module"] == str(handlers / "b.py")


def test_sigterm_ends_a_reload_that_hangs_at_import_and_answers_what_runs(tmp_path: Path) -> None:
    slow = "\n@Pre\ndef slow(request):\n    import time\n    time.sleep(2.5)\n"
    handlers = write(tmp_path / "handlers", a=stamping("one") + slow)
    with ServeProcess(handlers) as service, service.client() as client:
        write(handlers, b=hang(tmp_path, "sleep"))
        service.process.send_signal(signal.SIGHUP)
        until((tmp_path / "begun").exists)
        call = client.future(make_object(hook_name="slow"))
        client.dispatch(make_object(hook_name="stamp"))
        service.process.send_signal(signal.SIGTERM)
        assert call.result(PATIENCE_S) is not None
        assert service.wait() == 0
        assert service.logged(HANGING)["module"] == str(handlers / "b.py")


def test_sigterm_ends_workers_that_hang_at_import(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", b=hang(tmp_path, "loop"))
    with ServeProcess(handlers, "--workers=2", wait=False) as service:
        until((tmp_path / "begun").exists)
        assert service.end() == 0
        assert service.logged(HANGING)["module"] == str(handlers / "b.py")


@pytest.mark.parametrize("flags", [(), ("--workers=2",)])
def test_sighup_in_the_first_second_does_not_end_the_service(tmp_path: Path, flags: tuple[str, ...]) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("one"))
    with ServeProcess(handlers, *flags, wait=False, real_start=True) as service:
        # As soon as the process has a handler, which is long before it serves.
        process = Path(f"/proc/{service.process.pid}")
        # Before, it is a copy of this process.
        until(lambda: b"coprocess\0serve" in (process / "cmdline").read_bytes())
        until(lambda: _catches(process / "status", signal.SIGHUP))
        assert not service.lines
        while not any(line["event"] == "serving" for line in service.lines):
            service.process.send_signal(signal.SIGHUP)
            threading.Event().wait(0.005)
            assert service.process.poll() is None
        assert service.end() == 0


def _catches(status: Path, number: int) -> bool:
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_importing_the_package_leaves_signals_alone() -> None:
    code = "import signal, coprocess; print(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve"],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout == "True\n"
