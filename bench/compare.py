#!/usr/bin/env python3
"""Measure coprocess.Dispatcher servers side by side, in one run.

    compare.py --gobench BIN [--rounds 3] [--seconds 4] [--calls 32] [--json FILE] \
        NAME='command that serves {addr}' [NAME='...']

Each server is started pinned to one core, the load to another, in alternating
rounds, so that noise falls on all alike. For each it prints the median over the
rounds of: calls a second with --calls in flight on one HTTP/2 connection, p50 and
p99 latency there and with one call in flight (microseconds), the server's CPU
time for one call (microseconds, user + system, all its processes), its resident
memory (MiB), and every figure's ratio to the first server named. Exit status 1
when a server did not start or any call failed.

Build gobench first: (cd gobench && go build -o BIN .). 'BIN -serve -addr {addr}'
is the Go peer.
"""

import argparse
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")


def session_usage(sid: int) -> tuple[float, float]:
    """CPU seconds and resident MiB of every live process in session `sid`."""
    cpu = rss = 0.0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == sid:
            cpu += (int(fields[11]) + int(fields[12])) / TICK
            rss += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return cpu, rss


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port: int, proc: subprocess.Popen, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and proc.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def load(args, addr: str, calls: int, seconds: float, extra: list[str]) -> dict:
    cmd = [
        "taskset",
        "-c",
        args.load_core,
        args.gobench,
        "-addr",
        addr,
        "-c",
        str(calls),
        "-w",
        "500ms",
        "-d",
        f"{seconds}s",
        *extra,
    ]
    out = subprocess.run(cmd, capture_output=True, text=True, timeout=seconds + 30)
    if out.returncode:
        sys.exit(f"gobench failed: {out.stderr}")
    return json.loads(out.stdout)


def measure(args, name: str, command: str, extra: list[str]) -> dict | None:
    port = free_port()
    addr = f"127.0.0.1:{port}"
    argv = [
        "taskset",
        "-c",
        args.server_core,
        *shlex.split(command.replace("{addr}", addr).replace("{port}", str(port))),
    ]
    # The server writes to it as long as it runs.
    log = open(f"{args.logs}/{name}.log", "ab") if args.logs else subprocess.DEVNULL  # noqa: SIM115
    proc = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        if not wait_for(port, proc):
            print(f"{name}: did not listen on {addr}", file=sys.stderr)
            return None
        time.sleep(1)
        load(args, addr, args.calls, 1, extra)  # warm up
        cpu0, _ = session_usage(proc.pid)
        t0 = time.monotonic()
        busy = load(args, addr, args.calls, args.seconds, extra)
        wall = time.monotonic() - t0
        cpu1, rss = session_usage(proc.pid)
        one = load(args, addr, 1, max(1.0, args.seconds / 2), extra)
        made = busy["calls"] * wall / args.seconds  # the unmeasured lead-in is work too
        return {
            "calls_per_s": busy["calls_per_s"],
            "p50_us": busy["p50_us"],
            "p99_us": busy["p99_us"],
            "one_p50_us": one["p50_us"],
            "one_p99_us": one["p99_us"],
            "cpu_us_per_call": (cpu1 - cpu0) * 1e6 / max(1, made),
            "rss_mib": rss,
            "errors": busy["errors"] + one["errors"],
        }
    finally:
        try:
            os.killpg(proc.pid, signal.SIGTERM)
            proc.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(proc.pid, signal.SIGKILL)
            proc.wait()
        except ProcessLookupError:
            pass


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("servers", nargs="+", metavar="NAME=COMMAND")
    p.add_argument("--gobench", required=True)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=4)
    p.add_argument("--calls", type=int, default=32)
    p.add_argument("--object", help="a file with a serialized Object to send")
    p.add_argument("--ca", help="speak TLS, and trust these certificates (PEM)")
    p.add_argument("--no-check", action="store_true", help="take any reply as good")
    p.add_argument("--server-core", default="0")
    p.add_argument("--load-core", default="1")
    p.add_argument("--logs", help="a folder for the servers' output")
    p.add_argument("--json", help="write the medians here")
    args = p.parse_args()
    extra = (["-object", args.object] if args.object else []) + (["-check=false"] if args.no_check else [])
    extra += ["-ca", args.ca] if args.ca else []
    servers = [s.partition("=")[::2] for s in args.servers]
    rounds: dict[str, list[dict]] = {n: [] for n, _ in servers}
    ok = True
    for _ in range(args.rounds):
        for name, command in servers:
            r = measure(args, name, command, extra)
            if r is None or r["errors"]:
                ok = False
            if r:
                rounds[name].append(r)
    result = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in rounds.items() if rs}
    keys = [
        "calls_per_s",
        "p50_us",
        "p99_us",
        "one_p50_us",
        "one_p99_us",
        "cpu_us_per_call",
        "rss_mib",
        "errors",
    ]
    first = result.get(servers[0][0])
    print(f"{'server':16s}" + "".join(f"{k:>24s}" for k in keys))
    for n, r in result.items():
        print(
            f"{n:16s}"
            + "".join(
                f"{r[k]:14.1f} ({r[k] / first[k]:6.2f}x)" if first and first[k] else f"{r[k]:24.1f}"
                for k in keys
            )
        )
    if args.json:
        with open(args.json, "w") as f:
            json.dump(result, f, indent=1)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
