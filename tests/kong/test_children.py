"""Processes that a plugin forks speak with Kong for nobody, and keep none of its connections."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from coprocess.gateways.kong import wire
from tests import forked
from tests.kong.test_commands import KONG, connect, started, wait_for_worker
from tests.server import PATIENCE_S

assert started  # A fixture.

PLUGIN = """
import os
import time

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        child = os.fork()
        if child == 0:
            kong.response.exit(200, "the child's")
        os.waitpid(child, 0)
        kong.response.set_header("X-Parent", "1")

    def rewrite(self, kong):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        kong.response.set_header("X-Child", child)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_child_that_asks_is_ended_and_one_that_lives_on_holds_no_connection(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], workers: str
) -> None:
    """Once, the child's exit went to Kong as the answer, and its parent's came on top of it."""
    path = tmp_path / "p.py"
    path.write_text(PLUGIN)
    words = [*KONG, "serve", str(path), "-p", str(tmp_path), "--workers", workers]
    process = forked.Process(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started.append(process)
    wait_for_worker(tmp_path / "p.socket", process)
    kong = connect(tmp_path / "p.socket", process)
    assert isinstance(wire.message_of(kong.receive()), wire.Notification)
    instance = kong.start()
    for _ in range(3):
        assert kong.run(instance) == [("kong.response.set_header", ["X-Parent", "1"])]
    ((_, (_, child)),) = kong.run(instance, "rewrite")
    try:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        with pytest.raises(EOFError):
            kong.receive()
    finally:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
