"""The front process of `--workers`: takes calls from the engine and passes them to worker processes.

A gateway holds a single connection, so sharing a port between processes would send all its calls to one of
them. Here one process holds the connections, and each call goes to the worker with the fewest.

Where each worker listens at an address of its own, no call comes here: the front only looks after them.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from coprocess.errors import Status
from coprocess.process.least import Least
from coprocess.process.restarts import MANY, Restarts
from coprocess.process.worker_process import MAX_OUTSTANDING, WorkerProcess
from coprocess.runtime.idle import wait_until_idle
from coprocess.transport.engine import Methods, Rpc
from coprocess.transport.frame_link import polling_server
from coprocess.transport.http2.grpc_connection import Begin, Call, GrpcConnection
from coprocess.transport.http2.grpc_wire import Request
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.streams import Stream
from coprocess.transport.listeners import remove_dead_socket
from coprocess.transport.pipe import LINES, pack_call
from coprocess.transport.trace_context import trace_context_of

log = structlog.get_logger("coprocess")

_START_TIMEOUT_S = 60.0
_LOOK_INTERVAL_S = 0.5
#: Between looks at whether a worker that was killed at the first start is there again.
_PAUSE_S = 0.05
#: Of the calls of one read, to one worker, while others have fewer.
_MOST_TOGETHER = 8


class Front:
    """Starts the workers, keeps them running, and hands calls to them."""

    def __init__(
        self,
        sockets: Sequence[Path],
        methods: Sequence[str],
        *,
        silence_s: float,
        pass_trace_context: bool = False,
        flags: Sequence[str] = (),
        addresses: Sequence[str] = (),
    ) -> None:
        """There are as many workers as `sockets`; each has its admin pages at one.

        One that is not heard of for `silence_s` is killed and replaced. `flags` are added to this command's
        own for them. `addresses`: each takes calls itself at one of them.
        """
        self._flags = flags
        #: With the ports that were given for 0, once the workers have told them.
        self.addresses = list(addresses)
        self._pass_trace_context = pass_trace_context
        self._sockets = sockets
        self._silence_s = silence_s
        self._indexes = {path: index for index, path in enumerate(methods)}
        #: What an engine is given.
        self.methods = Methods(
            unary=dict.fromkeys(methods, self.handle),
            relays={path: partial(self._relay, index) for path, index in self._indexes.items()},
        )
        self._ids = itertools.count(1)
        #: The worker of the calls that are read now, and how many more of them it gets.
        self._chosen: WorkerProcess | None = None
        self._left = 0
        self._stop_polling: Callable[[], None] = lambda: None
        self._workers: list[WorkerProcess] = []
        self._restarts = [Restarts() for _ in sockets]
        self._started = False
        #: Why the first start fails; empty: it does not.
        self.start_failure = ""
        self._stopping = threading.Event()
        self._start_lock = threading.Lock()
        self._draining = False
        self._readiness_lock = threading.Lock()
        self._on_readiness: Callable[[bool], None] = lambda ready: None
        #: Called back once no worker can run.
        self.on_failure: Callable[[], None] = lambda: None
        #: Why that is; empty: some can.
        self.failure = ""
        self.restarts = 0
        self.kills = 0
        #: Calls that no worker could take.
        self.refused_calls = 0

    def start(self, is_stopping: Callable[[], bool], poller: Server | None = None) -> bool:
        """Start the workers and wait until they can serve. False where one cannot, or nobody wants it.

        One that is killed from outside meanwhile is started anew, and waited for only where no other serves.

        `poller` is what takes the calls, where it can take the workers' answers, too, in the same thread.
        """
        if poller is None:
            poller, self._stop_polling = polling_server("worker-answers")
        self._poller = poller
        for number in range(len(self._sockets)):
            try:
                self._workers.append(self._new_worker(number))
            except (OSError, RuntimeError) as error:
                self.start_failure = str(error)
                log.error("a worker process cannot be started", worker=number, reason=str(error))
                return False
        for worker in self._workers:
            threading.Thread(
                target=self._attend, args=(worker,), name=f"worker-{worker.number}", daemon=True
            ).start()
        threading.Thread(target=self._look_after_all, name="worker-watch", daemon=True).start()
        # It has an end: see `look_after`, and `_fail_if_none_runs`.
        while not (self._are_up or self.start_failure or self.failure or is_stopping()):
            starting = next((each for each in self._workers if not each.settled.is_set()), None)
            if starting is None:
                self._stopping.wait(_PAUSE_S)
            else:
                starting.settled.wait(_LOOK_INTERVAL_S)
        self._started = self._are_up and not self.start_failure
        if self.addresses and self._started:
            # The one that takes its place must be found where it was.
            self.addresses = [worker.address for worker in self._workers]
        return self._started

    @property
    def _are_up(self) -> bool:
        """Whether all serve, but for those that have ended before, where others serve."""
        if self.addresses:  # Each is one that clients know.
            return all(worker.started for worker in self._workers)
        return any(worker.started for worker in self._workers) and all(
            worker.started or restarts.in_a_row
            for worker, restarts in zip(self._workers, self._restarts, strict=True)
        )

    def _new_worker(self, number: int) -> WorkerProcess:
        own = ("--worker-address", self.addresses[number]) if self.addresses else ()
        flags = (*self._flags, *own, *self._least())
        return WorkerProcess(number, self._sockets[number], self._tell_readiness, flags, server=self._poller)

    def _least(self) -> tuple[str, ...]:
        """For one that is started while others serve: it may serve no less, as after a reload that failed."""
        others = [worker for worker in self._workers if worker.is_able]
        if not others:
            return ()
        best = min(others, key=lambda worker: (worker.problems, -worker.hooks))
        return "--worker-least", str(Least(best.hooks, best.problems))

    def watch_readiness(self, callback: Callable[[bool], None]) -> None:
        """Tell, now and upon each change, whether any worker takes calls and has hooks for them."""
        self._on_readiness = callback
        self._tell_readiness()

    def _tell_readiness(self) -> None:
        with self._readiness_lock:  # So that the last one told is the last there was.
            self._on_readiness(any(worker.is_able for worker in self._workers))

    @property
    def ready(self) -> list[bool]:
        """Of each worker: whether it can be asked for anything."""
        return [worker.ready for worker in self._workers]

    @property
    def pids(self) -> list[int]:
        """Of the workers that have not ended."""
        return [each.process.pid for each in self._workers if each.process.returncode is None]

    def _look_after_all(self) -> None:
        looked_s = time.monotonic()
        while not self._stopping.wait(_LOOK_INTERVAL_S):
            now_s = time.monotonic()
            # Where this process was stopped itself, as with the whole machine, nobody was silent meanwhile.
            passed_s, looked_s = min(now_s - looked_s, 2 * _LOOK_INTERVAL_S), now_s
            for worker in list(self._workers):
                try:
                    worker.look_after(passed_s, start_s=_START_TIMEOUT_S, silence_s=self._silence_s)
                except Exception:  # The others must be looked after, too.
                    log.exception("a worker process could not be looked after")

    def _attend(self, worker: WorkerProcess) -> None:
        """Serve with `worker`, and with those that take its place."""
        next_worker: WorkerProcess | None = worker
        while next_worker is not None:
            worker = next_worker
            worker.over.wait()
            status = worker.clear_up()
            since_s = worker.ready_since_s
            if self._stopping.is_set():
                return
            if not self._started and since_s is None and not _is_killed_by_others(worker, status):
                # It would end again, and has told why.
                self.start_failure = f"worker {worker.number} ended with status {status}; its log tells why"
                return
            self.kills += bool(worker.killed)
            served_s = 0.0 if since_s is None else time.monotonic() - since_s
            log.error("a worker process ended", worker=worker.number, exit_status=status)
            answered = worker.has_answered or (bool(self.addresses) and since_s is not None)
            delay_s = self._restarts[worker.number].delay_after_s(served_s, answered=answered)
            next_worker = self._replace(worker.number, delay_s, status)

    def _replace(self, number: int, delay_s: float, status: int | None) -> WorkerProcess | None:
        """A new worker, after `delay_s`. None where the service ends."""
        restarts = self._restarts[number]
        while True:
            if restarts.is_loop:
                log.error(
                    "a worker process keeps ending soon after its start",
                    worker=number,
                    in_a_row=restarts.in_a_row,
                    next_start_in_s=delay_s,
                    ready_workers=sum(self.ready),
                )
                self._fail_if_none_runs(status)
            if self._stopping.wait(delay_s):
                return None
            with self._start_lock:
                if self._stopping.is_set():
                    return None
                try:
                    worker = self._workers[number] = self._new_worker(number)
                except (OSError, RuntimeError) as error:
                    log.error("a worker process cannot be started", worker=number, reason=str(error))
                    delay_s = restarts.delay_after_s(0.0, answered=False)
                    continue
            self.restarts += 1
            return worker

    def _fail_if_none_runs(self, status: int | None) -> None:
        if any(self.ready) or not all(restarts.is_loop for restarts in self._restarts) or self.failure:
            return
        self.failure = (
            f"no worker process can run: each ended soon after its start, {MANY} times in a row and more, "
            f"the last one with status {status}; their log tells why"
        )
        self.on_failure()

    def handle(self, rpc: Rpc) -> None:
        """Pass a call to the worker that has the fewest. Waits for nothing."""
        if self._draining:
            self._refuse(rpc, "the service is shutting down")
            return
        metadata = trace_context_of(rpc.metadata()) if self._pass_trace_context else ()
        call_id, index = next(self._ids), self._indexes[rpc.method]
        best = self._choose()
        if best is not None and best.send(call_id, index, rpc, metadata):
            return
        # Where all are silent they may just be busy: better to wait for one than to be refused.
        able = [worker for worker in self._workers if worker.ready] or [
            worker for worker in self._workers if worker.started
        ]
        for worker in sorted(able, key=lambda worker: len(worker.outstanding)):
            if worker is not best and worker.send(call_id, index, rpc, metadata):
                return
        self._refuse(rpc, "no worker process can take the call")

    def _relay(self, method: int, begin_else: Begin) -> Begin:
        """A Relay: the same for a call that is passed on where it is read."""
        next_id, has_context = self._ids.__next__, self._pass_trace_context

        def begin(
            connection: GrpcConnection, stream: Stream, request: Request, message: bytes, is_compressed: bool
        ) -> Call:
            worker = self._chosen if self._left else None
            # Those that came with the last read are on their way.
            if worker is None or not worker.link.is_dirty:
                worker = self._choose_for_read()
            if worker is None or is_compressed:
                return begin_else(connection, stream, request, message, is_compressed)
            kind, before, owner = method, b"", connection.owner
            line = hash(owner) % LINES if owner.comes_later else None
            if has_context or request.timeout_s is not None or line is not None:
                metadata = trace_context_of(request.metadata) if has_context else ()
                kind, before = pack_call(method, request.timeout_s, metadata, line)
            call_id = stream.call_id = next_id()
            stream.owner = owner
            # As `take`, in place: nearly each call comes by.
            taken = (
                worker.put(call_id, kind, message, before)
                if line is None
                else worker.put_later(line, call_id, kind, message, before)
            )
            if not taken:
                return begin_else(connection, stream, request, message, is_compressed)
            worker.outstanding[call_id] = stream
            self._left -= 1
            return worker

        return begin

    def _choose_for_read(self) -> WorkerProcess | None:
        """As `_choose`, but for several calls that were read at one time, where the worker is quick.

        It gets as many as it answered by its last write, up to a limit: to wake two for half each is dear.
        With the poller's lock, which is held while all of a read is taken. None also while it drains.
        """
        worker = self._chosen = None if self._draining else self._choose()
        self._left = 0 if worker is None else min(max(worker.at_once, 1), _MOST_TOGETHER)
        return worker

    def _choose(self) -> WorkerProcess | None:
        """The worker with the fewest calls. None: all are silent, have no hooks, or too many calls."""
        best, fewest = None, MAX_OUTSTANDING
        for worker in self._workers:
            calls = len(worker.outstanding)
            if calls < fewest and worker.is_able:
                best, fewest = worker, calls
        return best

    def _refuse(self, rpc: Rpc, why: str) -> None:
        self.refused_calls += 1
        rpc.fail(Status.UNAVAILABLE, why)

    def signal(self, number: int) -> None:
        """Pass a signal on to all workers."""
        for worker in self._workers:
            worker.signal(number)

    @property
    def in_flight(self) -> int:
        return sum(len(worker.outstanding) for worker in self._workers)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and wait for those in flight. False where some still run after `timeout_s`."""
        with self._poller.lock:  # After that, none is taken where it is read.
            self._draining, self._left = True, 0
        return wait_until_idle(lambda: self.in_flight, timeout_s)

    def stop(self, timeout_s: float) -> None:
        """End the workers, and kill those that have not ended in time."""
        with self._start_lock:
            self._stopping.set()
        for worker in self._workers:
            worker.end()
        until_s = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.end_within(max(0.1, until_s - time.monotonic()))
        for address in self.addresses:  # Of one that was killed.
            remove_dead_socket(address)
        self._stop_polling()


def _is_killed_by_others(worker: WorkerProcess, status: int | None) -> bool:
    """Whether a signal has ended it that did not come from here, as where memory is short."""
    return status is not None and status < 0 and not worker.killed
