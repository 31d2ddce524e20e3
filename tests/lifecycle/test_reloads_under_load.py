"""What is opened is closed, through 200 reloads under load: of a service, and around web apps."""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coprocess import asgi, wsgi
from tests.chaos import resource_reloads
from tests.serve_process import write
from tests.server import PATIENCE_S
from tests.web.servers import uvicorn_at, wsgiref_at

LONG = "RUN_SLOW" in os.environ
#: In the suite the three make 200 together; at length, each does.
RELOADS, WEB_RELOADS = (200, 200) if LONG else (120, 40)


@pytest.mark.parametrize(
    "engine",
    [
        "http2",
        pytest.param(
            "grpcio", marks=pytest.mark.skipif(not LONG, reason="a trial at length: make test-slow")
        ),
    ],
)
def test_resources_of_a_service_are_closed_as_often_as_they_are_opened(tmp_path: Path, engine: str) -> None:
    resource_reloads.trial(tmp_path, engine, RELOADS, pause_s=0.005)


class Asked:
    """Requests one after the other, in threads, inside `with`. Whatever is not 200 with `open` is wrong."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self.answered = 0
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(2)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(self._address, timeout=PATIENCE_S)
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                told = answer.status, answer.read()
            finally:
                connection.close()
            if told != (200, b"open open"):
                self.wrong.append(str(told))
            self.answered += 1

    def wait_for(self, more: int) -> None:
        aim, until_s = self.answered + more, time.monotonic() + PATIENCE_S
        while self.answered < aim:
            assert time.monotonic() < until_s, "requests are not answered"
            time.sleep(0.002)

    def __enter__(self) -> Asked:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


HANDLERS = """
@Pre
def sync_hook(request, state, work):
    state.work = work

@Pre
async def async_hook(request, state, lease):
    await asyncio.sleep(0.001)
    state.lease = lease
"""


#: Of the server that serves the ASGI app.
LOOPS: list[asyncio.AbstractEventLoop] = []


def of_state(state: Any) -> bytes:
    """What the app sees of the resources of its request."""
    return f"{state.work.state or 'open'} {state.lease.state or 'open'}".encode()


def wsgi_app(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "9")])
    time.sleep(0.001)
    # Not before the body is sent: the resources are the request's.
    yield of_state(environ["coprocess"].state)


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        LOOPS.append(asyncio.get_running_loop())
        raise RuntimeError("none")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    await asyncio.sleep(0.001)
    await send({"type": "http.response.body", "body": of_state(scope["coprocess"].state)})


@contextmanager
def asgi_at(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    app = asgi.Middleware(asgi_app, folder)
    with uvicorn_at(app) as address:
        loop = LOOPS.pop()
        yield address, lambda: asyncio.run_coroutine_threadsafe(app.reload(), loop).result(PATIENCE_S)


@contextmanager
def wsgi_at(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    app = wsgi.Middleware(wsgi_app, folder)
    with wsgiref_at(app) as address:
        yield address, app.reload


@pytest.mark.usefixtures("small_heap")
@pytest.mark.parametrize("served", [asgi_at, wsgi_at])
def test_those_around_an_app_are_closed_as_often_as_they_are_opened(tmp_path: Path, served: Any) -> None:
    told = tmp_path / "told"
    folder = write(tmp_path / "handlers", a=resource_reloads.resources(told) + HANDLERS)
    with served(folder) as (address, reload), Asked(address) as asked:
        for _ in range(WEB_RELOADS):
            asked.wait_for(2)
            outcome = reload()
            assert outcome.succeeded, outcome.errors
        asked.wait_for(2)
    assert not asked.wrong, asked.wrong[:5]
    opened = resource_reloads.check(told, WEB_RELOADS + 1)
    assert opened["work"] == opened["lease"] == asked.answered
