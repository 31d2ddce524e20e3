"""Spans of requests around web apps: as a collector gets them from `serve --web`, and in an app's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coprocess import Pre, Request, respond
from coprocess.asgi import Middleware as Asgi
from coprocess.wsgi import Middleware as Wsgi
from tests.collector import Collector, Span
from tests.serve_process import ServeProcess, write
from tests.server import PATIENCE_S
from tests.tracing.service import new_trace, only
from tests.web.servers import uvicorn_at, wsgiref_at

APPS = """
from flask import Flask
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def page(request):
    return PlainTextResponse("hello")

app = Starlette(routes=[Route("/{rest:path}", page)])
site = Flask("site")

@site.get("/<path:rest>")
def view(rest):
    return "hello"
"""

HANDLERS = """
import asyncio
from coprocess import Pre, Response, respond, store

@Pre(order=1)
def sync(request):
    pass

@Pre(order=2)
async def quick(request):
    if request.path == "/raises":
        raise ValueError("raised-secret")
    if request.path == "/refused":
        return respond(401)

@Pre(order=3)
async def waits(request):
    await asyncio.sleep(0.001)

@Pre(order=4, timeout=0.1)
async def slow(request):
    if request.path == "/slow":
        await asyncio.sleep(60)

@Response
def stamp(response):
    pass
"""


@pytest.mark.parametrize("app", ["app", "site"])
def test_a_served_app_is_traced(tmp_path: Path, app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = write(tmp_path / "handlers", h=HANDLERS)
    (tmp_path / "apps.py").write_text(APPS)
    traces: dict[str, str] = {}
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        with ServeProcess(handlers, f"--web=apps:{app}", "--traces=otlp") as service:
            for path, status in (("/x", 200), ("/raises", 500), ("/refused", 401), ("/slow", 500)):
                traceparent, traces[path], caller = new_trace()
                headers = {"traceparent": traceparent, "Authorization": "header-secret"}
                answer = httpx.get(
                    f"http://{service.address}{path}?q=query-secret", headers=headers, timeout=PATIENCE_S
                )
                assert answer.status_code == status, path
            assert service.end() == 0
        spans = {
            path: [each for each in collector.spans if each.trace_id == id] for path, id in traces.items()
        }
    names = ["GET", "Pre sync", "Pre quick", "Pre waits", "Pre slow", "Response stamp"]
    assert sorted(each.name for each in spans["/x"]) == sorted(names)
    assert sorted(each.name for each in spans["/raises"]) == sorted(names[:3])
    assert sorted(each.name for each in spans["/slow"]) == sorted(names[:5])
    for path, status in (("/x", 200), ("/raises", 500), ("/refused", 401), ("/slow", 500)):
        request = only(spans[path], "GET")
        assert request.kind == "SERVER"
        assert request.attributes["http.response.status_code"] == status
        assert request.is_error == (status == 500)
        for each in spans[path]:
            assert each is request or (each.kind, each.parent_id) == ("INTERNAL", request.span_id)
    assert only(spans["/slow"], "GET").parent_id == caller
    failed: Span = only(spans["/raises"], "Pre quick")
    assert failed.is_error
    assert only(spans["/slow"], "Pre slow").is_error
    assert not only(spans["/refused"], "Pre quick").is_error
    for secret in (b"raised-secret", b"header-secret", b"query-secret", b"/raises"):
        assert not any(secret in body for body in collector.bodies), secret


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of this process, by a tracer provider of its own."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@Pre
async def own_span(request: Request) -> Any:
    with trace.get_tracer("own").start_as_current_span("of the handler"):
        return respond(403) if request.path == "/no" else None


def wsgi_app(environ: Any, start_response: Any) -> Any:
    with trace.get_tracer("own").start_as_current_span("of the app"):
        start_response("200 OK", [("Content-Length", "0")])
    return [b""]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    if scope["path"] == "/boom":
        raise LookupError("secret")
    with trace.get_tracer("own").start_as_current_span("of the app"):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("served", ["asgi", "wsgi"])
def test_what_handlers_and_app_trace_themselves_is_within(
    exported: InMemorySpanExporter, served: str
) -> None:
    at = (
        uvicorn_at(Asgi(asgi_app, [own_span], traces=True))
        if served == "asgi"
        else wsgiref_at(Wsgi(wsgi_app, [own_span], traces=True))
    )
    with at as address:
        for path in ("/x", "/no", *(["/boom"] if served == "asgi" else [])):
            httpx.get(f"http://{address}{path}")
    spans = exported.get_finished_spans()
    by_id = {each.context.span_id: each for each in spans if each.context is not None}

    def above(name: str) -> set[str]:
        parents = [each.parent for each in spans if each.name == name]
        return {by_id[parent.span_id].name for parent in parents if parent is not None}

    assert above("of the app") == {"GET"}
    assert above("of the handler") == {"Pre own_span"}
    assert above("Pre own_span") == {"GET"}
    requests = [each for each in spans if each.name == "GET"]
    assert all(each.parent is None for each in requests)
    statuses = [(each.attributes or {}).get("http.response.status_code") for each in requests]
    assert statuses == [200, 403, *([None] if served == "asgi" else [])]
    if served == "asgi":
        assert (requests[-1].attributes or {})["error.type"] == "LookupError"
