"""The handlers in this process, as the server that Envoy calls: the code that `serve --envoy` runs."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from coprocess.desk.envoy.simulator.exchange import Pairs
from coprocess.desk.envoy.simulator.server import ProcessStream, ServerEnd, ServerEvent, ServerMessage
from coprocess.desk.hook_runs import HookRun, HookWatch
from coprocess.desk.output import silent_logger
from coprocess.errors import Status
from coprocess.gateways.envoy.chain import Chains
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.wire import CHECK, PROCESS
from coprocess.loading.hooks import HookTable
from coprocess.loading.loaded import Loaded, Problem
from coprocess.runtime.registration import GatewayOptions
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.store import store
from coprocess.transport.engine import BidiRpc, FailedReply, Metadata, Rpc

#: A reply and the end of its stream come one after the other, from another thread.
_LAST_LOOK_S = 0.002
_WAIT_S, _STOP_S = 60.0, 5.0
_EVENTS_S = 5.0


class HandlerServer:
    """Runs the handlers of `loaded`. Use it in `with`: their resources are open within."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        chains: Callable[[], Chains] = dict,
        timeout_s: float = 30.0,
        failure_status: int | None = None,
        max_body_bytes: int = 4 << 20,
    ) -> None:
        self._loaded = loaded
        self._watch = HookWatch()
        options = GatewayOptions(max_body_bytes=max_body_bytes, chains=chains, limits_store=store.library_url)
        self._gateway = EnvoyGateway(HookTable(), options)
        self._service = Service(
            self._gateway,
            ServiceOptions(timeout_s=timeout_s, failure_status=failure_status),
            logger=silent_logger(),  # What it would log is in `runs`.
        )
        self._service.use_tracing(self._watch)
        self._methods = self._service.methods
        #: Resources that did not open; their handlers are gone.
        self.problems: list[Problem] = []

    def __enter__(self) -> HandlerServer:
        known = len(self._loaded.problems)
        self._service.start()
        self._loaded.open(self._service.async_calls.spawn, _WAIT_S)
        self.problems = self._loaded.problems[known:]
        self._gateway.table = self._loaded.table
        return self

    def __exit__(self, *_: object) -> None:
        self._service.drain(_STOP_S)
        self._loaded.close(_WAIT_S)
        self._service.stop(_STOP_S)

    @property
    def runs(self) -> list[HookRun]:
        """The calls so far, without events. `forget_runs` empties it."""
        return [run for run in self._watch.runs if run.type != "Event"]

    @property
    def event_runs(self) -> list[HookRun]:
        """Those of events that the calls so far have fired, once they have ended, or after a time."""
        self._service.events.wait(time.monotonic() + _EVENTS_S)
        return [run for run in self._watch.runs if run.type == "Event"]

    def forget_runs(self) -> None:
        self._watch.runs.clear()

    # A Server of the simulator's.

    def process(self, cluster: str, metadata: Pairs) -> ProcessStream:
        methods = self._methods
        rpc = _StreamRpc(PROCESS, metadata, self._service.in_thread, methods.failed[PROCESS])
        methods.bidi[PROCESS](rpc)
        return _HandlerStream(rpc)

    def check(
        self, cluster: str, metadata: Pairs, payload: bytes, timeout_s: float | None
    ) -> tuple[ServerEvent | None, float]:
        rpc = _UnaryRpc(payload, metadata)
        started = time.perf_counter()
        self._service.in_thread(lambda: self._methods.unary[CHECK](rpc))
        event = rpc.wait(timeout_s if timeout_s is not None else _WAIT_S)
        return event, time.perf_counter() - started


class _HandlerStream(ProcessStream):
    def __init__(self, rpc: _StreamRpc) -> None:
        self._rpc = rpc

    def send(self, payload: bytes) -> bool:
        if self._rpc.is_over:
            return False
        self._rpc.on_message(payload)
        return True

    def receive(self, timeout_s: float) -> tuple[ServerEvent | None, float]:
        started = time.perf_counter()
        return self._rpc.next(timeout_s), time.perf_counter() - started

    def poll(self) -> ServerEvent | None:
        return self._rpc.next(_LAST_LOOK_S)

    def close(self) -> None:
        self._rpc.leave()


class _StreamRpc(BidiRpc):
    """A stream whose client is the simulated Envoy."""

    def __init__(
        self,
        method: str,
        metadata: Pairs,
        in_thread: Callable[[Callable[[], None]], None],
        failed: FailedReply,
    ) -> None:
        super().__init__(method)
        self._metadata = metadata
        self._in_thread = in_thread
        self._failed = failed
        self._events: queue.SimpleQueue[ServerEvent] = queue.SimpleQueue()
        self._cancelled: Callable[[], None] = lambda: None
        self.is_over = False
        self._has_left = False

    def next(self, timeout_s: float) -> ServerEvent | None:
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def leave(self) -> None:
        """The client resets it."""
        if not self._has_left:
            self._has_left = True
            if not self.is_over:
                self.is_over = True
                self._cancelled()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._cancelled = callback

    def on_loop(self, task: Callable[[], None]) -> None:
        task()

    def in_thread(self, task: Callable[[], None]) -> None:
        self._in_thread(task)

    def begin(self, metadata: Metadata) -> None:
        """Envoy looks at no metadata of the server's."""

    def send(self, message: bytes) -> bool:
        if self.is_over:
            return False
        self._events.put(ServerMessage(message))
        return True

    def end(
        self,
        status: Status | None = None,
        message: str = "",
        details: bytes = b"",
        metadata: Metadata = (),
    ) -> None:
        if not self.is_over:
            self.is_over = True
            self._events.put(ServerEnd(0 if status is None else status.value, message))

    def failed_reply(self) -> FailedReply | None:
        return self._failed

    def metadata(self) -> Metadata:
        return self._metadata

    def time_allowed_s(self) -> float | None:
        return None


class _UnaryRpc(Rpc):
    """A check whose client is the simulated Envoy."""

    def __init__(self, payload: bytes, metadata: Pairs) -> None:
        self.method, self.payload = CHECK, payload
        self._metadata = metadata
        self._events: queue.SimpleQueue[ServerEvent] = queue.SimpleQueue()
        self._cancelled: Callable[[], None] = lambda: None

    def wait(self, timeout_s: float) -> ServerEvent | None:
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            self._cancelled()
            return None

    def respond(self, reply: bytes) -> None:
        self._events.put(ServerMessage(reply))

    def fail(self, status: Status, message: str) -> None:
        self._events.put(ServerEnd(status.value, message))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._cancelled = callback

    def metadata(self) -> Metadata:
        return self._metadata

    def time_allowed_s(self) -> float | None:
        return None
