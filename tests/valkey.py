"""Bare Valkey servers for tests, as real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from coprocess.store.embedded import find_binary
from tests import killed_with_us
from tests.free_ports import free_port

START_TIMEOUT_S = 20.0


class ValkeyProcess:
    """A valkey-server that runs inside `with`: on a unix socket in `folder`, or a free loopback port (`tcp`).

    `options` are configuration names and values (`requirepass="x"`; underscores become dashes). With
    `sentinel_config`, it is a sentinel with that configuration text, always on TCP.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tcp: bool = False,
        sentinel_config: str | None = None,
        **options: str,
    ) -> None:
        self.folder = folder
        self.tcp = tcp or sentinel_config is not None
        self.port = free_port() if self.tcp else 0
        self.socket_path = folder / "bare.sock"
        self._sentinel_config = sentinel_config
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.tcp else f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, or start again with the same address and data; returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1"]
        if not self.tcp:
            arguments = ["--port", "0", "--unixsocket", str(self.socket_path)]
        if self._sentinel_config is not None:
            config = self.folder / "sentinel.conf"
            config.write_text(f"port {self.port}\nbind 127.0.0.1\n{self._sentinel_config}\n")
            arguments = [str(config), "--sentinel"]
        else:
            arguments += ["--save", "", "--dir", str(self.folder)]
        for name, value in self._options.items():
            arguments += [f"--{name.replace('_', '-')}", value]
        with (self.folder / "bare.log").open("ab") as log:
            # A group of its own, as it may be stopped: in a group that no shell waits for, as in CI, the end
            # of another process would have the kernel end all, tests too, with SIGHUP.
            self._process = subprocess.Popen(
                [str(find_binary()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        killed_with_us.watch(self._process.pid)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "bare.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.005)

    def command(self, *parts: str) -> bytes:
        """The first part of the raw reply to one command."""
        family = socket.AF_INET if self.tcp else socket.AF_UNIX
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(START_TIMEOUT_S)
            connection.connect(("127.0.0.1", self.port) if self.tcp else str(self.socket_path))
            words = b"".join(b"$%d\r\n%s\r\n" % (len(part.encode()), part.encode()) for part in parts)
            connection.sendall(b"*%d\r\n%s" % (len(parts), words))
            return connection.recv(65536)

    def freeze(self) -> None:
        """The server accepts connections from now on, and never answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """As kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            killed_with_us.forget(self._process.pid)
            self._process = None

    def _answers(self) -> bool:
        try:
            # A server with a password answers NOAUTH: it runs.
            return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def __enter__(self) -> ValkeyProcess:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
