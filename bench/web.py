"""Handlers around a web app, against the same written by hand: calls/s in one process, side by side.

    python bench/web.py [--json]

Requests go over loopback to one server that runs the app, several times in turn; the best of each counts.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import uvicorn  # noqa: E402 - after the path
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402 - the same

from coprocess import Pre, Request, Response  # noqa: E402 - the same
from coprocess.asgi import Middleware as AsgiMiddleware  # noqa: E402 - the same
from coprocess.wsgi import Middleware as WsgiMiddleware  # noqa: E402 - the same

ROUNDS, SECONDS = 5, 0.8


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


@Pre
async def before(request: Request) -> None:
    request.headers["X-Request"] = "1"


@Response
async def after(response: Response) -> None:
    response.headers["X-Response"] = "1"


class Pure:
    """The same as pure ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = dict(scope, headers=[*scope["headers"], (b"x-request", b"1")])

        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-response", b"1")]}
            await send(message)

        await self.app(scope, receive, stamped)


class Base(BaseHTTPMiddleware):
    """The same with Starlette's class."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        request.scope["headers"] = [*request.scope["headers"], (b"x-request", b"1")]
        response = await call_next(request)
        response.headers["X-Response"] = "1"
        return response


class Served:
    """An ASGI app under uvicorn, in a thread."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(app, port=0, log_config=None, access_log=False)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self._port = self.server.servers[0].sockets[0].getsockname()[1]

    def calls_per_s(self) -> float:
        client = http.client.HTTPConnection("127.0.0.1", self._port)
        count, until_s = 0, time.perf_counter() + SECONDS
        while time.perf_counter() < until_s:
            client.request("GET", "/path?a=1")
            client.getresponse().read()
            count += 1
        client.close()
        return count / SECONDS

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(10)


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    # About what the least view of a framework costs, so that there is something to wrap.
    body = b"".join(b"%d," % number for number in range(2000))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@Pre(name="before")
def before_sync(request: Request) -> None:
    request.headers["X-Request"] = "1"


@Response(name="after")
def after_sync(response: Response) -> None:
    response.headers["X-Response"] = "1"


def plain(environ: Any, start_response: Any) -> Any:
    environ["HTTP_X_REQUEST"] = "1"

    def stamped(status: str, headers: Any, exc_info: Any = None) -> Any:
        return start_response(status, [*headers, ("X-Response", "1")])

    return wsgi_app(environ, stamped)


def wsgi_microseconds(app: Any) -> float:
    environ: dict[str, Any] = {"HTTP_ACCEPT": "*/*", "HTTP_USER_AGENT": "bench", "QUERY_STRING": "a=1"}
    setup_testing_defaults(environ)
    count = 2000
    began_s = time.perf_counter()
    for _ in range(count):
        app(dict(environ), lambda status, headers, exc_info=None: None)
    return (time.perf_counter() - began_s) / count * 1e6


def asgi() -> dict[str, dict[str, float]]:
    """By name: calls/s, the best; and how many times as many ours does, in the median of all rounds."""
    apps = {
        "app alone": app,
        "coprocess": AsgiMiddleware(app, [before, after]),
        "pure ASGI": Pure(app),
        "BaseHTTPMiddleware": Base(app),
    }
    served = {name: Served(each) for name, each in apps.items()}
    for each in served.values():
        each.calls_per_s()
    rounds = [{name: each.calls_per_s() for name, each in served.items()} for _ in range(ROUNDS)]
    for each in served.values():
        each.close()
    return {
        name: {
            "calls_per_s": max(each[name] for each in rounds),
            "ours_median": statistics.median(each["coprocess"] / each[name] for each in rounds),
        }
        for name in apps
    }


def wsgi() -> dict[str, dict[str, float]]:
    """By name: microseconds of a call, the best; and how many times as quick ours is."""
    wrapped = WsgiMiddleware(wsgi_app, [before_sync, after_sync])
    both = {"coprocess": wrapped, "plain wrapper": plain, "app alone": wsgi_app}
    best_us = {name: min(wsgi_microseconds(each) for _ in range(ROUNDS)) for name, each in both.items()}
    wrapped.close()
    return {name: {"us": us, "ours": us / best_us["coprocess"]} for name, us in best_us.items()}


def main() -> None:
    figures = {"asgi": asgi(), "wsgi": wsgi()}
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    ours = figures["asgi"]["coprocess"]["calls_per_s"]
    print(f"{'ASGI, uvicorn, one client':34} {'calls/s':>9}  coprocess is")
    for name, each in figures["asgi"].items():
        best = each["calls_per_s"]
        print(f"{name:34} {best:9.0f}  {each['ours_median']:.2f} × (median), {ours / best:.2f} × (best)")
    print(f"{'WSGI, in process':34} {'µs a call':>9}")
    for name, each in figures["wsgi"].items():
        print(f"{name:34} {each['us']:9.1f}  {each['ours']:.2f} ×")


if __name__ == "__main__":
    main()
