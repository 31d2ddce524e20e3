"""Handlers inside somebody else's process: loaded and reloaded, and counted, as `serve` does it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from coprocess.loading.loaded import Loaded, Problem
from coprocess.loading.resources import Spawn
from coprocess.process import extras
from coprocess.process.file_watch import FileWatch
from coprocess.process.reload import Outcome, Reloader
from coprocess.process.settled_files import SettledLoad
from coprocess.runtime.service import Service

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

log = structlog.get_logger("coprocess")

_RESOURCE_TIMEOUT_S = 30.0
_SETTLE_S = 0.5
_SWEEP_S = 0.2


class WebHost:
    """Its methods may be called by any thread. Nothing of the process is touched but the module names."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        service: Service,
        folders: list[Path],
        watches: bool,
        spawn: Spawn | None,
    ) -> None:
        """`spawn` starts coroutines on the handlers' loop; None: on the service's own."""
        self._service = service
        self._closed = threading.Event()
        self._lock = threading.Lock()
        settled = SettledLoad(load, lambda: folders, _SETTLE_S, self._closed.is_set) if folders else load
        self._reloader = Reloader(
            settled, service, strict=False, resource_timeout_s=_RESOURCE_TIMEOUT_S, spawn=spawn
        )
        self._sweeper: threading.Thread | None = None
        self._watch: FileWatch | None = None
        if watches and folders:
            self._watch = FileWatch(lambda: folders, None, self._files_changed, _SETTLE_S)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be loaded, or did not open, when that was last tried."""
        return self._reloader.problems

    def open(self) -> Loaded:
        with self._lock:
            self._reloader.first()
        if self._watch is not None:
            self._watch.start()
        return self._reloader.loaded

    def _files_changed(self) -> None:
        self.reload("file change")

    def reload(self, reason: str) -> Outcome:
        """Load again; old handlers end the requests they began, and then their resources close."""
        with self._lock:
            if self._closed.is_set():
                return Outcome(False, ("the handlers are closed",), 0, reason, 0.0)
            outcome = self._reloader.reload(reason)
            if self._sweeper is None or not self._sweeper.is_alive():
                self._sweeper = threading.Thread(target=self._sweep, name="web-sweep", daemon=True)
                self._sweeper.start()
            return outcome

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEEP_S):
            with self._lock:
                self._reloader.sweep()

    def trace(self) -> None:
        """Trace the calls from now on, by the tracer provider that the process has when they come."""
        extras.need_tracing()
        # Only here: the libraries take memory, and time to import.
        from opentelemetry import trace

        from coprocess.process.tracing import CallTracing

        self._service.use_tracing(CallTracing(trace.get_tracer("coprocess")))

    def collector(self) -> Collector:
        """For a Prometheus registry of the app's own."""
        # Only here: who asks for none need not load the library.
        from coprocess.process.metrics import InProcess, ServiceCollector, StoreCounts

        here = InProcess()
        return ServiceCollector(self._service, here, here, self._reloader, StoreCounts())

    def metrics(self) -> bytes:
        """As Prometheus reads them."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self.collector())
        return generate_latest(registry)

    def close(self) -> None:
        self._closed.set()
        if self._watch is not None:
            self._watch.stop()
        with self._lock:
            self._reloader.close()
