"""The service as users run it: `coprocess serve`, in a process of its own."""

from __future__ import annotations

import http.client
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from coprocess.process.admin_access import COMMAND_HEADER
from tests import forked
from tests.server import PATIENCE_S, Client

Line = dict[str, Any]


class ServeProcess:
    """Runs inside `with`, on free ports. Unless `flags` say else, its store is one that nobody contacts.

    `lines` are its log entries so far. `prefix`: a command that runs it. `real_start`: no copy of a
    process that has imported all already. `pass_fds`: descriptors that it inherits: as they are after such a
    start, and as systemd passes sockets to a copy.
    """

    def __init__(
        self,
        handlers: Path,
        *flags: str,
        listen: str = "127.0.0.1:0",
        admin: str | None = "127.0.0.1:0",
        wait: bool = True,
        prefix: Sequence[str] = (),
        real_start: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._prefix = prefix
        start = subprocess.Popen if real_start else forked.Activated if pass_fds else forked.Process
        self._popen = partial(start, pass_fds=pass_fds)
        self.lines: list[Line] = []
        self._flags = [f"--handlers={handlers}", f"--listen={listen}", *flags]
        if admin is not None and not any(flag.partition("=")[0] == "--admin" for flag in flags):
            self._flags.append(f"--admin={admin}")
        if not any(flag.startswith(("--redis", "--data-dir")) for flag in flags):
            self._flags.append("--redis=redis://127.0.0.1:1/0")
        elif not any(flag.startswith("--store-timeout-s") for flag in flags):
            # A machine that stands still for a second is no fault of the store's.
            self._flags.append(f"--store-timeout-s={PATIENCE_S}")
        if not any(flag.startswith("--settle-s") for flag in flags):
            # Tests write their files at once. Where they are watched, half of one may be seen.
            self._flags.append(f"--settle-s={0.3 if '--reload' in flags else 0.02}")
        self._folder = handlers.parent
        self._wait = wait
        self._unread: queue.SimpleQueue[Line | None] = queue.SimpleQueue()

    def __enter__(self) -> ServeProcess:
        self.process = self._popen(
            [*self._prefix, sys.executable, "-m", "coprocess", "serve", "--log-format=json", *self._flags],
            cwd=self._folder,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for us, who then end it.
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._wait:
            self.wait_for("serving")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            # An embedded store outlives a service that is killed.
            embedded = any(flag.startswith("--data-dir") for flag in self._flags)
            self.process.send_signal(signal.SIGTERM if embedded else signal.SIGKILL)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            raise
        finally:
            self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), "a process that the service left behind holds its log"
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line: Line = json.loads(text) if text.startswith("{") else {"event": text.rstrip("\n")}
            self.lines.append(line)
            self._unread.put(line)
        self._unread.put(None)

    def wait_for(self, event: str, accept: Callable[[Line], bool] = lambda line: True) -> Line:
        """The next log entry `event`, also if it came since the last one that was waited for."""
        while (line := self._unread.get(timeout=PATIENCE_S)) is not None:
            if line["event"] == event and accept(line):
                return line
        raise AssertionError(f"the service ended before it logged {event!r}: {self.lines}")

    def logged(self, event: str) -> Line:
        return next(line for line in self.lines if line["event"] == event)

    @property
    def address(self) -> str:
        address: str = self.logged("listening")["listen"][0]
        return address

    @property
    def admin(self) -> str:
        address: str = self.logged("admin")["listen"]
        return address

    def client(self) -> Client:
        return Client(self.address)

    def http(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and body of an admin page. `headers` None: those of a client that may command."""
        host, _, port = self.admin.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        try:
            connection.request(method, path, headers={COMMAND_HEADER: "1"} if headers is None else headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def page(self, path: str) -> Any:
        return json.loads(self.http("GET", path)[1])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, and give the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    @property
    def text(self) -> str:
        """All that was logged."""
        return "\n".join(json.dumps(line) for line in self.lines)


def write(folder: Path, **modules: str) -> Path:
    """A folder of handlers with these modules."""
    folder.mkdir(exist_ok=True)
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    return folder


def stamping(value: str) -> str:
    """A module whose Pre hook `stamp` sets the header X-Stamp to `value`."""
    body = f'    request.headers["X-Stamp"] = "{value}"'
    return f"from coprocess import Pre\n\n@Pre\ndef stamp(request):\n{body}\n"
