"""Django under gunicorn, forked before and after the load, and FastAPI under granian: with a real client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import websockets.sync.client

from tests.free_ports import free_port
from tests.server import PATIENCE_S, until

PROGRAMS = Path(__file__).parents[1] / "programs" / "web"


@contextmanager
def served(told: Path, port: int, *command: str, pass_fds: Sequence[int] = ()) -> Iterator[str]:
    """Run a server until the end of `with`, at which it is asked to stop, and does."""
    env = {**os.environ, "WEB_TOLD": str(told), "PYTHONPATH": str(PROGRAMS)}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=env,
        cwd=told.parent,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(int(PATIENCE_S / 0.05)):
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                httpx.get(f"{url}/nothing", timeout=PATIENCE_S)
                break
            except httpx.TransportError:
                threading.Event().wait(0.05)
        yield url
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def served_from_a_socket(told: Path, *command: str) -> Iterator[str]:
    """As `served`, on a port that is open from the start, so that nobody else takes it. `{}`: the socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        flags = [word.replace("{}", str(number)) for word in command]
        with served(told, listener.getsockname()[1], *flags, pass_fds=[number]) as url:
            yield url


def processes(told: Path, what: str) -> list[str]:
    return sorted(line.split()[1] for line in told.read_text().splitlines() if line.startswith(what))


@pytest.mark.parametrize("preload", [True, False])
def test_django_under_gunicorn(tmp_path: Path, preload: bool) -> None:
    """Each worker opens resources of its own, also where the handlers were loaded before the fork."""
    told = tmp_path / "told"
    flags = ["--workers=2", "--threads=2", "--bind=fd://{}", "--log-level=error"]
    flags += ["--preload"] if preload else []
    with served_from_a_socket(told, "gunicorn", *flags, "shop:site") as url:
        until_s, asked = time.monotonic() + PATIENCE_S, 0
        while asked < 5 or len(processes(told, "open")) < 2:
            assert time.monotonic() < until_s, "one worker gets no request"
            answer = httpx.post(f"{url}/show", content=b"body", headers={"Authorization": "k"})
            assert (answer.status_code, answer.text) == (200, "ann body")
            assert answer.headers["X-Pid"] == answer.headers["X-Own"]
            asked += 1
        assert httpx.get(f"{url}/stream").text == "012"
    assert len(set(processes(told, "open"))) == len(processes(told, "open")) == 2
    assert processes(told, "open") == processes(told, "close")
    assert processes(told, "begin") == processes(told, "end")


def test_fastapi_under_granian(tmp_path: Path) -> None:
    told, port = tmp_path / "told", free_port()
    flags = ["--interface=asgi", "--host=127.0.0.1", f"--port={port}", "--no-log"]
    with served(told, port, "granian", *flags, "shop:asgi") as url:
        with httpx.stream("GET", f"{url}/stream") as answer:
            assert (answer.read(), answer.status_code) == (b"012", 200)
            assert answer.headers["X-Pid"] == processes(told, "open")[0]
        with websockets.sync.client.connect(f"ws{url[4:]}/ws") as client:
            client.send("hello")
            assert client.recv() == "ann hello"
        # Granian's stop waits for no websocket whose client has just gone.
        until(lambda: processes(told, "begin") == processes(told, "end"))
    assert processes(told, "open") == processes(told, "close")
    assert processes(told, "begin") == processes(told, "end")


def test_django_by_asgi_under_uvicorn(tmp_path: Path) -> None:
    told = tmp_path / "told"
    flags = ["--fd={}", "--log-level=error", "--lifespan=auto"]
    with served_from_a_socket(told, "uvicorn", *flags, "shop:django_asgi") as url:
        answer = httpx.post(f"{url}/show", content=b"body", headers={"Authorization": "k"})
        assert (answer.status_code, answer.text) == (200, "ann body")
        assert answer.headers["X-Pid"] == answer.headers["X-Own"] == processes(told, "open")[0]
        with httpx.stream("GET", f"{url}/stream") as stream:
            assert stream.read() == b"012"
    assert processes(told, "open") == processes(told, "close")
    assert processes(told, "begin") == processes(told, "end")
