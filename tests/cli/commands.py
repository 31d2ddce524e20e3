"""The commands, as users run them: in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import forked
from tests.loading import program
from tests.server import PATIENCE_S

HANDLERS = program("command_line")


GOOD = "from coprocess import Pre\n@Pre\ndef works(request): request.headers['X-Works'] = '1'\n"


BAD = "\nraise ValueError('wrong')\n"


Command = Callable[..., "Done"]


class Done:
    """A command that has ended."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status = process.returncode
        self.output = process.stdout
        self.errors = process.stderr

    def failed(self) -> list[str]:
        """The lines on standard error of a command that had to fail."""
        assert self.status == 1, (self.status, self.output, self.errors)
        assert not self.output, self.output
        return self.errors.splitlines()


def environment(changes: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, **(changes or {})}


class Service:
    """`coprocess serve`, running. `log` is what it logged so far."""

    def __init__(
        self,
        arguments: tuple[str | Path, ...],
        folder: Path,
        env: dict[str, str] | None,
        *,
        real_start: bool = False,
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "coprocess",
            "serve",
            "--admin",
            "off",
            "--data-dir",
            folder / "data",
            f"--store-timeout-s={PATIENCE_S}",
        ]
        self.log: list[dict[str, Any]] = []
        self.process = (subprocess.Popen if real_start else forked.Process)(
            [*map(str, command), *map(str, arguments)],
            cwd=folder,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: str) -> None:
        """Until this is logged."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {self.log}")

    @property
    def listening(self) -> dict[str, Any]:
        [entry] = [entry for entry in self.log if "listen" in entry]
        return entry

    @property
    def address(self) -> str:
        address: str = self.listening["listen"][0]
        return address

    def stop(self, number: int) -> int:
        """The exit status after a signal; the rest of the log is read."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        self.log += [json.loads(line) for line in errors.splitlines()]
        assert not output
        return self.process.returncode


def call(coprocess: Command, *arguments: str | Path) -> Done:
    return coprocess("call", *arguments, "--handlers", HANDLERS)
