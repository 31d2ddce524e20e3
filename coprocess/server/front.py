"""The front process of `--workers`: takes calls from the engine and passes them to worker processes.

A gateway holds a single connection, so sharing a port between processes would send all its calls to one of
them. Here one process holds the connections, and each call goes to the worker with the fewest.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from coprocess.errors import Status
from coprocess.server.engine import Rpc
from coprocess.server.idle import wait_until_idle
from coprocess.server.pipe import (
    CANCEL,
    OK,
    READY,
    SECONDS,
    SERVING,
    WITH_DEADLINE,
    WITH_METADATA,
    FrameSocket,
    pack_metadata,
)
from coprocess.server.trace_context import trace_context_of

log = structlog.get_logger("coprocess")

#: More than a worker's hooks could run and queue: only one that does not read any more gets there.
_MAX_OUTSTANDING = 16_384
_RESTART_DELAY_S = 0.5
_TICK_S = 0.2


class _Worker:
    """One worker process, and the calls it has."""

    def __init__(self, number: int, admin: Path, changed: Callable[[], None]) -> None:
        """`changed` is called back when `ready` has changed."""
        self.number = number
        self._changed = changed
        #: Whether it takes calls.
        self.ready = False
        #: Whether it has hooks for them.
        self.serving = False
        #: Set when that is known: it can serve, or it is gone.
        self.settled = threading.Event()
        self.outstanding: dict[int, Rpc] = {}
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            words = [*_own_command(), "--admin", f"unix:{admin}", "--no-reload"]
            words += ["--worker-fd", str(theirs.fileno()), "--worker-number", str(number)]
            # A process group of its own: Ctrl-C is for the front, which then ends the workers in order.
            self.process = subprocess.Popen(  # noqa: S603 - this very command, with the user's own arguments
                words, pass_fds=[theirs.fileno()], process_group=0
            )
        self.frames = FrameSocket(ours)
        self._gone = False

    def send(self, call_id: int, method: int, rpc: Rpc, metadata: Sequence[tuple[str, str]]) -> bool:
        """Pass a call on, with some of its metadata. False where the worker is gone or does not keep up."""
        with self._lock:
            if self._gone or len(self.outstanding) >= _MAX_OUTSTANDING:
                return False
            self.outstanding[call_id] = rpc
        rpc.on_cancel(lambda: self._cancel(call_id))
        try:
            kind, body = method, [rpc.payload]
            if metadata:
                kind |= WITH_METADATA
                body.insert(0, pack_metadata(metadata))
            if (allowed_s := rpc.time_allowed_s()) is not None:
                kind |= WITH_DEADLINE
                body.insert(0, SECONDS.pack(allowed_s))
            self.frames.send(call_id, kind, *body)
        except OSError:
            return self.outstanding.pop(call_id, None) is None
        return True

    def _cancel(self, call_id: int) -> None:
        # It stays with the calls that the worker has until that answers: the handler may run on, and a worker
        # that hangs would seem to be the idlest of all.
        if call_id in self.outstanding:
            try:
                self.frames.send(call_id, CANCEL, b"")
            except OSError:
                return

    def receive_all(self) -> None:
        """Answer calls until the worker is gone; those it had then fail."""
        while (frame := self.frames.receive()) is not None:
            call_id, kind, body = frame
            if kind == READY:
                self.serving = body == SERVING
                self.ready = True
                self.settled.set()
                self._changed()
                continue
            rpc = self.outstanding.pop(call_id, None)
            if rpc is None:
                continue
            if kind == OK:
                rpc.respond(body)
            else:
                rpc.fail(Status(kind), body.decode("utf-8", "replace"))
        with self._lock:
            self._gone, self.ready = True, False
            lost, self.outstanding = self.outstanding, {}
        for rpc in lost.values():
            rpc.fail(Status.UNAVAILABLE, "the worker process ended")
        self.settled.set()
        self._changed()


class Front:
    """Starts the workers, keeps them running, and hands calls to them (`handle`)."""

    def __init__(
        self, sockets: Sequence[Path], methods: Sequence[str], *, pass_trace_context: bool = False
    ) -> None:
        """There are as many workers as `sockets`; each has its admin pages at one."""
        self._pass_trace_context = pass_trace_context
        self._sockets = sockets
        self._methods = {method: index for index, method in enumerate(methods)}
        self._ids = itertools.count(1)
        self._workers: list[_Worker] = []
        self._started = False
        self._stopping = False
        self._draining = False
        self._readiness_lock = threading.Lock()
        self._on_readiness: Callable[[bool], None] = lambda ready: None
        self.restarts = 0

    def start(self, timeout_s: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Start the workers and wait until all can serve, or `give_up` says so. False where one could not."""
        self._workers = [self._start_worker(number) for number in range(len(self._sockets))]
        until_s = time.monotonic() + timeout_s
        for worker in self._workers:
            while not (give_up() or worker.settled.wait(_TICK_S) or time.monotonic() > until_s):
                pass
        self._started = all(worker.ready for worker in self._workers)
        return self._started

    def _start_worker(self, number: int) -> _Worker:
        worker = _Worker(number, self._sockets[number], self._tell_readiness)
        threading.Thread(target=self._attend, args=(worker,), name=f"worker-{number}", daemon=True).start()
        return worker

    def watch_readiness(self, callback: Callable[[bool], None]) -> None:
        """Tell, now and upon each change, whether any worker takes calls and has hooks for them."""
        self._on_readiness = callback
        self._tell_readiness()

    def _tell_readiness(self) -> None:
        with self._readiness_lock:  # So that the last one told is the last there was.
            self._on_readiness(any(worker.ready and worker.serving for worker in self._workers))

    def _attend(self, worker: _Worker) -> None:
        worker.receive_all()
        worker.frames.close()
        status = worker.process.wait()
        if self._stopping or not self._started:
            return
        log.error("a worker process ended", worker=worker.number, exit_status=status)
        time.sleep(_RESTART_DELAY_S)
        if not self._stopping:
            self.restarts += 1
            self._workers[worker.number] = self._start_worker(worker.number)
            self._tell_readiness()

    def handle(self, rpc: Rpc) -> None:
        """Pass a call to the worker that has the fewest."""
        if self._draining:
            rpc.fail(Status.UNAVAILABLE, "the service is shutting down")
            return
        metadata = trace_context_of(rpc.metadata()) if self._pass_trace_context else ()
        ready = [worker for worker in self._workers if worker.ready]
        for worker in sorted(ready, key=lambda worker: len(worker.outstanding)):
            if worker.send(next(self._ids), self._methods[rpc.method], rpc, metadata):
                return
        rpc.fail(Status.UNAVAILABLE, "no worker process can take the call")

    def signal(self, number: int) -> None:
        """Pass a signal on to all workers."""
        for worker in self._workers:
            if worker.process.poll() is None:
                os.kill(worker.process.pid, number)

    @property
    def in_flight(self) -> int:
        return sum(len(worker.outstanding) for worker in self._workers)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and wait for those in flight. False where some still run after `timeout_s`."""
        self._draining = True
        return wait_until_idle(lambda: self.in_flight, timeout_s)

    def stop(self, timeout_s: float) -> None:
        """End the workers: they stop when their socket does."""
        self._stopping = True
        for worker in self._workers:
            worker.frames.close()
            if not worker.ready and worker.process.poll() is None:
                worker.process.terminate()  # It loads handlers, and may hang in one.
        until_s = time.monotonic() + timeout_s
        for worker in self._workers:
            try:
                worker.process.wait(max(0.1, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def _own_command() -> list[str]:
    # -P: a file of the working folder must not pass for a module. What is added to the flags comes later, and
    # wins.
    return [sys.executable, "-P", "-m", "coprocess", *sys.argv[1:]]
