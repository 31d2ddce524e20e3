"""Kong's plugin server under faults, hostile frames and load. Kong's side of the protocol is played."""

from __future__ import annotations

import json
import random
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coprocess.gateways.kong import wire
from tests import forked
from tests.chaos.load import HANG_S, Figures, descriptor_count, rss_mib, settle, thread_count
from tests.kong.server import Kong

PLUGIN = """
import time

class Plugin:
    def __init__(self, config):
        self.do = config.get("do", "good")
        if self.do == "init":
            raise ValueError("in __init__")

    def access(self, kong):
        do = self.do
        if do == "before":
            raise ValueError("before the first call")
        what = kong.request.get_header("x-what")[0]
        if do in RAISES:
            raise RAISES[do]("after a call")
        if do == "unsendable":
            kong.log.err({1: object()})
            kong.ctx.shared.set("x", object())
        if do == "unknown":
            kong.no_such.thing()
        if do == "keyword":
            kong.request.get_header(name="x")
        if do == "recursion":
            self.access_again(kong)
        if do == "exit":
            kong.response.exit(403, "no")
            raise ValueError("after exit")
        if do == "swallow":
            kong.response.exit(403, "no")
            try:
                kong.request.get_method()
            except Exception:
                pass
            while True:
                kong.request.get_method()
        kong.service.request.set_header("x-seen", what)

    def access_again(self, kong):
        self.access_again(kong)

    def rewrite(self, kong):
        kong.request.get_raw_body()
        kong.service.request.set_header("x-seen", "late")

    def log(self, kong):
        raise ValueError("in the log phase")

RAISES = {each.__name__: each for each in (
    ValueError, SystemExit, KeyboardInterrupt, StopIteration, MemoryError, GeneratorExit, BaseException,
)}
"""
#: What each does to its event. `exit` means the plugin's own answer, and `refused` ours.
KINDS = {
    "good": "ret",
    "before": "refused",
    "unsendable": "refused",
    "unknown": "refused",
    "keyword": "refused",
    "recursion": "refused",
    "exit": "exit",
    "swallow": "exit",
    **dict.fromkeys(
        ("ValueError", "SystemExit", "KeyboardInterrupt", "StopIteration", "MemoryError", "GeneratorExit"),
        "refused",
    ),
    "BaseException": "refused",
}
#: How much of its memory the server may win in a trial: that is room kept for what was busy at one time.
MOST_GROWTH = 1.25


class Server:
    def __init__(self, folder: Path, flags: tuple[str, ...] = ()) -> None:
        self.path = folder / "p.socket"
        plugin = folder / "p.py"
        plugin.write_text(PLUGIN)
        self._words = [sys.executable, "-m", "coprocess", "kong", "serve", str(plugin), "-p", str(folder)]
        self._words += ["--log-format", "json", *flags]
        self.start()

    def start(self) -> None:
        self.process = forked.Process(self._words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def connect(self) -> Kong:
        until_s = time.monotonic() + HANG_S
        while True:
            connected = socket.socket(socket.AF_UNIX)
            connected.settimeout(HANG_S)
            try:
                connected.connect(str(self.path))
            except OSError:
                connected.close()
                assert time.monotonic() < until_s, "nobody listens"
                time.sleep(0.01)
            else:
                return Kong(connected)


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    server = Server(folder, flags)
    try:
        server.connect().close()
        yield server
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(HANG_S) == 0
    finally:
        server.process.kill()
        server.process.wait()


def answer_of(kong: Kong) -> wire.Answer:
    """The next answer; a server that follows another tells first which process it is."""
    while not isinstance(message := wire.message_of(kong.receive()), wire.Answer):
        pass
    return message


def instance_of(kong: Kong, do: str = "good") -> Any:
    """As Kong starts one. An error is told as such."""
    kong.send(wire.START_INSTANCE, {"Name": "p", "Config": json.dumps({"do": do})})
    answer = answer_of(kong)
    return answer.result["Id"] if answer.error is None else answer.error


def end_of(kong: Kong, instance: Any, phase: str = "access") -> str:
    """How an event ends: `ret`, `exit`, `refused`, or an error of the server's: Kong lets the request by."""
    kong.send(wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": phase})
    while True:
        answer = answer_of(kong)
        if answer.error is not None:
            return str(answer.error)
        data = answer.result["Data"]
        if data == "ret":
            return "ret"
        if data["Method"] == "kong.response.exit":
            return "refused" if data["Args"][0] == 500 else "exit"
        kong.send(wire.STEP, {"EventId": answer.result["EventId"], "Data": "v"})


class Good:
    """Good events one after the other, within `with`: each must end as it should."""

    def __init__(self, server: Server, connections: int = 2, *, may_be_killed: bool = False) -> None:
        self.answered = 0
        self.broken = 0
        self.wrong: list[str] = []
        self._server = server
        self._may_be_killed = may_be_killed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(connections)]

    def _work(self) -> None:
        kong, instance = None, None
        while not self._stop.is_set():
            try:
                if kong is None:
                    kong = self._server.connect()
                if instance is None:
                    instance = instance_of(kong)
                end = end_of(kong, instance)
            except (OSError, EOFError) as error:
                if kong is not None:
                    kong.close()
                kong = None
                with self._lock:
                    self.broken += 1
                if not self._may_be_killed:
                    self.wrong.append(repr(error))
                continue
            if self._may_be_killed and "no plugin instance" in end:
                instance = None  # As Kong does.
                continue
            with self._lock:
                self.answered += 1
            if end != "ret":
                self.wrong.append(end)
        if kong is not None:
            kong.close()

    def __enter__(self) -> Good:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(HANG_S)
            assert not thread.is_alive(), "a good event hangs"

    def begun(self) -> None:
        """Wait for 100 more: the server is whole then. Kong's connections are taken by the kernel before."""
        aim, until_s = self.answered + 100, time.monotonic() + HANG_S
        while self.answered < aim and time.monotonic() < until_s:
            time.sleep(0.01)
        assert self.answered >= aim, "good events do not end"

    def check(self) -> None:
        assert self.answered, "no good event ended"
        assert not self.wrong, self.wrong[:3]

    @property
    def figures(self) -> Figures:
        return {"good_calls": self.answered, "good_failed": len(self.wrong)}


def exceptions(folder: Path, each: int, *flags: str) -> Figures:
    """Exceptions in every place: each event ends as it must, soon, and harms none beside it."""
    slowest_s = 0.0
    with serving(folder, *flags) as server, Good(server) as good:
        kong = server.connect()
        assert "ValueError" in str(instance_of(kong, "init")) or isinstance(instance_of(kong, "init"), str)
        for do, wanted in KINDS.items():
            instance = instance_of(kong, do)
            for _ in range(each):
                since_s = time.monotonic()
                end = end_of(kong, instance)
                slowest_s = max(slowest_s, time.monotonic() - since_s)
                assert end == wanted, f"{do}: {end}"
            assert end_of(kong, instance, "log") == "ret", do
        kong.close()
    good.check()
    return {
        "engine": "kong",
        "kinds": len(KINDS),
        "calls_of_each": each,
        "slowest_ms": round(slowest_s * 1000, 1),
        **good.figures,
    }


def kills(folder: Path, times: int) -> Figures:
    """kill -9 under load: events in flight are lost, and none after that, nor is one answered for another."""
    slowest_s = 0.0
    with serving(folder) as server:
        with Good(server, 8, may_be_killed=True) as good:
            for _ in range(times):
                before = good.answered
                until_s = time.monotonic() + HANG_S
                while good.answered < before + 20 and time.monotonic() < until_s:
                    time.sleep(0.01)
                server.process.kill()
                server.process.wait()
                since_s, before = time.monotonic(), good.answered
                server.start()  # As Kong does.
                while good.answered == before:
                    assert time.monotonic() - since_s < HANG_S, "no event ends after a restart"
                    time.sleep(0.01)
                slowest_s = max(slowest_s, time.monotonic() - since_s)
        good.check()
        assert good.broken, "nothing was in flight"
    return {
        "engine": "kong",
        "kills": times,
        "broken": good.broken,
        "slowest_recovery_s": round(slowest_s, 2),
        **good.figures,
    }


def connections(folder: Path, count: int) -> Figures:
    """Connections that do nothing, say half of something, or wait for ever in an event."""
    with serving(folder) as server:
        with Good(server) as good:
            good.begun()
            descriptors = descriptor_count(server.process.pid)
            threads = thread_count(server.process.pid)
            kongs = [server.connect() for _ in range(count)]
            instance = instance_of(kongs[0])
            half = wire.pack_request(1, wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "access"})
            for number, kong in enumerate(kongs):
                if number % 3 == 1:
                    kong.socket.sendall(half[: 1 + number % (len(half) - 1)])
                elif number % 3 == 2:
                    kong.send(wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "access"})
            good.begun()
            held = thread_count(server.process.pid)
            for kong in kongs:
                kong.close()
            after = settle(lambda: descriptor_count(server.process.pid), descriptors + 4)
            left = settle(lambda: thread_count(server.process.pid), threads + 70)
        good.check()
        assert after <= descriptors + 4, f"{after} descriptors, {descriptors} before"
    return {
        "engine": "kong",
        "connections": count,
        "threads_before_beside_after": [threads, held, left],
        "descriptors_before_and_after": [descriptors, after],
        **good.figures,
    }


def hostile(folder: Path, frames: int, *, seed: int = 1) -> Figures:
    """Frames that are none, beside good events that all end well. Each ends in an answer, or a closed end."""
    chosen = random.Random(seed)  # noqa: S311 - no secret
    ends: Counter[str] = Counter()
    with serving(folder) as server:
        with Good(server) as good:
            kong, instance = server.connect(), None
            for _ in range(frames):
                try:
                    if instance is None:
                        instance = instance_of(kong)
                    kong.socket.sendall(_hostile_frame(chosen, instance))
                    kong.socket.shutdown(socket.SHUT_WR) if chosen.random() < 0.2 else None
                    kong.socket.settimeout(0.02)
                    answer = answer_of(kong)
                    ends["an error" if answer.error is not None else "an answer"] += 1
                except (EOFError, BrokenPipeError, ConnectionError):
                    ends["closed"] += 1
                except TimeoutError:
                    ends["more is waited for"] += 1
                else:
                    kong.socket.settimeout(HANG_S)
                    if ends.total() % 50:
                        continue
                kong.close()
                kong = server.connect()
            kong.close()
            settle(lambda: descriptor_count(server.process.pid), 40)
        good.check()
        rss = rss_mib(server.process.pid)
    return {"engine": "kong", "frames": frames, "ends": dict(ends), "rss_mib": round(rss, 1), **good.figures}


def _hostile_frame(chosen: random.Random, instance: Any) -> bytes:
    good = wire.pack_request(1, wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "access"})
    odd: list[Any] = [None, -1, 2**63, 1.5, "x", b"\xff", [], {}, [[[]]], {"a": None}, True, "\udcff"]
    kind = chosen.randrange(9)
    if kind == 0:
        return chosen.randbytes(chosen.randrange(1, 60))
    if kind == 1:
        return good[: chosen.randrange(1, len(good))]
    if kind == 2:
        cut = bytearray(good)
        for _ in range(chosen.randrange(1, 4)):
            cut[chosen.randrange(len(cut))] = chosen.randrange(256)
        return bytes(cut)
    if kind == 3:
        return wire.pack([chosen.choice(odd) for _ in range(chosen.randrange(6))])
    if kind == 4:
        return wire.pack_request(chosen.choice((0, -1, 2**40)), str(chosen.choice(odd)), chosen.choice(odd))
    if kind == 5:
        argument = {"InstanceId": chosen.choice(odd), "EventName": chosen.choice(odd)}
        return wire.pack([0, 1, wire.HANDLE_EVENT, [argument]])
    if kind == 6:
        step = {"EventId": chosen.choice([*odd, 0, 5, 10**9]), "Data": chosen.choice(odd)}
        return wire.pack([0, 1, wire.STEP, [step]])
    if kind == 7:
        return wire.pack([0, 1, wire.START_INSTANCE, [{"Name": "p", "Config": chosen.choice(odd)}]])
    return chosen.choice(
        (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 5000)
    )


class Stream:
    """Events on some connections at one time, from one thread: as many as there is time for."""

    def __init__(self, server: Server, connections: int) -> None:
        self._kongs = [server.connect() for _ in range(connections)]
        # On each connection, as the server says first who it is.
        instance = [instance_of(kong) for kong in self._kongs][-1]
        self._event = wire.pack_request(7, wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "access"})
        self._head = wire.pack_request(7, wire.STEP, {})[:-2] + b"\x91\x82\xa7EventId"

    def run(self, events: int) -> None:
        left = {kong.socket: events // len(self._kongs) for kong in self._kongs}
        with selectors.DefaultSelector() as selector:
            for each in left:
                selector.register(each, selectors.EVENT_READ)
                each.sendall(self._event)
            while left:
                ready = selector.select(HANG_S)
                assert ready, "an event hangs"
                for key, _ in ready:
                    ended = key.fileobj
                    assert isinstance(ended, socket.socket)
                    came = ended.recv(65536)
                    if b"\xa3ret" not in came:
                        ended.sendall(self._head + came[came.rfind(b"\xa7EventId") + 8 :] + b"\xa4Data\xa1v")
                        continue
                    left[ended] -= 1
                    if left[ended]:
                        ended.sendall(self._event)
                    else:
                        selector.unregister(ended)
                        del left[ended]

    def close(self) -> None:
        for kong in self._kongs:
            kong.close()


def memory(folder: Path, *, events: int, instances: int, orphans: int) -> Figures:
    """Many events, instances that Kong never closes, and events whose step never comes: memory stays flat."""
    with serving(folder) as server:
        pid = server.process.pid
        stream = Stream(server, 16)

        def orphaned(count: int) -> None:
            for number in range(count):
                kong = server.connect()
                instance = instance_of(kong)
                phase = "rewrite" if number % 2 else "access"
                kong.event(instance, phase)
                if number % 4 == 3:
                    kong.event(instance)  # Kong has given the connection to another request.
                kong.close()

        def started(count: int) -> None:
            kong = server.connect()
            for number in range(count):
                instance = instance_of(kong, "good" if number % 2 else "exit")
                assert end_of(kong, instance) == ("ret" if number % 2 else "exit")
            kong.close()

        parts: dict[str, tuple[Callable[[int], None], int]] = {
            "events": (stream.run, events),
            "instances": (started, instances),
            "orphaned events": (orphaned, orphans),
        }
        found: dict[str, list[float]] = {}
        for name, (run, count) in parts.items():
            # What is kept for reuse is there after the first part of each: as many as are kept of it.
            run(max(count // 2, 16))
            found[name] = [round(rss_mib(pid), 1)]
            run(max(count // 2, 16))
            found[name].append(round(rss_mib(pid), 1))
        stream.close()
        left = settle(lambda: thread_count(pid), 100)
        for name, (half, whole) in found.items():
            assert whole < half * MOST_GROWTH, f"{name}: {half} MiB became {whole} MiB"
    counts = {name: count for name, (_, count) in parts.items()}
    return {"engine": "kong", "counts": counts, "rss_mib_half_and_whole": found, "threads_left": left}


def mixed(folder: Path, seconds: float, *, strict: bool) -> Figures:
    """Everything at one time: good events, exceptions, orphans, instances, hostile frames."""
    stop = threading.Event()
    done: Counter[str] = Counter()
    failed: list[str] = []

    def again_and_again(name: str, once: Callable[[Kong], None]) -> threading.Thread:
        def run() -> None:
            while not stop.is_set():
                kong = server.connect()
                try:
                    for _ in range(20):
                        once(kong)
                        done[name] += 1
                except (EOFError, OSError):
                    done[f"{name}, closed"] += 1
                except AssertionError as error:
                    failed.append(f"{name}: {error}")
                finally:
                    kong.close()

        return threading.Thread(target=run, daemon=True)

    chosen = random.Random(2)  # noqa: S311 - no secret

    def raises(kong: Kong) -> None:
        do = chosen.choice(list(KINDS))
        end = end_of(kong, instance_of(kong, do))
        assert end == KINDS[do], f"{do}: {end}"

    def orphan(kong: Kong) -> None:
        kong.event(instance_of(kong), "rewrite")

    def closes(kong: Kong) -> None:
        instance = instance_of(kong)
        end = end_of(kong, instance)
        assert end == "ret", f"instance {instance}: {end}"
        kong.ask(wire.CLOSE_INSTANCE, instance)
        end = end_of(kong, instance)
        assert "no plugin instance" in end, f"instance {instance}, closed: {end}"

    def sends_nonsense(kong: Kong) -> None:
        kong.socket.sendall(_hostile_frame(chosen, 0))
        kong.socket.settimeout(0.02)
        with suppress(TimeoutError):
            kong.receive()

    with serving(folder) as server:
        pid = server.process.pid
        kinds = {"raises": raises, "orphan": orphan, "closes": closes, "nonsense": sends_nonsense}
        threads = [again_and_again(name, once) for name, once in kinds.items()]
        with Good(server, 4) as good:
            for thread in threads:
                thread.start()
            sizes = []
            for _ in range(4):
                time.sleep(seconds / 4)
                sizes.append(round(rss_mib(pid), 1))
            stop.set()
            for thread in threads:
                thread.join(HANG_S)
        good.check()
        assert not failed, failed[:3]
        descriptors = settle(lambda: descriptor_count(pid), 40)
        if strict:
            assert sizes[-1] < sizes[1] * MOST_GROWTH, f"MiB by quarter: {sizes}"
    return {
        "engine": "kong",
        "seconds": seconds,
        "done": dict(done),
        "rss_mib_by_quarter": sizes,
        "descriptors_left": descriptors,
        **good.figures,
    }
