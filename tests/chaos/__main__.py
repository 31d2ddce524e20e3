"""The long form of all trials: a JSON line for each, and `docs/reliability.json`.

    python -m tests.chaos [--only WORD] [--hostile 200000] [--mixed-s 180]

On loopback only. Each trial is bounded in count; one that does not end is ended after ten minutes.
"""

from __future__ import annotations

import argparse
import datetime
import faulthandler
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos import connections, hostile, misbehaving, mixed, reloads, sigterm, store_loss
from tests.chaos.load import Figures

RESULTS = Path(__file__).parents[2] / "docs" / "reliability.json"
LONGEST_TRIAL_S = 600

Trial = Callable[[Path, str], Figures]


def trials(hostile_calls: int, mixed_s: float) -> list[tuple[str, str, Trial]]:
    """Name, engine, and what to run."""
    found: list[tuple[str, str, Trial]] = []
    for engine, count, half in (("native", 200, 10), ("grpcio", 20, 10)):
        found += [
            ("hostile calls", engine, partial(hostile.trial, calls=hostile_calls, strict=True)),
            ("reload under load", engine, partial(reloads.trial, reloads=count, broken_every=10)),
            ("SIGTERM under load", engine, partial(sigterm.trial, stops=half)),
            ("misbehaving handlers", engine, partial(misbehaving.trial, each=20)),
            (
                "1,000 connections",
                engine,
                partial(connections.trial, connections=1000, measure_s=5, strict=True),
            ),
        ]
    return [
        *found,
        ("kill -9 of Redis", "native", partial(store_loss.redis_trial, kills=10, strict=True)),
        ("kill -9 in mid write", "native", partial(store_loss.service_trial, kills=5, with_store=False)),
        ("kill -9 of both", "native", partial(store_loss.service_trial, kills=5, with_store=True)),
        ("mixed load", "native", partial(mixed.trial, seconds=mixed_s, warm_s=20, strict=True)),
    ]


def machine() -> Figures:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _key(figures: Figures) -> tuple[str, str]:
    return figures["trial"], figures["engine"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", default="", help="trials whose name and engine have these words; only they are renewed"
    )
    parser.add_argument("--hostile", type=int, default=200_000, help="hostile calls for each engine")
    parser.add_argument("--mixed-s", type=float, default=180, help="seconds of mixed load")
    options = parser.parse_args()
    results: list[Figures] = []
    for name, engine, run in trials(options.hostile, options.mixed_s):
        if options.only not in f"{name} {engine}":
            continue
        faulthandler.dump_traceback_later(LONGEST_TRIAL_S, exit=True)
        since_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            try:
                figures: Figures = {"trial": name, "held": True, **run(Path(folder), engine)}
            except AssertionError as error:
                figures = {"trial": name, "held": False, "engine": engine, "why": str(error)}
        faulthandler.cancel_dump_traceback_later()
        figures["seconds_in_all"] = round(time.monotonic() - since_s, 1)
        results.append(figures)
        print(json.dumps(figures), flush=True)
    if options.only and RESULTS.exists():
        renewed = {_key(each): each for each in results}
        before = json.loads(RESULTS.read_text())["trials"]
        known = {_key(each) for each in before}
        kept = [renewed.get(_key(each), each) for each in before]
        kept += [each for each in results if _key(each) not in known]
    else:
        kept = results
    RESULTS.write_text(json.dumps({"machine": machine(), "trials": kept}, indent=2) + "\n")
    return 0 if results and all(each["held"] for each in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
