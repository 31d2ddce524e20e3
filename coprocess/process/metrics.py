"""Prometheus metrics, read off the service's own counters when somebody asks: calls pay nothing for them.

Label values are bounded: `hook` and `version` are those of hooks that were in a table, never what a caller
sent. `api` is the API that a call came for, of a limited number; see `ApiLabels`.
"""

from __future__ import annotations

import platform
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from coprocess import __version__
from coprocess.loading.routes import RoutedTable
from coprocess.process import logs
from coprocess.process.reload import Reloader
from coprocess.process.store_watch import StoreWatch
from coprocess.runtime.hook_state import (
    DURATION_BUCKETS_S,
    CallLabel,
    HookCounts,
    HookLabel,
    add_up,
    label_of,
)
from coprocess.runtime.service import Service

#: Hooks that have series of their own; counts of further ones, as reloads may bring, are added up as one.
MAX_HOOKS = 1000
OTHER: CallLabel = ("other", "other", "", "")

STORE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

_HOOK_LABELS = ("hook_type", "hook", "version")
_CALL_LABELS = (*_HOOK_LABELS, "api")


@dataclass(slots=True)
class _Operation:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(STORE_BUCKETS_S) + 1))
    sum_s: float = 0.0
    failed: int = 0


class StoreCounts:
    """Counts store operations: `observe` is a store's observer."""

    def __init__(self, watch: StoreWatch | None = None) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._operations: dict[str, _Operation] = {}

    def observe(self, operation: str, duration_s: float, succeeded: bool) -> None:
        with self._lock:
            counted = self._operations.setdefault(operation, _Operation())
            counted.buckets[bisect_left(STORE_BUCKETS_S, duration_s)] += 1
            counted.sum_s += duration_s
            counted.failed += not succeeded

    def collect(self) -> Iterator[Metric]:
        durations = HistogramMetricFamily(
            "coprocess_store_operation_duration_seconds", "Store operations.", labels=("operation",)
        )
        failures = CounterMetricFamily(
            "coprocess_store_failures", "Store operations that failed.", labels=("operation",)
        )
        with self._lock:
            for name, counted in self._operations.items():
                durations.add_metric((name,), _cumulative(STORE_BUCKETS_S, counted.buckets), counted.sum_s)
                failures.add_metric((name,), counted.failed)
        yield durations
        yield failures
        reachable = GaugeMetricFamily(
            "coprocess_store_reachable", "0: the store did not answer, the last time it was asked."
        )
        if self._watch is not None and self._watch.is_reachable is not None:
            reachable.add_metric((), self._watch.is_reachable)
        yield reachable


class EngineCounts(Protocol):
    """What is told of an engine."""

    @property
    def name(self) -> str: ...

    @property
    def refused_calls(self) -> int: ...

    @property
    def lost_requests(self) -> int: ...

    @property
    def thread_count(self) -> int: ...

    @property
    def abandoned_thread_count(self) -> int: ...


class Serving(Protocol):
    """What knows whether calls are taken."""

    @property
    def serving(self) -> bool: ...


class InProcess:
    """Stands for engine and health where calls come from this very process."""

    name = "in-process"
    refused_calls = lost_requests = thread_count = abandoned_thread_count = 0
    serving = True


class ServiceCollector(Collector):
    """Everything but the process's own metrics."""

    def __init__(
        self,
        service: Service,
        engine: EngineCounts,
        health: Serving,
        reloader: Reloader,
        store: StoreCounts,
    ) -> None:
        self._service = service
        self._engine = engine
        self._health = health
        self._reloader = reloader
        self._store = store

    def collect(self) -> Iterator[Metric]:
        yield from self._calls()
        yield from self._load()
        yield from self._hooks()
        yield from self._store.collect()
        yield CounterMetricFamily(
            "coprocess_log_entries_lost",
            "Log entries that were not written: nobody read them in time.",
            value=logs.lost_entries(),
        )
        build = GaugeMetricFamily(
            "coprocess_build_info", "Always 1.", labels=("version", "python_version", "engine")
        )
        build.add_metric((__version__, platform.python_version(), self._engine.name), 1)
        yield build

    def _calls(self) -> Iterator[Metric]:
        durations = HistogramMetricFamily(
            "coprocess_call_duration_seconds",
            "Calls that ended, well or badly: from their arrival, with the time in the queue.",
            labels=_CALL_LABELS,
        )
        failures = CounterMetricFamily(
            "coprocess_call_failures",
            "Calls that ended badly: the handler failed, or took too long; or shed, as the hook was full.",
            labels=(*_CALL_LABELS, "reason"),
        )
        for label, counts in _bounded(self._service.gates.totals()).items():
            durations.add_metric(
                label, _cumulative(DURATION_BUCKETS_S, counts.durations), counts.duration_sum_s
            )
            for reason in ("failed", "timed_out", "shed"):
                failures.add_metric((*label, reason), getattr(counts, reason))
        yield durations
        yield failures
        yield CounterMetricFamily(
            "coprocess_calls_refused",
            "Calls that no handler saw: shed, unknown hook, broken or too large message, or shutting down.",
            value=self._service.refused_calls + self._engine.refused_calls,
        )
        yield CounterMetricFamily(
            "coprocess_requests_lost",
            "Requests whose next step, or phase, never came: Kong tells nothing where it gives one up.",
            value=self._engine.lost_requests,
        )

    def _load(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("coprocess_calls_in_flight", "Calls that run now.", labels=_HOOK_LABELS)
        queued = GaugeMetricFamily("coprocess_calls_queued", "Calls that wait now.", labels=_HOOK_LABELS)
        loads: dict[HookLabel, tuple[int, int]] = {}
        for state in self._service.gates.states:
            # Two states have one label while a reload replaces one by the other.
            before = loads.get(label_of(state.hook), (0, 0))
            loads[label_of(state.hook)] = (before[0] + state.running, before[1] + len(state.queue))
        for label, (runs, waits) in list(loads.items())[:MAX_HOOKS]:
            running.add_metric(label, runs)
            queued.add_metric(label, waits)
        yield running
        yield queued
        yield GaugeMetricFamily(
            "coprocess_threads", "Threads that run sync handlers.", value=self._engine.thread_count
        )
        yield GaugeMetricFamily(
            "coprocess_threads_abandoned",
            "Threads that were given up, as their handler took too long, and that are in it still.",
            value=self._engine.abandoned_thread_count + self._service.abandoned_threads,
        )
        async_calls = self._service.async_calls
        watch = async_calls.watch
        yield CounterMetricFamily(
            "coprocess_loop_blocked",
            "Times that an async handler held up all others for half a second or longer.",
            value=watch.blocked,
        )
        yield CounterMetricFamily(
            "coprocess_loop_blocked_seconds", "How long they did.", value=watch.blocked_s
        )
        yield CounterMetricFamily(
            "coprocess_loops_given_up",
            "Times that a handler blocked the event loop beyond its time limit, and another took its place.",
            value=async_calls.given_up,
        )
        yield GaugeMetricFamily(
            "coprocess_serving", "1: takes calls. 0: loading, or stopping.", value=self._health.serving
        )

    def _hooks(self) -> Iterator[Metric]:
        reloader = self._reloader
        table = reloader.loaded.table
        loaded = GaugeMetricFamily(
            "coprocess_hooks", "Hooks that are loaded.", labels=("hook_type", "version")
        )
        for kind, count in Counter((hook.type.name, hook.version) for hook in table).items():
            loaded.add_metric(kind, count)
        yield loaded
        weights = GaugeMetricFamily(
            "coprocess_route_weight_percent", "The share of its calls that a route has.", labels=("version",)
        )
        for route in table.routes if isinstance(table, RoutedTable) else ():
            weights.add_metric((route.name,), route.weight_percent)
        yield weights
        rollbacks = CounterMetricFamily("coprocess_rollbacks", "Rollbacks.", labels=("to",))
        for to, times in reloader.rollbacks.items():
            rollbacks.add_metric((to,), times)
        yield rollbacks
        yield GaugeMetricFamily(
            "coprocess_rolled_back",
            "1: a rollback was the last change, and the files may say something else.",
            value=reloader.rolled_back is not None,
        )
        reloads = CounterMetricFamily("coprocess_reloads", "Reloads.", labels=("result",))
        reloads.add_metric(("ok",), reloader.succeeded)
        reloads.add_metric(("failed",), reloader.failed)
        yield reloads
        yield GaugeMetricFamily(
            "coprocess_last_reload_successful",
            "0: the last reload failed, and older handlers serve on.",
            value=reloader.last is None or reloader.last.succeeded,
        )
        yield GaugeMetricFamily(
            "coprocess_load_problems",
            "What could not be loaded, the last time it was tried.",
            value=len(reloader.problems),
        )


def make_registry(collector: Collector) -> CollectorRegistry:
    """With the process's own metrics: memory, CPU, descriptors, start time."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def _bounded(totals: dict[CallLabel, HookCounts]) -> dict[CallLabel, HookCounts]:
    own = set(list(dict.fromkeys(label[:3] for label in totals))[:MAX_HOOKS])
    return add_up((label if label[:3] in own else OTHER, counts) for label, counts in totals.items())


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    names = [*map(str, bounds), "+Inf"]
    return [(name, float(total)) for name, total in zip(names, accumulate(counts), strict=True)]
