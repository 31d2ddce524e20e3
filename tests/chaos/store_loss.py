"""The store goes, and comes back: kill -9 of a Redis under load, and of the service in mid write."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from coprocess.gateways.tyk.wire import Object
from tests.chaos.load import HANG_S, Figures, Load, stamp_is
from tests.objects import make_object, make_request
from tests.serve_process import ServeProcess, stamping, write
from tests.valkey import ValkeyProcess

STORING = """
import time
from coprocess import Pre, StoreError, store

@Pre
def keep(request):
    since_s, ended = time.monotonic(), "stored"
    try:
        store.set("key", "value", ttl_s=60)
        store.get("key")
    except BaseException as error:
        ended = type(error).__name__
    request.headers["X-Ended"] = ended
    request.headers["X-Took"] = str(time.monotonic() - since_s)

@Pre
async def keep_async(request):
    since_s, ended = time.monotonic(), "stored"
    try:
        await store.aio.set("key", "value", ttl_s=60)
    except BaseException as error:
        ended = type(error).__name__
    request.headers["X-Ended"] = ended
    request.headers["X-Took"] = str(time.monotonic() - since_s)
"""


class Outcomes:
    """How calls with storage ended, and when: since the server runs again, and ever."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest_failure_s = 0.0
        self.last_failure_s = 0.0

    def judge(self, sent: Any, reply: Object) -> None:
        ended = reply.request.set_headers["X-Ended"]
        took_s = float(reply.request.set_headers["X-Took"])
        self.counts[ended] += 1
        if ended != "stored":
            self.last_failure_s = time.monotonic()
            self.slowest_failure_s = max(self.slowest_failure_s, took_s)

    @property
    def failures(self) -> int:
        return self.counts.total() - self.counts["stored"]


def redis_trial(folder: Path, engine: str, kills: int, *, strict: bool) -> Figures:
    """`strict` asserts times, too: a failure within 1.2 s, recovery within 2 s."""
    handlers = write(folder / "handlers", a=STORING, good=stamping("good"))
    recoveries: list[float] = []
    outcomes = Outcomes()
    with (
        ValkeyProcess(folder / "redis", tcp=True) as redis,
        ServeProcess(
            handlers, f"--engine={engine}", f"--redis={redis.url}", "--store-timeout-s=1"
        ) as service,
    ):

        def load(hook: str) -> Load:
            return Load(service.address, make_object(hook_name=hook), judge=outcomes.judge, pause_s=0.002)

        with (
            Load(
                service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.002
            ) as good,
            load("keep") as keep,
            load("keep_async") as keep_async,
        ):
            for kill in range(kills):
                keep.wait_for(20)
                keep_async.wait_for(20)
                before = outcomes.failures
                if kill % 2:  # Hung first: then failing takes as long as it may.
                    redis.freeze()
                else:
                    redis.kill()
                noticed_by_s = time.monotonic() + HANG_S
                while outcomes.failures < before + 4:
                    assert time.monotonic() < noticed_by_s, "nobody noticed that the store is gone"
                    time.sleep(0.01)
                good.wait_for(20)
                redis.kill()
                redis.start()
                again_s = time.monotonic()
                keep.wait_for(50)
                keep_async.wait_for(50)
                if strict:  # Long enough to see a failure that comes too late.
                    time.sleep(max(0.0, again_s + 2.2 - time.monotonic()))
                recoveries.append(max(0.0, outcomes.last_failure_s - again_s))
            late_by_s = time.monotonic() + (0.0 if strict else HANG_S)
            while True:
                late = outcomes.failures
                keep.wait_for(20)
                keep_async.wait_for(20)
                if outcomes.failures == late:
                    break
                assert time.monotonic() < late_by_s, "the store is back, and calls still fail"
    for each in (good, keep, keep_async):
        each.check(20)
    assert set(outcomes.counts) <= {"stored", "StoreError"}, outcomes.counts
    if strict:
        assert outcomes.slowest_failure_s <= 1.2, f"a failure took {outcomes.slowest_failure_s:.2f} s"
        assert max(recoveries) <= 2, f"recovery took {max(recoveries):.2f} s"
    return {
        "engine": engine,
        "kills": kills,
        "without_storage": {"calls": good.answered, "failed": len(good.errors)},
        "with_storage": dict(outcomes.counts),
        "slowest_failure_s": round(outcomes.slowest_failure_s, 3),
        "slowest_recovery_s": round(max(recoveries), 3),
    }


WRITING = """
import json
from coprocess import Pre, respond, store

@Pre
def keep(request):
    store.set(request.text, "1")
    request.headers["X-Kept"] = request.text

@Pre
def missing(request):
    return respond(200, json.dumps({"missing": [key for key in request.json() if store.get(key) is None]}))
"""


def service_trial(folder: Path, engine: str, kills: int, *, with_store: bool, strict: bool) -> Figures:
    """kill -9 in mid write; `with_store`, of the embedded server too: what was acknowledged is kept.

    But for the last seconds before the end of the server: `strict` asserts how many. Else what was
    acknowledged before the server said that all is on the disk is kept: a busy machine takes its time.
    """
    handlers, data = write(folder / "handlers", a=WRITING), folder / "data"
    # A machine whose disk stands still for a second is no fault.
    flags = (f"--engine={engine}", f"--data-dir={data}", "--store-timeout-s=10")
    acknowledged: dict[str, float] = {}
    slowest_start_s, lost, oldest_lost_s = 0.0, 0, 0.0
    on_disk: set[str] = set()
    try:
        for kill in range(kills):
            fresh: dict[str, float] = {}
            with ServeProcess(handlers, *flags) as service:
                writers = [_Writer(service, f"{kill}-{number}", fresh) for number in range(4)]
                until_s = time.monotonic() + HANG_S
                while len(fresh) < 200 and time.monotonic() < until_s:
                    time.sleep(0.005)
                if with_store and strict:  # Longer than what may be lost reaches back.
                    time.sleep(_MAY_BE_LOST_S + 0.2)
                elif with_store:
                    kept = set(fresh)
                    _wait_for_disk(data)
                    on_disk |= kept
                killed_s = time.monotonic()
                service.process.kill()
                if with_store:
                    os.kill(_store_pid(data), signal.SIGKILL)
                for writer in writers:
                    writer.join(HANG_S)
            assert len(fresh) >= 200, f"only {len(fresh)} writes were acknowledged"
            acknowledged |= fresh
            since_s = time.monotonic()
            with ServeProcess(handlers, *flags) as service, service.client() as client:
                slowest_start_s = max(slowest_start_s, time.monotonic() - since_s)
                request = make_request(body=json.dumps(list(acknowledged)).encode())
                reply = client.dispatch(make_object(hook_name="missing", request=request))
                missing = json.loads(reply.request.return_overrides.response_body)["missing"]
                assert on_disk.isdisjoint(missing), "what was on the disk is lost"
                for key in missing:
                    oldest_lost_s = max(oldest_lost_s, killed_s - acknowledged.pop(key))
                lost += len(missing)
    finally:
        # Only where a trial failed half way does it still run.
        with suppress(OSError, ValueError):
            os.kill(_store_pid(data), signal.SIGKILL)
    if with_store:
        # appendfsync everysec: what the server had not yet handed to the kernel, at most two seconds of it.
        assert not strict or oldest_lost_s <= _MAY_BE_LOST_S, (
            f"{lost} lost, one acknowledged {oldest_lost_s:.1f} s before the end"
        )
    else:
        assert lost == 0, f"{lost} of {len(acknowledged) + lost} acknowledged writes are lost"
    return {
        "engine": engine,
        "killed": "service and embedded store" if with_store else "service",
        "kills": kills,
        "acknowledged": len(acknowledged) + lost,
        "lost": lost,
        "slowest_start_s": round(slowest_start_s, 2),
    }


_MAY_BE_LOST_S = 2.5


def _wait_for_disk(data: Path) -> None:
    """Until all that the embedded server has acknowledged so far is on the disk."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(HANG_S)
        asked.connect(str(data / "valkey" / "valkey.sock"))
        # What it waits for are the writes of this connection, and so all before them.
        asked.sendall(b"SET of-the-trial 1\r\nWAITAOF 1 0 0\r\n")
        with asked.makefile("rb") as answers:
            assert [answers.readline() for _ in range(3)] == [b"+OK\r\n", b"*2\r\n", b":1\r\n"]


def _store_pid(data: Path) -> int:
    return int((data / "valkey" / "valkey.pid").read_text())


class _Writer(threading.Thread):
    """Stores key after key, and notes when each was acknowledged, until the service is gone."""

    def __init__(self, service: ServeProcess, name: str, acknowledged: dict[str, float]) -> None:
        super().__init__(daemon=True)
        self._client = service.client()
        self._key = name
        self._acknowledged = acknowledged
        self.start()

    def run(self) -> None:
        number = 0
        with self._client as client, suppress(grpc.RpcError):
            while True:
                number += 1
                key = f"{self._key}-{number}"
                request = make_request(body=key.encode())
                reply = client.dispatch(make_object(hook_name="keep", request=request))
                assert reply.request.set_headers["X-Kept"] == key
                self._acknowledged[key] = time.monotonic()
