"""All at once, for a while: nothing may grow."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import grpc

from coprocess.hooks import HookType
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


def trial(folder: Path, engine: str, seconds: float, *, warm_s: float, strict: bool) -> Figures:
    """Good, failing, hostile, storing, large calls, events, clients, reloads. `strict`: RSS within 5 %."""
    handlers = write(folder / "handlers", good=stamping("good"), looking=LOOKING, mixed=MIXED)
    with ServeProcess(handlers, f"--engine={engine}", f"--data-dir={folder / 'data'}") as service:
        pid, stop, others = service.process.pid, threading.Event(), Counter[str]()

        def make_trouble() -> None:
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
                        stop.wait(0.002)
                others["clients come and gone"] += 1
                if number % 500 == 0:
                    assert service.http("POST", "/reload")[0] == 200
                    others["reloads"] += 1
                    assert service.http("GET", "/metrics")[0] == 200

        def load(hook: str, kind: HookType = HookType.Pre, body: bytes = b"") -> Load:
            message = make_object(kind, hook, request=make_request(body=body))
            judge = stamp_is("good") if hook == "stamp" else lambda sent, reply: None
            return Load(service.address, message, connections=1, judge=judge, pause_s=0.001)

        trouble = threading.Thread(target=make_trouble, daemon=True)
        with (
            load("stamp") as stamp,
            load("waits", HookType.Post) as waits,
            load("counts") as counts,
            load("doubles", body=b"x" * 50_000) as doubles,
        ):
            trouble.start()
            time.sleep(warm_s)
            # The most there were, as clients come and go.
            threads, descriptors, samples = 0, 0, list[float]()
            until_s = time.monotonic() + seconds
            half_s = until_s - seconds / 2
            while (now_s := time.monotonic()) < until_s:
                samples.append(rss_mib(pid))
                if now_s < half_s:
                    threads = max(threads, thread_count(pid))
                    descriptors = max(descriptors, descriptor_count(pid))
                time.sleep(0.25)
            stop.set()
            trouble.join(HANG_S)
            assert not trouble.is_alive(), "a hostile call never ended"
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
        "seconds": seconds,
        "good_calls": sum(each.answered for each in (stamp, waits, counts, doubles)),
        "good_failed": sum(len(each.errors) for each in (stamp, waits, counts, doubles)),
        **others,
        "rss_mib_first_and_last_third": [round(first_mib, 1), round(last_mib, 1)],
        "rss_drift_percent": round(drift * 100, 2),
        "threads_most_and_after": [threads, threads_after],
        "descriptors_most_and_after": [descriptors, descriptors_after],
    }
