"""The admin pages of a service with several workers: each worker's own pages, put together.

A worker listens for them on a unix socket of its own, which only the front knows.
"""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from coprocess.process.admin import COMMANDS, send_json
from coprocess.process.admin_access import refuse_command, refuse_page
from coprocess.process.admin_client import ask, errors_of
from coprocess.process.front import Front
from coprocess.transport.engine import Engine
from coprocess.transport.health import Health

#: For what a worker does only when asked to: load handlers.
_COMMAND_TIMEOUT_S = 70.0
#: For what a worker can tell at once. One that hangs must not hold up what the others tell.
_PAGE_TIMEOUT_S = 3.0
_NO_ANSWER = "the worker process does not answer"
_NOT_READY = "the worker process is silent, or starts: then it loads what the files say"
_PAGES = ("/healthz", "/readyz", "/metrics", "/hooks", "/reload", "/rollback")


Answer = tuple[int, bytes] | OSError


def ask_worker(path: Path, method: str, page: str, timeout_s: float) -> Answer:
    """A page of the worker that listens at `path`, or why there is none."""
    try:
        return ask(f"unix:{path}", method, page, timeout_s)
    except http.client.HTTPException as error:
        return OSError(f"no HTTP answer: {type(error).__name__}")
    except OSError as error:
        return error


class Workers:
    """The workers' own pages, asked for at one time."""

    def __init__(self, sockets: Sequence[Path], front: Front) -> None:
        self._sockets = sockets
        self._front = front

    def ask_all(self, method: str, page: str, timeout_s: float) -> list[Answer]:
        """Each worker's answer, in their order, after `timeout_s` at most."""
        answers: list[Answer] = [OSError(_NOT_READY) for _ in self._sockets]
        # Not waited for longer than that, whatever a worker does: so no pool, which would wait at the end.
        came: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()

        def ask_one(number: int) -> None:
            came.put((number, ask_worker(self._sockets[number], method, page, timeout_s)))

        asked = [number for number, ready in enumerate(self._front.ready) if ready]
        for number in asked:
            answers[number] = OSError(_NO_ANSWER)
            threading.Thread(target=ask_one, args=(number,), name="ask-worker", daemon=True).start()
        until_s = time.monotonic() + timeout_s
        try:
            for _ in asked:
                number, answer = came.get(timeout=max(0.0, until_s - time.monotonic()))
                answers[number] = answer
        except queue.Empty:
            return answers
        return answers


class WorkersCollector(Collector):
    """Every worker's metrics, each sample with a label `worker`; the front's own process is `front`."""

    def __init__(self, workers: Workers, front: Front, engine: Engine | None) -> None:
        self._workers = workers
        self._front = front
        self._engine = engine
        self._own = ProcessCollector(registry=CollectorRegistry())

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        front = self._front
        refused = CounterMetricFamily(
            "coprocess_calls_refused",
            "Calls that no handler saw.",
            front.refused_calls + (0 if self._engine is None else self._engine.refused_calls),
        )
        _merge(merged, [*self._own.collect(), refused], "front")
        for number, answer in enumerate(self._workers.ask_all("GET", "/metrics", _PAGE_TIMEOUT_S)):
            # One that gives none is being started anew, or hangs.
            if not isinstance(answer, OSError):
                _merge(merged, text_string_to_metric_families(answer[1].decode()), str(number))
        yield from merged.values()
        yield CounterMetricFamily(
            "coprocess_worker_restarts", "Worker processes that ended and were replaced.", front.restarts
        )
        yield CounterMetricFamily(
            "coprocess_worker_kills",
            "Worker processes that were killed, as they did not answer.",
            front.kills,
        )
        yield GaugeMetricFamily(
            "coprocess_workers_ready", "Worker processes that take calls.", sum(front.ready)
        )


def _merge(merged: dict[str, Metric], families: Iterable[Metric], worker: str) -> None:
    for family in families:
        known = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            known.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)


class FrontPages:
    """The WSGI application of the front."""

    def __init__(self, health: Health, sockets: Sequence[Path], front: Front, engine: Engine | None) -> None:
        """`engine` None: the workers have theirs."""
        self._health = health
        self._workers = Workers(sockets, front)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkersCollector(self._workers, front, engine))
        self._metrics = make_wsgi_app(registry)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path != "/healthz" and (refusal := refuse_page(environ)) is not None:
            return send_json(start_response, method, *refusal)
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path in COMMANDS:
            status, page = self._pass_on(environ) if method == "POST" else (405, {"error": "use POST"})
        elif path not in _PAGES:
            status, page = 404, {"error": "no such page", "pages": list(_PAGES)}
        elif method not in ("GET", "HEAD"):
            status, page = 405, {"error": "use GET"}
        elif path == "/healthz":
            status, page = 200, {"status": "alive"}
        elif path == "/readyz":
            status, page = self._ready()
        else:
            status, page = self._best_answer(path)
        return send_json(start_response, method, status, page)

    def _ready(self) -> tuple[int, Any]:
        """A worker's page; whether calls get through is known here."""
        status, page = self._best_answer("/readyz")
        if self._health.serving:
            return status, page
        return 503, {**page, "status": "not ready"}

    def _best_answer(self, page: str) -> tuple[int, Any]:
        """All workers load the same, so one of them can tell: the first that is ready, where one is."""
        answers = self._workers.ask_all("GET", page, _PAGE_TIMEOUT_S)
        came = [answer for answer in answers if not isinstance(answer, OSError)]
        if not came:
            return 503, {"error": "no worker answers"}
        status, body = min(came, key=lambda answer: answer[0])
        return status, json.loads(body)

    def _pass_on(self, environ: WSGIEnvironment) -> tuple[int, Any]:
        """Have every worker do what is asked for."""
        if (refusal := refuse_command(environ)) is not None:
            return refusal
        asked = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        answers: list[tuple[int, Any]] = []
        for number, answer in enumerate(self._workers.ask_all("POST", asked, _COMMAND_TIMEOUT_S)):
            if isinstance(answer, OSError):
                status, page = 503, {"succeeded": False, "errors": [str(answer)]}
            else:
                status, page = answer[0], json.loads(answer[1])
            if status != 200:
                page["errors"] = [f"worker {number}: {each}" for each in errors_of(page)]
            answers.append((status, page))
        # The first that failed tells why; where none did, any tells how it went.
        status, page = max(answers, key=lambda answer: answer[0])
        if status != 200:
            page["done_by_workers"] = [number for number, (each, _) in enumerate(answers) if each == 200]
        return status, page
