"""The time of `store.get` against the same call on bare redis-py, both on the embedded server's socket.

    store_get.py

prints one JSON line: microseconds of each, medians of alternating rounds.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

from coprocess.store import configure, store
from coprocess.store.embedded import EmbeddedValkey

CALLS, ROUNDS = 5_000, 9


def time_of(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began_s) / CALLS * 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        configure(None, data_dir=Path(folder))
        server = EmbeddedValkey(Path(folder))  # Shares the one that runs.
        server.start()
        bare = redis.Redis(unix_socket_path=str(server.socket_path))
        store.set("key", "value")
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(time_of(lambda: bare.get("coprocess-data:key")))
            ours.append(time_of(lambda: store.get("key")))
        bare.close()
        server.close()
        store.close()
    ours_us, theirs_us = statistics.median(ours), statistics.median(theirs)
    print(json.dumps({"store_us": ours_us, "redis_us": theirs_us, "ratio": ours_us / theirs_us}))


if __name__ == "__main__":
    main()
