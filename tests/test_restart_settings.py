"""Settings that were changed while the service runs are named at reload, as they wait for a restart."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.serve_process import ServeProcess, stamping, write
from tests.test_reload import run_reload


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    (tmp_path / "coprocess.toml").write_text("timeout_s = 5\nqueue_size = 9\n")
    return write(tmp_path / "handlers", a=stamping("one"))


def test_changed_settings_are_named_at_reload(handlers: Path, tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin"
    file = tmp_path / "coprocess.toml"
    with ServeProcess(handlers, f"--admin={admin}", "--max-threads=7") as service:
        assert run_reload(f"--admin={admin}", folder=tmp_path).stderr == ""
        # A flag wins over the file: of max_threads, a restart would make nothing else.
        file.write_text('timeout_s = 6\nredis = "redis://:geheim@h"\nlog_level = "debug"\nmax_threads = 3\n')
        done = run_reload(f"--admin={admin}", folder=tmp_path)
        said = "changed settings that take effect at a restart only: timeout_s, queue_size, log_level"
        assert done.returncode == 0
        assert done.stderr == f"warning: {said}\n"
        assert service.wait_for(said)["level"] == "warning"
        file.write_text("timeout_s = 5\nqueue_sise = 9\n")
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(
            "the service could not be started with these settings: "
            f"{file}: queue_sise: no such setting; did you mean queue_size?"
        )
        assert "geheim" not in service.text


def test_one_of_several_workers_names_them(handlers: Path, tmp_path: Path) -> None:
    with ServeProcess(handlers, "--workers=2") as service:
        (tmp_path / "coprocess.toml").write_text("timeout_s = 5\nqueue_size = 10\n")
        assert service.http("POST", "/reload")[0] == 200
        for _ in range(2):
            service.wait_for("reloaded")
        said = [line for line in service.lines if "take effect at a restart" in line["event"]]
        assert len(said) == 1
