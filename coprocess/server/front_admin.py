"""The admin pages of a service with several workers: each worker's own pages, put together.

A worker listens for them on a unix socket of its own, which only the front knows.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from coprocess.server.admin import COMMANDS, send_json
from coprocess.server.admin_access import refuse_command, refuse_page
from coprocess.server.admin_client import ask, errors_of
from coprocess.server.health import Health

_COMMAND_TIMEOUT_S = 70.0
#: A worker that hangs must not take the pages of the others with it.
_PAGE_TIMEOUT_S = 3.0
_PAGES = ("/healthz", "/readyz", "/metrics", "/hooks", "/reload", "/rollback")


def ask_worker(path: Path, method: str, page: str) -> tuple[int, bytes]:
    """A page of the worker that listens at `path`. Raises OSError where it does not answer."""
    try:
        return ask(f"unix:{path}", method, page, _COMMAND_TIMEOUT_S if method == "POST" else _PAGE_TIMEOUT_S)
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {type(error).__name__}") from None


class WorkersCollector(Collector):
    """Every worker's metrics, each sample with a label `worker`; the front's own process is `front`."""

    def __init__(self, sockets: Sequence[Path], restarts: Callable[[], int]) -> None:
        self._sockets = sockets
        self._restarts = restarts
        self._own = ProcessCollector(registry=CollectorRegistry())

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        _merge(merged, self._own.collect(), "front")
        for number, path in enumerate(self._sockets):
            try:
                _, page = ask_worker(path, "GET", "/metrics")
            except OSError:
                continue  # It is being started anew; what it counted is gone with it.
            _merge(merged, text_string_to_metric_families(page.decode()), str(number))
        restarts = Metric(
            "coprocess_worker_restarts", "Worker processes that ended and were replaced.", "counter"
        )
        restarts.add_sample("coprocess_worker_restarts_total", {}, self._restarts())
        yield from (*merged.values(), restarts)


def _merge(merged: dict[str, Metric], families: Iterable[Metric], worker: str) -> None:
    for family in families:
        known = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            known.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)


class FrontPages:
    """The WSGI application of the front."""

    def __init__(self, health: Health, sockets: Sequence[Path], restarts: Callable[[], int]) -> None:
        self._health = health
        self._sockets = sockets
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkersCollector(sockets, restarts))
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
            # All workers load the same: one of them can tell.
            status, page = self._first_answer(path)
        return send_json(start_response, method, status, page)

    def _ready(self) -> tuple[int, Any]:
        """A worker's page; whether calls get through is known here."""
        status, page = self._first_answer("/readyz")
        if self._health.serving:
            return status, page
        return 503, {**page, "status": "not ready"}

    def _first_answer(self, page: str) -> tuple[int, Any]:
        for path in self._sockets:
            try:
                status, body = ask_worker(path, "GET", page)
            except OSError:
                continue
            return status, json.loads(body)
        return 503, {"error": "no worker answers"}

    def _pass_on(self, environ: WSGIEnvironment) -> tuple[int, Any]:
        """Have every worker do what is asked for."""
        if (refusal := refuse_command(environ)) is not None:
            return refusal
        asked = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        answers: list[tuple[int, Any]] = []
        for number, path in enumerate(self._sockets):
            try:
                status, body = ask_worker(path, "POST", asked)
                page = json.loads(body)
            except OSError as error:
                status, page = 503, {"succeeded": False, "errors": [str(error)]}
            if status != 200:
                page["errors"] = [f"worker {number}: {each}" for each in errors_of(page)]
            answers.append((status, page))
        # The first that failed tells why; where none did, any tells how it went.
        return max(answers, key=lambda answer: answer[0])
