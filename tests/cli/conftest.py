"""`coprocess`, and `coprocess serve` that ends with the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import forked
from tests.cli.commands import Command, Done, Service, environment
from tests.server import PATIENCE_S


@pytest.fixture
def coprocess(tmp_path: Path) -> Command:
    """Runs the command in `tmp_path` until it ends."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None, real_start: bool = False) -> Done:
        return Done(
            forked.run(
                [sys.executable, "-m", "coprocess", *map(str, arguments)],
                cwd=tmp_path,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_S,
                real_start=real_start,
            )
        )

    return run


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services in `tmp_path`; those that still run when the test ends are stopped."""
    services: list[Service] = []

    def start(*arguments: str | Path, env: dict[str, str] | None = None, real_start: bool = False) -> Service:
        services.append(Service(arguments, tmp_path, env, real_start=real_start))
        services[-1].wait_for("serving")
        return services[-1]

    yield start
    for service in services:
        if service.process.poll() is None:
            # Not killed: its embedded store would run on.
            service.process.terminate()
        service.process.communicate()
