"""The plugin server under load: events/s, CPU and latency, beside kong-pdk where that is installed.

    python bench/kong.py [--peer PYTHON] [--seconds N] [--json]

PYTHON is an interpreter that has kong-pdk 0.36 and gevent; KONG_PDK_PYTHON names it, too. The server has one
core, the load the other, but where workers are measured; Kong's side of the protocol is played, its frames in
Kong's bytes. Nothing else should run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coprocess.gateways.kong import wire

Figures = dict[str, float]

PLUGIN = """
import time

class Plugin:
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        what = kong.request.get_header("x-what")
        kong.service.request.set_header("x-seen", "1")

    def rewrite(self, kong):
        time.sleep(0.05)
        kong.service.request.set_header("x-seen", "1")

    def response(self, kong):
        raise ValueError("as plugins do")

    def log(self, kong):
        sum(range(50_000))  # About a millisecond.

    def preread(self, kong):
        kong.service.request.set_raw_body(kong.request.get_raw_body()[0])

if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server
    start_dedicated_server("bench", Plugin, "1.0.0", 1, [])
"""


@contextlib.contextmanager
def server(words: list[str], path: Path, cores: set[int]) -> Iterator[subprocess.Popen[bytes]]:
    # Before it starts: what it starts itself has the same.
    words = ["taskset", "-c", ",".join(map(str, cores)), *words]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(400):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                break
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def cpu_s(pid: int) -> float:
    """Of a process and those that it has started."""
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    used_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    for children in process.glob("task/*/children"):
        with contextlib.suppress(OSError):  # A thread, or a process, that has ended meanwhile.
            used_s += sum(map(cpu_s, map(int, children.read_text().split())))
    return used_s


class Load:
    """Events on some connections, each after the one before it: HandleEvent, steps, and again."""

    def __init__(self, path: Path, connections: int, phase: str, data: bytes) -> None:
        self.sockets = [socket.socket(socket.AF_UNIX) for _ in range(connections)]
        start = wire.pack_request(1, wire.START_INSTANCE, {"Name": "bench", "Config": "{}"})
        for each in self.sockets:
            each.connect(str(path))
            each.sendall(start)
            # On each, as a server may say first who it is.
            instance = self._answer(each)[3]["Id"]
        event = {"InstanceId": instance, "EventName": phase}
        self.event = wire.pack_request(1, wire.HANDLE_EVENT, event)[3:]
        self.step = wire.pack_as_kong(wire.STEP) + b"\x91\x82\xa7EventId"
        #: After a call that gives nothing.
        self.step_of_nothing = wire.pack_as_kong(wire.STEP) + b"\x91\x81\xa7EventId"
        self.data = b"\xa4Data" + data
        self.count = 0
        self.latencies_s: list[float] = []

    @staticmethod
    def _answer(connected: socket.socket) -> Any:
        reader = wire.Reader()
        while True:
            for value in reader.feed(connected.recv(65536)):
                if value[0] == wire.ANSWER:
                    return value

    def run(self, seconds: float) -> float:
        """Seconds that it took, without the warm-up."""
        selector = selectors.DefaultSelector()
        began = dict.fromkeys(self.sockets, 0.0)
        part: dict[socket.socket, bytes] = {}
        now = time.perf_counter
        for each in self.sockets:
            selector.register(each, selectors.EVENT_READ)
            began[each] = now()
            each.sendall(self._head() + self.event)
        since_s = now()
        warm_s, until_s, is_warm = since_s + 0.2 * seconds, since_s + seconds, False
        while now() < until_s:
            if not is_warm and now() > warm_s:
                is_warm, since_s, self.count = True, now(), 0
                self.latencies_s.clear()
            for key, _ in selector.select(1):
                each = key.fileobj
                assert isinstance(each, socket.socket)  # noqa: S101 - for the type checker
                came = part.pop(each, b"") + each.recv(2**20)
                at = came.rfind(b"\xa7EventId", -20)
                if at < 0:
                    part[each] = came
                elif self._goes_on(each, came, at):
                    self.count += 1
                    self.latencies_s.append(now() - began[each])
                    began[each] = now()
                    each.sendall(self._head() + self.event)
        selector.close()
        for each in self.sockets:
            each.close()
        return now() - since_s

    def events(self, count: int) -> None:
        """So many, one after the other, on the first connection, whatever time it takes."""
        first = self.sockets[0]
        for _ in range(count):
            first.sendall(self._head() + self.event)
            came = b""
            while True:
                came += first.recv(2**20)
                at = came.rfind(b"\xa7EventId", -20)
                if at >= 0:
                    if self._goes_on(first, came, at):
                        break
                    came = b""

    def _goes_on(self, connected: socket.socket, came: bytes, at: int) -> bool:
        """Answer what an event asks, which has its id `at`. True: it is over."""
        if b"\xa3ret" in came[-30:] or b"kong.response.exit" in came[:60]:
            return True
        if b".set_" in came[:60]:
            connected.sendall(self._head() + self.step_of_nothing + came[at + 8 :])
        else:
            connected.sendall(self._head() + self.step + came[at + 8 :] + self.data)
        return False

    def _head(self) -> bytes:
        return b"\x94\x00\xce" + struct.pack(">I", 7)


#: Name, connections, phase, and what a PDK call gives.
CASES = (
    ("one at a time", 1, "access", b"\xa1x"),
    ("16 connections", 16, "access", b"\xa1x"),
    ("64 events that sleep 50 ms", 64, "rewrite", b"\xc3"),
    ("16 connections, each event raises", 16, "response", b"\xc3"),
    ("a body of 1 MiB, read and replaced", 4, "preread", b"\xc6" + struct.pack(">I", 2**20) + b"x" * 2**20),
    ("16 connections, each event computes 1 ms", 16, "log", b"\xc3"),
)
#: For which the server has both cores: there, workers are measured.
COMPUTES = CASES[-1][0]
WORKERS = "coprocess, --workers 2"


def measure(path: Path, case: str, seconds: float) -> None:
    """In a process of its own: prints what it measured, as JSON."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {1})
    _, connections, phase, data = next(each for each in CASES if each[0] == case)
    load = Load(path, connections, phase, data)
    took_s = load.run(seconds)
    found = sorted(load.latencies_s) or [float("nan")]
    print(
        json.dumps([load.count / took_s, found[len(found) // 2] * 1e6, found[int(len(found) * 0.99)] * 1e6])
    )


def measured(process: subprocess.Popen[bytes], path: Path, case: str, seconds: float) -> Figures | None:
    """None where the server answers no more."""
    words = [sys.executable, __file__, "--seconds", str(seconds), "--measure", str(path), case]
    before_s, since_s = cpu_s(process.pid), time.perf_counter()
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if ran.returncode or not ran.stdout:
        return None
    rate, p50_us, p99_us = json.loads(ran.stdout)
    share = (cpu_s(process.pid) - before_s) / min(time.perf_counter() - since_s, seconds)
    if not rate:
        return None
    return {"events_per_s": rate, "cpu_us": share / rate * 1e6, "p50_us": p50_us, "p99_us": p99_us}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("KONG_PDK_PYTHON"), help="PYTHON, as above")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, at the end")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1], options.seconds)
        return
    told = sys.stderr if options.json else sys.stdout
    figures: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "plugin.py"
        plugin.write_text(textwrap.dedent(PLUGIN))
        servers = {"coprocess": [sys.executable, "-m", "coprocess", "kong", "serve", str(plugin)]}
        if options.peer:
            servers["kong-pdk, threads"] = [options.peer, str(plugin)]
            servers["kong-pdk, gevent"] = [options.peer, str(plugin), "-g"]
        servers[WORKERS] = [*servers["coprocess"], "--workers", "2"]
        print(
            f"{'case':40} {'server':20} {'events/s':>10} {'CPU µs':>8} {'p50 µs':>9} {'p99 µs':>9}", file=told
        )
        for case, *_ in CASES:
            for number, (name, words) in enumerate(servers.items()):
                if name == WORKERS and case != COMPUTES:
                    continue
                cores = {0, 1} if case == COMPUTES else {0}
                # One of its own for each case: after an exception, a peer answers nobody any more.
                path = Path(folder) / f"{number}.socket"
                with server([*words, "-p", folder, "--socket-name", path.name], path, cores) as process:
                    found = measured(process, path, case, options.seconds)
                path.unlink(missing_ok=True)
                if found is None:
                    print(f"{case:40} {name:20} no event was answered", file=told, flush=True)
                    continue
                figures.setdefault(case, {})[name] = found
                numbers = " ".join(f"{value:9,.0f}" for value in found.values())
                print(f"{case:40} {name:20} {numbers}", file=told, flush=True)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
