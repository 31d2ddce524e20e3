"""Servers under test and the load on them: what every measurement of `run.py` is made of."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BENCH = Path(__file__).resolve().parent
PEERS = BENCH / "peers"
HANDLERS = BENCH / "handlers"
#: Where `make bench` leaves the project with its http2 engine compiled.
COMPILED = BENCH.parent / "build" / "compiled"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


_WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; import coprocess.cli; coprocess.cli.main()"


def serve_command(
    handlers: Path | str,
    *flags: str,
    address: str = "{addr}",
    data_dir: str,
    uvloop: bool = True,
    is_compiled: bool = False,
) -> str:
    """Ours, as a user starts it: the default configuration, with its output thrown away."""
    words = ["env", "-C", str(COMPILED)] if is_compiled else []
    words += [sys.executable, *(["-m", "coprocess"] if uvloop else ["-c", _WITHOUT_UVLOOP])]
    words += ["serve", "--listen", address, "--handlers", str(handlers)]
    words += ["--data-dir", data_dir, "--admin", "127.0.0.1:0", *flags]
    return shlex.join(words).replace("'{addr}'", "{addr}")


@contextmanager
def serving(command: str, cores: str | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process, in a session of its own, and its address, once it listens."""
    address = free_address()
    words = shlex.split(command.replace("{addr}", address))
    if cores is not None:
        words = ["taskset", "-c", cores, *words]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(address, process)
        yield process, address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


class _Taken(BaseHTTPRequestHandler):
    """Takes what is posted, and does nothing with it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[str]:
    """The address of a collector of traces that forgets them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wait_for(address: str, process: subprocess.Popen[bytes], timeout_s: float = 20) -> None:
    host, _, port = address.rpartition(":")
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), 0.2).close()
        except OSError:
            time.sleep(0.005)
        else:
            return
    sys.exit(f"no server at {address}: {process.args}")


class Load:
    """The load generator: a built `gobench`."""

    def __init__(self, gobench: Path, core: str | None, within: Sequence[str] = ()) -> None:
        """`within`: a command that runs the command behind it."""
        self._gobench = gobench
        self._core = core
        self._within = within

    def start(
        self,
        address: str,
        calls: int,
        seconds: float,
        payload: bytes | None = None,
        check: bool = True,
        *flags: str,
    ) -> subprocess.Popen[str]:
        """`flags`: further ones of gobench."""
        words = [*self._within, "taskset", "-c", self._core] if self._core else [*self._within]
        words += [str(self._gobench), "-addr", address, "-c", str(calls), "-w", "1s", "-d", f"{seconds}s"]
        if payload is not None:
            with tempfile.NamedTemporaryFile(prefix="object-", delete=False) as file:
                file.write(payload)
            words += ["-object", file.name]
        words += [*flags] if check else ["-check=false", *flags]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def run(
        self,
        address: str,
        calls: int,
        seconds: float,
        payload: bytes | None = None,
        check: bool = True,
        *flags: str,
    ) -> dict[str, float]:
        process = self.start(address, calls, seconds, payload, check, *flags)
        return result(process)


def result(process: subprocess.Popen[str]) -> dict[str, float]:
    output, _ = process.communicate(timeout=300)
    figures: dict[str, float] = json.loads(output)
    if figures["errors"]:
        sys.exit(f"{figures['errors']} calls failed: {process.args}")
    return figures


def resident_mib(session: int) -> float:
    """Resident memory of all processes of a session."""
    total = 0.0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return total
