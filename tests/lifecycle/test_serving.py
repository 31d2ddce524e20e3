"""Resources, and tasks that handlers left, in a service that runs, reloads, rolls back and stops."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from coprocess.gateways.tyk.wire import Object
from tests.objects import make_object
from tests.serve_process import ServeProcess, write
from tests.server import PATIENCE_S

PROGRAM = """
import asyncio
from coprocess import App, Pre

app = App()
kind = "{kind}"

def tell(what):
    with open({told!r}, "a") as file:
        file.write(f"{{what}}\\n")

@app.resource
def db():
    tell(f"open db {{app.config.get('url')}} {{app.config.get('size')!r}}")
    yield "db"
    tell("close db")

@app.resource
async def client(db):
    if kind == "broken":
        raise ConnectionRefusedError("no server")
    task = asyncio.current_task()
    tell("open client")
    yield "client"
    assert asyncio.current_task() is task
    tell("close client")

@Pre
def sync(request, db):
    request.headers["X-Got"] = db

@Pre
async def slow(request, client):
    await asyncio.sleep(0.5)
    request.headers["X-Got"] = client

async def forever():
    try:
        await asyncio.sleep(3600)
    finally:
        tell("left task cancelled")

tasks = []

@Pre
async def leaves(request):
    tasks.append(asyncio.create_task(forever()))
    tasks[-1].add_done_callback(tasks.remove)
    await asyncio.sleep(0)
"""

OPENED = ["open db x 3", "open client"]
CLOSED = ["close client", "close db"]


class Told:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken = 0

    def take(self) -> list[str]:
        """The whole lines since the last time. The file stays: a line that is just written is not lost."""
        text = self.path.read_text()[self._taken :] if self.path.exists() else ""
        text = text[: text.rfind("\n") + 1]
        self._taken += len(text)
        return text.splitlines()

    def wait_for(self, lines: list[str]) -> None:
        """Wait until just these have been told."""
        pause = threading.Event()
        told: list[str] = []
        for _ in range(int(PATIENCE_S / 0.05)):
            told += self.take()
            if told == lines or len(told) > len(lines):
                break
            pause.wait(0.05)
        assert told == lines


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "told")


def handlers(tmp_path: Path, told: Told, kind: str = "good") -> Path:
    (tmp_path / "coprocess.toml").write_text('[app]\nurl = "x"\nsize = 2\n')
    return write(tmp_path / "handlers", a=PROGRAM.format(kind=kind, told=str(told.path)))


def got(reply: bytes | Object) -> str:
    message = reply if isinstance(reply, Object) else Object.FromString(reply)
    return message.request.set_headers["X-Got"]


@pytest.mark.parametrize("workers", [1, 2])
def test_they_open_before_and_close_after_their_last_call(
    tmp_path: Path, told: Told, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPROCESS_APP_SIZE", "3")
    with ServeProcess(handlers(tmp_path, told), f"--workers={workers}") as service:
        with service.client() as client:
            assert sorted(told.take()) == sorted(OPENED * workers)
            assert got(client.dispatch(make_object(hook_name="sync"))) == "db"
            running = client.future(make_object(hook_name="slow"))
            if workers == 1:
                assert service.http("POST", "/reload")[0] == 200
                assert got(running.result(PATIENCE_S)) == "client"
                told.wait_for([*OPENED, *CLOSED])
            assert got(client.dispatch(make_object(hook_name="slow"))) == "client"
        assert service.end() == 0
    assert sorted(told.take()) == sorted(CLOSED * workers)


def test_one_that_does_not_open_fails_the_reload_and_the_old_ones_serve_on(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPROCESS_APP_SIZE", "3")
    with ServeProcess(handlers(tmp_path, told)) as service, service.client() as client:
        told.wait_for(OPENED)
        handlers(tmp_path, told, "broken")
        status, page = service.http("POST", "/reload")
        assert status == 409, page
        errors = "; ".join(json.loads(page)["errors"])
        assert 'resource "client" did not open: ConnectionRefusedError: no server' in errors
        told.wait_for([OPENED[0], CLOSED[1]])
        assert got(client.dispatch(make_object(hook_name="sync"))) == "db"
        assert service.end() == 0
    told.wait_for(CLOSED)


def test_a_rollback_opens_them_anew(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_APP_SIZE", "3")
    with ServeProcess(handlers(tmp_path, told)) as service, service.client() as client:
        told.wait_for(OPENED)
        assert service.http("POST", "/reload")[0] == 200
        told.wait_for([*OPENED, *CLOSED])
        assert service.http("POST", "/rollback")[0] == 200
        told.wait_for([*OPENED, *CLOSED])
        assert got(client.dispatch(make_object(hook_name="slow"))) == "client"
        assert service.end() == 0
    told.wait_for(CLOSED)


def test_tasks_that_handlers_left_end_with_their_version_and_at_the_stop(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPROCESS_APP_SIZE", "3")
    with ServeProcess(handlers(tmp_path, told)) as service, service.client() as client:
        told.wait_for(OPENED)
        client.dispatch(make_object(hook_name="leaves"))
        assert service.http("POST", "/reload")[0] == 200
        told.wait_for([*OPENED, "left task cancelled", *CLOSED])
        client.dispatch(make_object(hook_name="leaves"))
        assert service.end() == 0
        assert "Task was destroyed" not in service.text
    told.wait_for([*CLOSED, "left task cancelled"])
