"""Native handlers in several workers: a request's phases come to any of them, and share its state."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import wire
from tests import forked
from tests.kong.server import Kong
from tests.kong.test_commands import KONG, connect, open_kongs, wait_for_worker
from tests.server import PATIENCE_S

HANDLERS = """
import os
from coprocess import App, Pre, Reject, Response

app = App()

@app.resource(scope="call")
def opened(state):
    yield f"opened in {os.getpid()}"

@Pre
def before(request, state, opened):
    state.pid = os.getpid()
    state.opened = opened
    request.headers["X-Pid"] = str(os.getpid())

@Response
def after(response, state):
    if response.status == 404:
        raise Reject(410, "gone")
    if response.status == 500:
        raise ValueError
    text = response.raw_body.decode("latin-1")
    response.headers["X-From"] = f"{getattr(state, 'pid', 'none')} {os.getpid()} {text}"
"""


class Server:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "coprocess.socket"
        handlers = folder / "handlers"
        handlers.mkdir()
        (handlers / "all.py").write_text(HANDLERS)
        words = [*KONG, "serve", "--handlers", str(handlers), "-p", str(folder), "--workers", "2"]
        self.process = forked.Process(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def connect(self) -> Kong:
        kong = connect(self.path, self.process)
        assert isinstance(wire.message_of(kong.receive()), wire.Notification)
        return kong


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("workers"))
    try:
        wait_for_worker(server.path, server.process)
        yield server
    finally:
        while open_kongs:
            open_kongs.pop().close()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(PATIENCE_S)
    assert status == 0


class Request:
    """A request of Kong's. Its access phase comes to the worker that it names."""

    def __init__(self, kong: Kong, instance: Any) -> None:
        calls = dict(kong.run(instance))
        self.pid = int(calls["kong.service.request.set_headers"][0]["X-Pid"])
        ((_, self.key),) = [calls["kong.ctx.shared.set"]]

    def respond(self, kong: Kong, instance: Any, status: int = 200) -> list[tuple[str, list[Any]]]:
        gives = {"get": self.key, "get_status": status, "get_raw_body": b"\xe9t\xe9s"}
        return kong.run(instance, "response", **gives)


@pytest.fixture
def two(server: Server) -> tuple[Any, Request, Kong]:
    """An instance, a request, and a connection to the worker that has not had it."""
    kong = server.connect()
    instance = kong.start(name="coprocess")
    request = Request(kong, instance)
    until_s = time.monotonic() + PATIENCE_S
    while Request(other := server.connect(), instance).pid == request.pid:
        assert time.monotonic() < until_s
    return instance, request, other


def test_the_response_phase_has_the_state_whichever_worker_it_comes_to(
    two: tuple[Any, Request, Kong],
) -> None:
    """Once, the other worker ran it with a state of its own, in which nothing was."""
    instance, request, other = two
    name, (headers,) = request.respond(other, instance)[-1]
    assert name == "kong.response.set_headers"
    assert headers["X-From"].split() == [str(request.pid), str(request.pid), "étés"]
    # Its connection is served on, by the worker that has it.
    assert Request(other, instance).pid != request.pid


@pytest.mark.parametrize(("status", "answer"), [(404, 410), (500, 500)])
def test_what_ends_it_elsewhere_ends_it_in_kong(
    two: tuple[Any, Request, Kong], status: int, answer: int
) -> None:
    instance, request, other = two
    name, arguments = request.respond(other, instance, status)[-1]
    assert (name, arguments[0]) == ("kong.response.exit", answer)
    assert Request(other, instance).pid != request.pid


def test_an_error_of_kongs_is_one_elsewhere(two: tuple[Any, Request, Kong]) -> None:
    instance, request, other = two
    asked = other.event(instance, "response")
    asked = other.step(asked["EventId"], request.key)
    while (asked["Data"])["Method"] != "kong.response.exit":
        asked = other.step(asked["EventId"], "broken", wire.STEP + "Error")
    assert asked["Data"]["Args"][0] == 500


def test_the_response_phase_is_run_where_the_worker_that_had_the_request_is_gone(
    two: tuple[Any, Request, Kong],
) -> None:
    instance, request, other = two
    os.kill(request.pid, signal.SIGKILL)
    ours = Request(other, instance).pid
    name, (headers,) = request.respond(other, instance)[-1]
    assert name == "kong.response.set_headers"
    # It may be another one by now, of that number.
    assert headers["X-From"].split()[0] == "none"
    assert Request(other, instance).pid == ours
