"""Handlers around a web app, against the same written by hand, side by side.

    python bench/web.py [--json]

ASGI: a server for each on one core, its client on another, in turn. Calls/s are those of a second of the
server's CPU: what else the machine does changes them little. WSGI: in this process.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
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

# Many short rounds, in turn: the machine is quicker at one moment than at another.
ROUNDS, SECONDS, CONNECTIONS = 25, 0.25, 8
REQUEST = b"GET /path?a=1 HTTP/1.1\r\nhost: 127.0.0.1\r\naccept-encoding: identity\r\n\r\n"


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


ASGI_APPS: dict[str, Callable[[], Any]] = {
    "app alone": lambda: app,
    "coprocess": lambda: AsgiMiddleware(app, [before, after]),
    "pure ASGI": lambda: Pure(app),
    "BaseHTTPMiddleware": lambda: Base(app),
}


def serve(name: str) -> None:
    """Serve one of the apps, and print its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(ASGI_APPS[name](), log_config=None, access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


class Served:
    """One of the apps under uvicorn, in a process of its own."""

    def __init__(self, name: str) -> None:
        words = [sys.executable, __file__, "--serve", name]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        pin(self._process.pid, 0)
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        self._address = "127.0.0.1", int(line)

    def _cpu_s(self) -> float:
        # Of all its threads, in nanoseconds: the clock's own ticks are as long as a hundred requests.
        found = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in found) / 1e9

    def calls_per_s(self) -> float:
        connections = [socket.create_connection(self._address, 20) for _ in range(CONNECTIONS)]
        count, until_s, before_s = 0, time.perf_counter() + SECONDS, self._cpu_s()
        while time.perf_counter() < until_s:
            for each in connections:
                each.sendall(REQUEST)
            for each in connections:
                answer = b""
                while not answer.endswith(b"hello"):
                    answer += each.recv(4096)
            count += len(connections)
        took_s = self._cpu_s() - before_s
        for each in connections:
            each.close()
        return count / took_s

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def pin(pid: int, core: int) -> None:
    """Where there are cores enough to tell client and server apart."""
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(pid, {cores[core]})


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
    count = 100
    began_s = time.process_time()
    for _ in range(count):
        app(dict(environ), lambda status, headers, exc_info=None: None)
    return (time.process_time() - began_s) / count * 1e6


def asgi() -> dict[str, dict[str, float]]:
    """By name: calls/s, the best; and how many times as many ours does, in the median of all rounds."""
    served = {name: Served(name) for name in ASGI_APPS}
    pin(0, 1)
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
        for name in ASGI_APPS
    }


def wsgi() -> dict[str, dict[str, float]]:
    """By name: microseconds of a call, the best; and how many times as quick ours is, in the median."""
    wrapped = WsgiMiddleware(wsgi_app, [before_sync, after_sync])
    both = {"coprocess": wrapped, "plain wrapper": plain, "app alone": wsgi_app}
    rounds = [{name: wsgi_microseconds(each) for name, each in both.items()} for _ in range(4 * ROUNDS)]
    wrapped.close()
    return {
        name: {
            "us": min(each[name] for each in rounds),
            "ours": statistics.median(each[name] / each["coprocess"] for each in rounds),
        }
        for name in both
    }


def main() -> None:
    if "--serve" in sys.argv:
        serve(sys.argv[-1])
        return
    figures = {"wsgi": wsgi(), "asgi": asgi()}
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    ours = figures["asgi"]["coprocess"]["calls_per_s"]
    print(f"{'ASGI, uvicorn, 8 connections':34} {'calls/s':>9}  coprocess is")
    for name, each in figures["asgi"].items():
        best = each["calls_per_s"]
        print(f"{name:34} {best:9.0f}  {each['ours_median']:.2f} × (median), {ours / best:.2f} × (best)")
    print(f"{'WSGI, in process':34} {'µs a call':>9}")
    for name, each in figures["wsgi"].items():
        print(f"{name:34} {each['us']:9.1f}  {each['ours']:.2f} ×")


if __name__ == "__main__":
    main()
