"""Measure the service beside its peers and write the figures to `docs/performance.json`.

    run.py [--seconds 4] [--rounds 3] [--only NAME …]

Needs Go, for the load generator, and two cores: the server is pinned to one, the load to the other. Without
Go it says so and ends. `report.py` makes the tables and the plot of docs/performance.md from the figures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load import (
    BENCH,
    HANDLERS,
    PEERS,
    Load,
    collector,
    free_address,
    resident_mib,
    result,
    serve_command,
    serving,
    wait_for,
)
from objects import pre_object

SERVER_CORE, LOAD_CORE = "0", "1"
FIGURES = BENCH.parent / "docs" / "performance.json"


class Bench:
    def __init__(self, gobench: Path, seconds: float, rounds: int) -> None:
        self.gobench = gobench
        self.seconds = seconds
        self.rounds = rounds
        self.load = Load(gobench, LOAD_CORE)
        self.data_dir = tempfile.mkdtemp(prefix="coprocess-bench-")

    def ours(self, handlers: Path | str, *flags: str, uvloop: bool = True, is_compiled: bool = False) -> str:
        return serve_command(handlers, *flags, data_dir=self.data_dir, uvloop=uvloop, is_compiled=is_compiled)

    def compare(self, servers: dict[str, str], *flags: str) -> dict[str, Any]:
        """The medians of compare.py, by server."""
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            words = [sys.executable, str(BENCH / "compare.py"), "--gobench", str(self.gobench)]
            words += [
                "--rounds",
                str(self.rounds),
                "--seconds",
                str(self.seconds),
                "--json",
                out.name,
                *flags,
            ]
            words += [f"{name}={command}" for name, command in servers.items()]
            subprocess.run(words, check=True)
            figures: dict[str, Any] = json.loads(Path(out.name).read_text())
        return figures

    def peers(self) -> dict[str, str]:
        return {
            "go": f"{self.gobench} -serve -addr {{addr}}",
            "grpcio-sync": f"{sys.executable} {PEERS / 'grpcio_sync.py'} {{addr}}",
            "grpcio-aio": f"{sys.executable} {PEERS / 'grpcio_aio.py'} {{addr}}",
        }

    # The measurements. Each gives figures under its own name.

    def throughput(self) -> dict[str, Any]:
        ours = {
            "http2": self.ours(HANDLERS / "native", "--engine", "http2"),
            "http2-async": self.ours(HANDLERS / "async_quick", "--engine", "http2"),
            "compiled": self.ours(HANDLERS / "native", is_compiled=True),
            "compiled-async": self.ours(HANDLERS / "async_quick", is_compiled=True),
            "embedded-style": self.ours(HANDLERS / "embedded", "--engine", "http2"),
            "grpcio": self.ours(HANDLERS / "native", "--engine", "grpcio"),
        }
        return self.compare({**self.peers(), **ours})

    def in_flight(self) -> dict[str, Any]:
        servers = {
            **self.peers(),
            "http2": self.ours(HANDLERS / "native", "--engine", "http2"),
            "grpcio": self.ours(HANDLERS / "native", "--engine", "grpcio"),
        }
        return {calls: self.compare(servers, "--calls", calls) for calls in ("1", "8", "32", "128")}

    def blocking(self) -> dict[str, Any]:
        with serving(self.ours(HANDLERS / "blocking")) as (_, address):
            alone = self.load.run(address, 64, self.seconds)
            slow = self.load.start(address, 64, self.seconds + 2)
            time.sleep(1)
            fast = self.load.run(address, 4, self.seconds, pre_object("Fast"))
            return {"alone": alone, "fast_beside_it": fast, "blocking_beside_it": result(slow)}

    def computing(self) -> dict[str, Any]:
        with serving(self.ours(HANDLERS / "cpu")) as (_, address):
            load = Load(self.gobench, None)
            alone = load.run(address, 32, self.seconds)
            computing = load.start(address, 32, self.seconds + 2)
            time.sleep(1)
            quick = load.run(address, 4, self.seconds, pre_object("Quick"))
            return {"alone": alone, "quick_beside_it": quick, "computing_beside_it": result(computing)}

    def asynchronous(self) -> dict[str, Any]:
        with serving(self.ours(HANDLERS / "asynchronous"), SERVER_CORE) as (_, address):
            return self.load.run(address, 1000, self.seconds)

    def loops(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for handlers, calls in (("asynchronous", 1000), ("async_store", 32)):
            for loop in ("uvloop", "asyncio"):
                command = self.ours(HANDLERS / handlers, uvloop=loop == "uvloop")
                figures[f"{handlers}_{loop}"] = runs = []
                for _ in range(self.rounds):
                    with serving(command, SERVER_CORE) as (_, address):
                        runs.append(self.load.run(address, calls, self.seconds)["calls_per_s"])
        return figures

    def large_body(self) -> dict[str, Any]:
        payload = pre_object("MyPreMiddleware", b"x" * 2**20)
        sizes = {}
        import grpc  # Here, as it is large and only this needs it.

        for name, flags in {"trimmed": (), "full": ("--full-reply",)}.items():
            with serving(self.ours(HANDLERS / "native", *flags)) as (_, address):
                options = [("grpc.max_receive_message_length", -1)]
                with grpc.insecure_channel(address, options=options) as channel:
                    dispatch = channel.unary_unary("/coprocess.Dispatcher/Dispatch")
                    sizes[name] = len(payload) + len(dispatch(payload))
        with tempfile.NamedTemporaryFile() as file:
            file.write(payload)
            file.flush()
            servers = {
                "go": self.peers()["go"],
                "http2": self.ours(HANDLERS / "native"),
                "http2-full-reply": self.ours(HANDLERS / "native", "--full-reply"),
            }
            compared = self.compare(servers, "--object", file.name, "--calls", "8")
        return {"bytes": {**sizes, "echo": 2 * len(payload)}, "compared": compared}

    def store(self) -> dict[str, Any]:
        bare = told("store_get.py")
        with serving(self.ours(HANDLERS / "store"), SERVER_CORE) as (_, address):
            return {"get": bare, "set_and_get_in_handler": self.load.run(address, 32, self.seconds)}

    def web(self) -> dict[str, Any]:
        return told("web.py")

    def lifecycle(self) -> dict[str, Any]:
        return told("lifecycle.py")

    def kong(self) -> dict[str, Any]:
        return told("kong.py")

    def envoy(self) -> dict[str, Any]:
        return told("envoy.py", "--seconds", str(self.seconds), "--rounds", str(self.rounds))

    def workers(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for count in ("1", "2", "4"):
            with serving(self.ours(HANDLERS / "cpu", "--workers", count)) as (_, address):
                self.until_workers_serve(address)
                figures[f"cpu_5ms_workers_{count}"] = Load(self.gobench, None).run(address, 32, self.seconds)
        for count in ("1", "2"):
            with serving(self.ours(HANDLERS / "native", "--workers", count)) as (process, address):
                self.until_workers_serve(address)
                figures[f"native_workers_{count}"] = Load(self.gobench, None).run(address, 32, self.seconds)
                figures[f"native_workers_{count}"]["rss_mib"] = resident_mib(process.pid)
        for handlers in ("cpu", "native"):
            figures[f"{handlers}_workers_2_listen_own"] = self.workers_with_addresses(handlers)
        return figures

    def until_workers_serve(self, address: str) -> None:
        """The front listens before: it holds calls until then."""
        Load(self.gobench, None).run(address, 8, 0.5)

    def workers_with_addresses(self, handlers: str) -> dict[str, Any]:
        """Two workers without a hop: half of the load at the address of each."""
        other = free_address()
        flags = ("--workers", "2", "--worker-listen", "own", "--listen", other)
        with serving(self.ours(HANDLERS / handlers, *flags)) as (process, address):
            wait_for(other, process)
            load = Load(self.gobench, None)
            runs = [load.start(each, 16, self.seconds) for each in (address, other)]
            found = [result(run) for run in runs]
        total: dict[str, Any] = {"calls_per_s": sum(each["calls_per_s"] for each in found)}
        # Of the half that was served worse.
        return total | {name: max(each[name] for each in found) for name in ("p50_us", "p99_us")}

    def tls(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
            words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            words += ["-nodes", "-days", "2", "-keyout", key, "-out", cert, "-subj", "/CN=bench"]
            words += ["-addext", "subjectAltName=IP:127.0.0.1"]
            subprocess.run(words, check=True, capture_output=True)
            servers = {
                "go": f"{self.peers()['go']} -cert {cert} -key {key}",
                "http2": self.ours(HANDLERS / "native", "--tls-cert", cert, "--tls-key", key),
            }
            return self.compare(servers, "--ca", cert)

    def traces(self) -> dict[str, Any]:
        ours = self.ours(HANDLERS / "native", "--engine", "http2")
        with collector() as endpoint:
            traced = f"env OTEL_EXPORTER_OTLP_ENDPOINT={endpoint} {ours} --traces otlp"
            tenth = f"{traced} --traces-sample 0.1"
            every = f"{traced} --traces-sample 1"
            return self.compare({"without": ours, "traces of a tenth": tenth, "traces of all": every})

    def memory(self) -> dict[str, Any]:
        with serving(self.ours(HANDLERS / "native"), SERVER_CORE) as (process, address):
            time.sleep(1)
            at_start = resident_mib(process.pid)
            calls = 0.0
            warm = None
            while calls < 2_000_000:
                calls += self.load.run(address, 32, 10)["calls"]
                warm = warm or resident_mib(process.pid)
            return {
                "start_mib": at_start,
                "after_first_load_mib": warm,
                "after_mib": resident_mib(process.pid),
                "calls": calls,
            }

    def start(self) -> dict[str, Any]:
        times_s = []
        with tempfile.TemporaryDirectory() as folder:
            source = (HANDLERS / "native" / "hook.py").read_text()
            for number in range(20):
                text = source.replace("MyPreMiddleware", f"Hook{number}" if number else "MyPreMiddleware")
                (Path(folder) / f"hook_{number}.py").write_text(text)
            for number in range(5):
                command = serve_command(folder, data_dir=f"{self.data_dir}/start-{number}")
                began_s = time.monotonic()
                with serving(command):
                    times_s.append(time.monotonic() - began_s)
        return {"seconds": sorted(times_s)}


MEASUREMENTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "throughput": Bench.throughput,
    "in_flight": Bench.in_flight,
    "blocking": Bench.blocking,
    "computing": Bench.computing,
    "asynchronous": Bench.asynchronous,
    "loops": Bench.loops,
    "large_body": Bench.large_body,
    "store": Bench.store,
    "workers": Bench.workers,
    "traces": Bench.traces,
    "tls": Bench.tls,
    "memory": Bench.memory,
    "start": Bench.start,
    "web": Bench.web,
    "lifecycle": Bench.lifecycle,
    "kong": Bench.kong,
    "envoy": Bench.envoy,
}


def told(script: str, *flags: str) -> dict[str, Any]:
    """The figures of a script that measures in its own process."""
    words = [sys.executable, str(BENCH / script), "--json", *flags]
    figures: dict[str, Any] = json.loads(
        subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    return figures


def build_gobench() -> Path | None:
    """The load generator, which is also the Go peer. None where Go is not installed."""
    if shutil.which("go") is None:
        return None
    target = Path(tempfile.gettempdir()) / "coprocess-gobench"
    subprocess.run(["go", "build", "-o", str(target), "."], cwd=BENCH / "gobench", check=True)
    return target


def machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    args = parser.parse_args()
    gobench = build_gobench()
    if gobench is None:
        print("The bench needs Go, for its load generator.", file=sys.stderr)
        return 1
    bench = Bench(gobench, args.seconds, args.rounds)
    figures = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
    for name in args.only:
        print(f"== {name}", flush=True)
        figures[name] = {"machine": machine(), **MEASUREMENTS[name](bench)}
        print(json.dumps(figures[name], indent=1))
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    shutil.rmtree(bench.data_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
