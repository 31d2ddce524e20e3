"""The long form of all trials: a JSON line for each, and their figures in `docs/reliability.json` and `.md`.

    python -m tests.chaos [--only WORD] [--hostile 200000] [--minutes 3] [--calls-per-s 5000]

On loopback only. Each trial is bounded in count; one that does not end is ended, ten minutes after mixed load
would have. Mixed load itself may be ended early, with SIGTERM or Ctrl-C, and gives its figures then.
"""

from __future__ import annotations

import argparse
import datetime
import faulthandler
import json
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.chaos import (
    admin_clients,
    blocked_loop,
    connections,
    crash_loop,
    disk_full,
    envoy,
    envoy_hostile,
    floods,
    hostile,
    hung_worker,
    kong,
    misbehaving,
    mixed,
    overload,
    reloads,
    report,
    resource_reloads,
    sigterm,
    store_loss,
    unread_log,
    worker_loss,
)
from tests.chaos.load import Figures

LONGEST_TRIAL_S = 600

Trial = Callable[[Path, str], Figures]


def trials(hostile_calls: int, mixed: Trial, minutes: float) -> list[tuple[str, str, Trial]]:
    """Name, engine, and what to run."""
    found: list[tuple[str, str, Trial]] = []
    for engine in ("http2", "grpcio"):
        found += [(name, engine, run) for name, run in _each_engine(hostile_calls, mixed).items()]
    # In grpcio, an answer holds a thread until its client reads it: see docs/operations.md.
    silent = partial(connections.trial, connections=1000, measure_s=10, strict=True)
    found += [("1,000 connections", "http2", silent), ("floods of one connection", "http2", _floods)]
    two = ("--workers=2",)
    with_workers: dict[str, Trial] = {
        "hostile calls": partial(hostile.trial, calls=hostile_calls // 10, strict=False, flags=two),
        "reload under load": partial(reloads.trial, reloads=50, broken_every=10, flags=two),
        "SIGTERM under load": partial(sigterm.trial, stops=10, flags=two),
        "kill -9 of a worker": partial(worker_loss.trial, kills=10),
        "crash loop of workers": crash_loop.trial,
    }
    found += [(f"{name}, 2 workers", "http2", run) for name, run in with_workers.items()]
    hangs = partial(hung_worker.trial, hangs=4)
    found += [("hung worker, 2 workers", engine, hangs) for engine in ("http2", "grpcio")]
    of_kong: dict[str, Callable[[Path], Figures]] = {
        "Kong: exceptions": partial(kong.exceptions, each=20),
        "Kong: kill -9 under load": partial(kong.kills, times=10),
        "Kong: 1,000 connections": partial(kong.connections, count=1000),
        "Kong: hostile frames": partial(kong.hostile, frames=hostile_calls // 2),
        "Kong: memory": partial(kong.memory, events=1_000_000, instances=10_000, orphans=10_000),
        "Kong: mixed load": partial(kong.mixed, seconds=60 * minutes, strict=True),
    }
    of_envoy: dict[str, Callable[[Path], Figures]] = {
        "Envoy: kill -9 under load": partial(envoy.kills, times=10),
        "Envoy: restarts under load": partial(envoy.restarts, times=10),
        "Envoy: slow and leaving clients": partial(envoy.clients, count=1000),
        "Envoy: 10,000 streams": partial(envoy.streams, count=10_000, steps=10, strict=True),
        "Envoy: hostile messages": partial(envoy_hostile.trial, count=hostile_calls // 10),
        "Envoy: mixed load": partial(envoy.mixed, seconds=60 * minutes, warm_s=20, strict=True),
    }
    return [
        *found,
        *((name, "http2", lambda folder, _, run=run: run(folder)) for name, run in of_envoy.items()),
        *((name, "kong", lambda folder, _, run=run: run(folder)) for name, run in of_kong.items()),
    ]


def _floods(folder: Path, engine: str) -> Figures:
    return floods.trial(folder, most_bytes=200_000_000, most_s=10)


def _each_engine(hostile_calls: int, mixed: Trial) -> dict[str, Trial]:
    return {
        "hostile calls": partial(hostile.trial, calls=hostile_calls, strict=True),
        "reload under load": partial(reloads.trial, reloads=200, broken_every=10),
        "resources and reload": partial(resource_reloads.trial, reloads=200),
        "SIGTERM under load": partial(sigterm.trial, stops=20),
        "misbehaving handlers": partial(misbehaving.trial, each=20),
        "overload": partial(overload.trial, rounds=10, strict=True),
        "blocked event loop": partial(blocked_loop.trial, rounds=3, strict=True),
        "unread log": partial(unread_log.trial, rounds=10),
        "slow admin clients": partial(admin_clients.trial, connections=1000, pages=200),
        "kill -9 of Redis": partial(store_loss.redis_trial, kills=10, strict=True),
        "full disk": disk_full.trial,
        "kill -9 in mid write": partial(store_loss.service_trial, kills=5, with_store=False, strict=True),
        "kill -9 of both": partial(store_loss.service_trial, kills=5, with_store=True, strict=True),
        "mixed load": mixed,
    }


@contextmanager
def set_by_signals(event: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C set `event` instead of ending the process."""
    before = {
        number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def machine() -> Figures:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": today(),
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def renew(figures: Figures) -> None:
    """Put one trial's figures in the place of its last ones; at once, so that no later trouble loses them."""
    known = json.loads(report.FIGURES.read_text())["trials"] if report.FIGURES.exists() else []
    same = [place for place, each in enumerate(known) if _key(each) == _key(figures)]
    if same:
        known[same[0]] = figures
    else:
        known.append(figures)
    report.FIGURES.write_text(json.dumps({"machine": machine(), "trials": known}, indent=2) + "\n")


def _key(figures: Figures) -> tuple[str, str, bool]:
    """An hour of mixed load does not stand where three minutes did."""
    return figures["trial"], figures["engine"], figures.get("seconds", 0) > _SHORT_S


_SHORT_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="trials whose name and engine have these words")
    parser.add_argument("--hostile", type=int, default=200_000, help="hostile calls for each engine")
    parser.add_argument("--minutes", type=float, default=3, help="of mixed load")
    parser.add_argument("--calls-per-s", type=float, default=5000, help="at most, in mixed load")
    options = parser.parse_args()
    results: list[Figures] = []

    def mixed_load(folder: Path, engine: str) -> Figures:
        stop_early = threading.Event()
        with set_by_signals(stop_early):
            return mixed.trial(
                folder,
                engine,
                options.minutes * 60,
                warm_s=20,
                strict=True,
                calls_per_s=options.calls_per_s,
                stop_early=stop_early,
            )

    for name, engine, run in trials(options.hostile, mixed_load, options.minutes):
        if options.only not in f"{name} {engine}":
            continue
        faulthandler.dump_traceback_later(LONGEST_TRIAL_S + options.minutes * 60, exit=True)
        since_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            try:
                figures: Figures = {"trial": name, "held": True, **run(Path(folder), engine)}
            except Exception as error:  # noqa: BLE001 - whatever it was, the next trial is to run
                why = f"{type(error).__name__}: {error}"
                figures = {"trial": name, "held": False, "engine": engine, "why": why}
        faulthandler.cancel_dump_traceback_later()
        figures["seconds_in_all"] = round(time.monotonic() - since_s, 1)
        figures["date"] = today()
        results.append(figures)
        print(json.dumps(figures), flush=True)
        renew(figures)
    report.renew_page()
    return 0 if results and all(each["held"] for each in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
