"""Load on a service, and what can be seen of its process from outside."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from coprocess.gateways.tyk.wire import Object
from tests.server import PATIENCE_S, Client, status_of

Figures = dict[str, Any]

#: Seconds after which a call counts as one that hangs.
HANG_S = PATIENCE_S

#: Is told what was sent with each call, and what came back.
Judge = Callable[[Any, Object], None]


class Load:
    """Calls one after the other, on `connections` connections, inside `with`.

    `before` is called just before each call; `judge` gets what it gave, and the reply, and raises
    AssertionError where that is wrong. With `until_refused`, a connection ends its calls at the first error.
    """

    def __init__(
        self,
        address: str,
        message: Object,
        *,
        connections: int = 2,
        before: Callable[[], Any] = lambda: None,
        judge: Judge = lambda sent, reply: None,
        pause_s: float = 0.0,
        until_refused: bool = False,
    ) -> None:
        self.answered = 0
        self.errors: list[tuple[grpc.StatusCode, str]] = []
        self.wrong: list[str] = []
        self.latencies_s = array("d")  # A list of them would be five times as large, after an hour.
        self._address = address
        self._message = message
        self._before = before
        self._judge = judge
        self._pause_s = pause_s
        self._until_refused = until_refused
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(connections)]

    def _work(self) -> None:
        with Client(self._address) as client:
            while not self._stop.is_set():
                sent, since_s = self._before(), time.perf_counter()
                try:
                    reply = client.dispatch(self._message, timeout_s=HANG_S)
                except grpc.RpcError as error:
                    with self._lock:
                        self.errors.append(status_of(error))
                    if self._until_refused:
                        return
                    continue
                try:
                    self._judge(sent, reply)
                except AssertionError as error:
                    with self._lock:
                        self.wrong.append(str(error))
                with self._lock:
                    self.answered += 1
                    self.latencies_s.append(time.perf_counter() - since_s)
                if self._pause_s:
                    self._stop.wait(self._pause_s)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        # For all together: a call that hangs takes HANG_S, on however many connections.
        until_s = time.monotonic() + 1.25 * HANG_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a call never ended"

    def wait_for(self, answered: int) -> None:
        """Until so many more calls have been answered."""
        aim, until_s = self.answered + answered, time.monotonic() + HANG_S
        while self.answered < aim:
            assert time.monotonic() < until_s, (
                f"{answered} calls were not answered in time: {self.errors[:3]}"
            )
            time.sleep(0.005)

    def check(self, least: int = 1) -> None:
        """All calls succeeded, and there were so many."""
        counted = Counter(self.errors)
        assert not self.errors, (
            f"{len(self.errors)} of {self.answered} calls failed: {counted.most_common(5)}"
        )
        assert not self.wrong, f"{len(self.wrong)} replies are wrong: {self.wrong[:5]}"
        assert self.answered >= least, f"only {self.answered} calls were answered"

    def p99_ms(self, since: int = 0) -> float:
        """Of the calls from number `since` on."""
        ordered = sorted(self.latencies_s[since:])
        return round(ordered[int(len(ordered) * 0.99)] * 1000, 2) if ordered else 0.0


def stamp_is(value: str) -> Judge:
    def judge(sent: Any, reply: Object) -> None:
        stamp = reply.request.set_headers.get("X-Stamp")
        assert stamp == value, f"stamp {stamp!r}"

    return judge


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has ended")


def thread_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptor_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def settle(read: Callable[[], int], at_most: int, patience_s: float = HANG_S) -> int:
    """What `read` gives when it is no more than `at_most`, or at the end of the patience."""
    until_s = time.monotonic() + patience_s
    while (value := read()) > at_most and time.monotonic() < until_s:
        time.sleep(0.05)
    return value
