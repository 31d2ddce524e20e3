"""All at once, for a while: nothing may grow."""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import grpc

from coprocess.api.moments import HookType
from tests.chaos.hostile import LOOKING, hostile_messages
from tests.chaos.load import (
    HANG_S,
    Figures,
    Load,
    descriptor_count,
    rss_mib,
    settle,
    stamp_is,
    thread_count,
)
from tests.objects import event_json, make_object, make_request
from tests.serve_process import ServeProcess, stamping, write

MIXED = """
import asyncio
from coprocess import Pre, Post, store

@Post
async def waits(request):
    await asyncio.sleep(0.002)
    await store.aio.increment("waits")

@Pre
def counts(request):
    request.headers["X-Count"] = str(store.increment("counts", ttl_s=5))

@Pre
def fails(request):
    raise ValueError("as it does")

@Pre
def doubles(request):
    request.body = request.body + request.body
"""


_CALLERS = 5
_MOST_CALLS_PER_S = 5000.0
_PROGRESS_S = 60.0


def trial(
    folder: Path,
    engine: str,
    seconds: float,
    *,
    warm_s: float,
    strict: bool,
    calls_per_s: float = _MOST_CALLS_PER_S,
    stop_early: threading.Event | None = None,
) -> Figures:
    """Good, failing, hostile, storing, large calls, events, clients, reloads. `strict`: RSS within 5 %.

    At most `calls_per_s`. `stop_early`, when set, ends it: what was measured until then is judged and given.
    """
    pause_s = _CALLERS / calls_per_s
    ended = stop_early or threading.Event()
    handlers = write(folder / "handlers", good=stamping("good"), looking=LOOKING, mixed=MIXED)
    # A machine whose disk stands still for a second is no fault.
    flags = (f"--engine={engine}", f"--data-dir={folder / 'data'}", "--store-timeout-s=10")
    with ServeProcess(handlers, *flags) as service:
        pid, stop, others = service.process.pid, threading.Event(), Counter[str]()

        trouble_ended: list[Exception] = []

        def make_trouble() -> None:
            try:
                trouble_until_stopped()
            except Exception as error:  # noqa: BLE001 - told below
                trouble_ended.append(error)

        def trouble_until_stopped() -> None:
            source = random.Random(7)  # noqa: S311 - it is to be the same every time
            messages, number = hostile_messages(source), 0
            while not stop.is_set():
                with service.client() as client:
                    for _ in range(50):
                        number += 1
                        is_event, payload = next(messages)
                        with suppress(grpc.RpcError):
                            (client.raw_event if is_event else client.raw)(payload, timeout=HANG_S)
                        with suppress(grpc.RpcError):
                            client.dispatch(make_object(hook_name="fails"))
                        client.send_event(event_json())
                        stop.wait(3 * pause_s)
                others["clients come and gone"] += 1
                if number % 500 == 0:
                    assert service.http("POST", "/reload")[0] == 200
                    others["reloads"] += 1
                    assert service.http("GET", "/metrics")[0] == 200

        def load(hook: str, kind: HookType = HookType.Pre, body: bytes = b"") -> Load:
            message = make_object(kind, hook, request=make_request(body=body))
            judge = stamp_is("good") if hook == "stamp" else lambda sent, reply: None
            return Load(service.address, message, connections=1, judge=judge, pause_s=pause_s)

        trouble = threading.Thread(target=make_trouble, daemon=True)
        with (
            load("stamp") as stamp,
            load("waits", HookType.Post) as waits,
            load("counts") as counts,
            load("doubles", body=b"x" * 50_000) as doubles,
        ):
            trouble.start()
            ended.wait(warm_s)
            samples, threads_seen, descriptors_seen = list[float](), list[int](), list[int]()
            since_s = told_s = time.monotonic()
            while (now_s := time.monotonic()) < since_s + seconds:
                samples.append(rss_mib(pid))
                threads_seen.append(thread_count(pid))
                descriptors_seen.append(descriptor_count(pid))
                if now_s > told_s + _PROGRESS_S:
                    told_s = now_s
                    print(f"{now_s - since_s:.0f} s of {seconds:.0f}: {samples[-1]:.1f} MiB", file=sys.stderr)
                if ended.wait(0.25):
                    break
            measured_s = time.monotonic() - since_s
            # The most there were in the first half, as clients come and go.
            half = (len(samples) + 1) // 2
            threads, descriptors = max(threads_seen[:half]), max(descriptors_seen[:half])
            stop.set()
            trouble.join(HANG_S)
            assert not trouble.is_alive(), "a hostile call never ended"
            assert not trouble_ended, f"an event or a reload failed: {trouble_ended[0]}"
            for each in (stamp, waits, counts, doubles):
                each.wait_for(5)
            threads_after = settle(lambda: thread_count(pid), threads + 2)
            descriptors_after = settle(lambda: descriptor_count(pid), descriptors)
    for each in (stamp, waits, counts, doubles):
        each.check(10)
    third = max(len(samples) // 3, 1)
    first_mib, last_mib = statistics.median(samples[:third]), statistics.median(samples[-third:])
    drift = (last_mib - first_mib) / first_mib
    assert threads_after <= threads + 2, f"{threads} threads became {threads_after}"
    assert descriptors_after <= descriptors, f"{descriptors} descriptors became {descriptors_after}"
    if strict:
        assert abs(drift) <= 0.05, f"{first_mib:.1f} MiB became {last_mib:.1f}"
    return {
        "engine": engine,
        "seconds": round(measured_s),
        "stopped_early": ended.is_set(),
        "most_calls_per_s": calls_per_s,
        "good_calls": sum(each.answered for each in (stamp, waits, counts, doubles)),
        "good_failed": sum(len(each.errors) for each in (stamp, waits, counts, doubles)),
        **others,
        "rss_mib_first_and_last_third": [round(first_mib, 1), round(last_mib, 1)],
        "rss_drift_percent": round(drift * 100, 2),
        "threads_most_and_after": [threads, threads_after],
        "descriptors_most_and_after": [descriptors, descriptors_after],
    }
