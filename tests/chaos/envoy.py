"""ext_proc under faults, hostile messages and load. Where the real Envoy runs, it is there too."""

from __future__ import annotations

import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from coprocess.gateways.envoy import wire
from tests.chaos.envoy_hostile import MAX_MESSAGE_BYTES, hostile_check, hostile_stream
from tests.chaos.envoy_load import (
    CHAIN,
    GOOD_POST,
    GUARDED,
    Good,
    ThroughEnvoy,
    request,
    serving,
    wait_until,
)
from tests.chaos.load import HANG_S, Figures, descriptor_count, rss_mib, settle, thread_count
from tests.chaos.raw_streams import RawStreams
from tests.envoy.call import Call
from tests.envoy.drive import OK, edits, header_map
from tests.serve_process import ServeProcess
from tests.server import Client

RESPONSE = wire.ProcessingRequest(response_headers=wire.HttpHeaders(headers=header_map(OK)))
#: Threads that a server may keep of those that it started under load.
_KEPT_THREADS = 16
_MAX_KIB_A_STREAM = 20
_MAX_DRIFT = 0.05
_BUFFERED = 2  # Of ProcessingMode.BodySendMode.


def kills(folder: Path, times: int) -> Figures:
    """kill -9 under load, and a new start: what is in flight fails, and nothing passes by the guard."""
    address, slowest_s = f"127.0.0.1:{_lasting_port()}", 0.0
    with ExitStack() as at_end:
        service = at_end.enter_context(serving(folder, address=address))
        with Good(address, 4, may_be_killed=True) as good, ThroughEnvoy(address) as through:
            for _ in range(times):
                good.wait_for(20)
                through.wait_for(20)
                failed, closed = good.ends.total(), through.closed
                service.process.send_signal(signal.SIGKILL)
                service.process.wait()
                # It is away until that is seen.
                wait_until(lambda: good.ends.total() > failed)  # noqa: B023 - called here
                wait_until(lambda: not through.runs or through.closed > closed)  # noqa: B023 - as above
                since_s = time.monotonic()
                service = at_end.enter_context(serving(folder, address=address))
                good.wait_for(1)
                through.wait_for(1)
                slowest_s = max(slowest_s, time.monotonic() - since_s)
        good.check()
        through.check()
    return {
        "engine": "http2",
        "kills": times,
        "failed_with_it": dict(good.ends),
        "slowest_recovery_s": round(slowest_s, 2),
        **good.figures,
        **through.figures,
    }


def restarts(folder: Path, times: int) -> Figures:
    """Two services behind the real Envoy, which asks for their health, restart in turn: no request fails."""
    addresses = [f"127.0.0.1:{_lasting_port()}" for _ in range(2)]
    with ExitStack() as at_end:

        def start(address: str) -> ServeProcess:
            # Long enough that Envoy, which looks five times a second, has seen it.
            return at_end.enter_context(serving(folder, "--drain-s=3", address=address))

        services = [start(address) for address in addresses]
        with ThroughEnvoy(*addresses) as through:
            closed = 0
            for number in range(times if through.runs else 0):
                wait_until(lambda: through.healthy == len(addresses))
                through.wait_for(20)
                closed = closed if number else through.closed  # While Envoy had not looked yet.
                assert services[number % 2].end() == 0
                services[number % 2] = start(addresses[number % 2])
            through.wait_for(20)
        through.check()
        failed = through.closed - closed
        assert not failed, f"{failed} of {through.passed} requests failed"
    return {"engine": "http2", "restarts": times, "good_calls": through.passed, "good_failed": failed}


def _lasting_port() -> int:
    """A free one that nobody is given by chance while the server is away."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(max(lowest - 20_000, 1025), lowest)  # noqa: S311 - no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def clients(folder: Path, count: int) -> Figures:
    """Streams that are slow, stop half-way or are left, beside good ones: all are let go when they end."""
    with serving(folder) as service, Good(service.address) as good:
        pid = service.process.pid
        with RawStreams(service.address) as raw:  # The loop of async handlers is there from then on.
            _half_a_body(raw)
        good.wait_for(50)
        descriptors, threads = descriptor_count(pid), thread_count(pid)
        kinds: dict[str, Callable[[RawStreams], None]] = {
            "idle": lambda raw: None,
            "half a message": lambda raw: raw.send_part(raw.open(CHAIN, request())[0], RESPONSE),
            "half a body": _half_a_body,
            "no response": lambda raw: raw.read_replies(raw.open(CHAIN, request())),
            "no window": lambda raw: raw.send(raw.open(CHAIN, request()), RESPONSE),
            "in a handler": lambda raw: raw.send(raw.open({"post": "never"}, request()), RESPONSE, end=True),
            "cancelled": lambda raw: raw.cancel(raw.open({"post": "never"}, request())),
            "half-closed": lambda raw: raw.half_close(raw.open(CHAIN, request())),
        }
        held = []
        for number in range(count):
            kind = list(kinds)[number % len(kinds)]
            raw = RawStreams(service.address, window=0 if kind == "no window" else 65_535)
            kinds[kind](raw)
            held.append(raw)
        good.wait_for(50)
        threads_beside = thread_count(pid)
        for raw in held:
            raw.socket.close()
        good.wait_for(50)
        descriptors_after = settle(lambda: descriptor_count(pid), descriptors + 4)
        threads_after = settle(lambda: thread_count(pid), threads + _KEPT_THREADS)
    good.check()
    assert descriptors_after <= descriptors + 4, f"{descriptors} descriptors became {descriptors_after}"
    assert threads_after <= threads + _KEPT_THREADS, f"{threads} threads became {threads_after}"
    return {
        "engine": "http2",
        "connections": count,
        "threads_before_beside_after": [threads, threads_beside, threads_after],
        "descriptors_before_and_after": [descriptors, descriptors_after],
        **good.figures,
    }


def _half_a_body(raw: RawStreams) -> None:
    (stream,) = raw.open({**CHAIN, "post": "pieces"}, request(GOOD_POST, end=False))
    raw.read_replies([stream])
    raw.send([stream], wire.ProcessingRequest(request_body=wire.HttpBody(body=b"he")))


def streams(folder: Path, count: int, *, steps: int, strict: bool) -> Figures:
    """So many requests wait for their upstreams at one time: no thread for them, and little memory."""
    with serving(folder) as service, Good(service.address) as good, ExitStack() as at_end:
        pid = service.process.pid
        good.wait_for(100)
        threads, before_mib = thread_count(pid), rss_mib(pid)
        beside_mib: list[float] = []
        most_threads = threads
        for _ in range(2):
            raw = at_end.enter_context(RawStreams(service.address))
            opened: list[int] = []
            for _ in range(steps):
                step = raw.open(CHAIN, request(), count // steps)
                raw.read_replies(step)
                opened += step
                most_threads = max(most_threads, thread_count(pid))
            for replies in raw.replies.values():
                assert GUARDED in edits(replies[0].request_headers.response)
            good.wait_for(20)
            beside_mib.append(rss_mib(pid))
            for place in range(0, len(opened), 500):
                step = opened[place : place + 500]
                raw.send(step, RESPONSE)
                raw.read_replies(step, 2)
                raw.half_close(step)
                raw.read_ends(step)
            assert set(raw.ends.values()) == {0}, Counter(raw.ends.values())
            raw.socket.close()
        good.wait_for(20)
        after = settle(lambda: thread_count(pid), threads + _KEPT_THREADS)
        after_mib = rss_mib(pid)
    good.check()
    kib = (beside_mib[0] - before_mib) * 1024 / count
    assert most_threads <= threads + _KEPT_THREADS, f"{threads} threads became {most_threads}"
    if strict:
        assert kib <= _MAX_KIB_A_STREAM, f"{kib:.1f} KiB a stream"
        assert beside_mib[1] <= beside_mib[0] * (1 + _MAX_DRIFT), f"MiB of the two rounds: {beside_mib}"
    return {
        "engine": "http2",
        "streams": count,
        "kib_a_stream": round(kib, 1),
        "threads_before_beside_after": [threads, most_threads, after],
        "rss_mib_before_beside_beside_after": [
            round(each, 1) for each in (before_mib, *beside_mib, after_mib)
        ],
        **good.figures,
    }


def mixed(folder: Path, seconds: float, *, warm_s: float, strict: bool) -> Figures:
    """All at one time: good streams, bodies, the real Envoy, failures, hostile and leaving clients."""
    stop, done, wrong = threading.Event(), Counter[str](), list[str]()
    chosen = random.Random(16)  # noqa: S311 - it is to be the same every time

    def body(client: Client) -> None:
        call = Call(client.channel, **{**CHAIN, "post": "shout"})
        reply = call.request(GOOD_POST, end=False)
        assert reply.mode_override.request_body_mode == _BUFFERED, reply
        reply = call.request_body(b"x" * 50_000)
        assert reply.request_body.response.body_mutation.body == b"X" * 50_000, f"{reply!s:.500}"
        ends_with(call, call.response(), "response_headers")

    def fails(client: Client) -> None:
        call = Call(client.channel, post="fails")
        ends_with(call, call.request(), "immediate_response", 500)

    def rejects(client: Client) -> None:
        call = Call(client.channel, **CHAIN)
        ends_with(call, call.request(), "immediate_response", 401)

    def ends_with(call: Call, reply: wire.ProcessingResponse, kind: str, status: int = 0) -> None:
        assert reply.WhichOneof("response") == kind, reply
        assert reply.immediate_response.status.code == status, reply
        assert (more := call.end()) == [], more

    def leaves(client: Client) -> None:
        with RawStreams(service.address) as raw:
            raw.read_replies(raw.open(CHAIN, request(), 20))
            raw.cancel(raw.open({"post": "never"}, request(), 5))

    def nonsense(client: Client) -> None:
        hostile_stream(client.channel, chosen)
        hostile_check(client.channel, chosen)

    def again_and_again(once: Callable[[Client], None]) -> None:
        while not stop.is_set():
            with Client(service.address) as client:
                for _ in range(50):
                    if stop.wait(0.002):
                        return
                    try:
                        once(client)
                    except Exception as error:  # noqa: BLE001 - told below
                        wrong.append(f"{once.__name__}: {type(error).__name__}: {error}")
                        return
                    done[once.__name__] += 1

    with serving(folder, f"--max-message-bytes={MAX_MESSAGE_BYTES}") as service:
        pid = service.process.pid
        threads = [
            threading.Thread(target=again_and_again, args=(once,), daemon=True)
            for once in (body, fails, rejects, leaves, nonsense)
        ]
        with Good(service.address) as good, ThroughEnvoy(service.address) as through:
            for thread in threads:
                thread.start()
            good.wait_for(50)
            through.wait_for(20)
            stop.wait(warm_s)
            samples, threads_seen = list[float](), list[int]()
            until_s = time.monotonic() + seconds
            while not wrong and time.monotonic() < until_s:
                samples.append(rss_mib(pid))
                threads_seen.append(thread_count(pid))
                stop.wait(0.1)
            stop.set()
            for thread in threads:
                thread.join(2 * HANG_S)
                assert not thread.is_alive(), "a stream hangs"
        good.check()
        through.check()
        assert not wrong, wrong[:3]
        threads_after = settle(lambda: thread_count(pid), max(threads_seen))
    third = max(len(samples) // 3, 1)
    first_mib, last_mib = statistics.median(samples[:third]), statistics.median(samples[-third:])
    drift = (last_mib - first_mib) / first_mib
    if strict:
        assert drift <= _MAX_DRIFT, f"{first_mib:.1f} MiB became {last_mib:.1f}"
    return {
        "engine": "http2",
        "seconds": seconds,
        "done": dict(done),
        "rss_mib_first_and_last_third": [round(first_mib, 1), round(last_mib, 1)],
        "rss_drift_percent": round(drift * 100, 2),
        "threads_most_and_after": [max(threads_seen), threads_after],
        **good.figures,
        **through.figures,
    }
