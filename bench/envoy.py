"""Measure Envoy's calls beside processors on Go and on grpc.aio.

`envoy.py [--seconds 3] [--rounds 3] [--held 1000] [--json]`. Needs Go and two cores: the server is pinned to
one, the load to the other. A stream is one request: its headers, one header set, and its response's headers.
A bare one answers two messages with themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load import COMPILED, free_address

BENCH = Path(__file__).resolve().parent
SERVER_CORE, LOAD_CORE = "0", "1"
#: Both services by hand, on grpc.aio.
AIO = "grpcio-aio"


def ours(address: str, *flags: str, is_compiled: bool = False) -> list[str]:
    handlers = BENCH / "handlers" / "envoy"
    return [
        *(["env", "-C", str(COMPILED)] if is_compiled else []),
        *(sys.executable, "-m", "coprocess", "serve", "--envoy", f"--handlers={handlers}"),
        *(f"--listen={address}", "--admin=off", "--redis=redis://127.0.0.1:1/0", "--log-level=error", *flags),
    ]


@contextmanager
def running(command: list[str], address: str) -> Iterator[int]:
    process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *command])
    host, _, port = address.partition(":")
    try:
        for _ in range(200):
            try:
                socket.create_connection((host, int(port)), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        time.sleep(1.0)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> int:
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in each)
    return int(line.split()[1])


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def load(program: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        ["taskset", "-c", LOAD_CORE, program, *arguments], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(
    program: str, pid: int, address: str, what: str, in_flight: int, seconds: float
) -> tuple[float, float]:
    """Calls a second, and the server's CPU for one, in microseconds."""
    load(program, "load", address, what, str(in_flight), "0.5")
    before_s = cpu_s(pid)
    done = load(program, "load", address, what, str(in_flight), str(seconds))
    return done["done"] / done["seconds"], (cpu_s(pid) - before_s) / done["done"] * 1e6


def hold(program: str, pid: int, address: str, count: int) -> dict[str, float]:
    """What streams cost that wait for their upstream."""
    load_process = subprocess.Popen(
        ["taskset", "-c", LOAD_CORE, program, "hold", address, str(count), "2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    kib, before = resident_kib(pid), threads(pid)
    if load_process.stdout is not None:
        load_process.stdout.readline()
    found = {
        "streams": count,
        "kib_a_stream": (resident_kib(pid) - kib) / count,
        "threads_more": threads(pid) - before,
    }
    load_process.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--held", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--engines", default="http2,compiled", help="also grpcio")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, at the end")
    options = parser.parse_args()
    told = sys.stderr if options.json else sys.stdout
    if shutil.which("go") is None:
        sys.exit("Go is not installed: nothing to compare with")
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/envoybench"
        subprocess.run(["go", "build", "-o", program, "."], cwd=BENCH / "peers" / "envoy", check=True)
        results: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(options.rounds):
            for name in ("go", AIO, *options.engines.split(",")):
                address = free_address()
                if name == "go":
                    command = [program, "serve", address]
                elif name == AIO:
                    command = [sys.executable, str(BENCH / "peers" / "envoy_aio.py"), address]
                elif name == "compiled":
                    command = ours(address, is_compiled=True)
                else:
                    command = ours(address, f"--engine={name}")
                with running(command, address) as pid:
                    for what in ("streams", "checks", *(["bare"] if name == "go" else [])):
                        found = measure(program, pid, address, what, options.in_flight, options.seconds)
                        results.setdefault((name, what), []).append(found)
            address = free_address()
            with running([sys.executable, str(BENCH / "bare_stream.py"), address], address) as pid:
                found = measure(program, pid, address, "bare", options.in_flight, options.seconds)
                results.setdefault(("http2", "bare"), []).append(found)
        figures: dict[str, Any] = {}
        for (name, what), found in results.items():
            rate, cpu_us = (statistics.median(each) for each in zip(*found, strict=True))
            figures.setdefault(what, {})[name] = {"calls_per_s": rate, "cpu_us_per_call": cpu_us}
            print(f"{name:10} {what:8} {rate:8.0f}/s {cpu_us:6.1f} us CPU", file=told)
        address = free_address()
        with running(ours(address), address) as pid:
            hold(program, pid, address, 10)
            held = figures["held"] = hold(program, pid, address, options.held)
            print(
                f"{held['streams']} streams that wait: {held['kib_a_stream']:.1f} KiB a stream, "
                f"{held['threads_more']} threads more",
                file=told,
            )
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
