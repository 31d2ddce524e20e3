"""`coprocess serve --web MODULE:APP`, as users run it: a process, with a real client."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets
import websockets.sync.client

from tests.serve_process import ServeProcess
from tests.server import PATIENCE_S, until

SHOP = """
import asyncio
import time
from pathlib import Path

from flask import Flask, request

HERE = Path(__file__).parent


def is_let_go():
    (HERE / "slow_runs").touch()
    return (HERE / "let_go").exists()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"] + "!"})
        return
    if scope["path"] == "/slow":
        while not is_let_go():
            await asyncio.sleep(0.01)
    who = scope["user"].display_name
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"asgi {scope['path']} {who}".encode()})


site = Flask("shop")


@site.get("/<path:rest>")
def page(rest):
    if rest == "slow":
        while not is_let_go():
            time.sleep(0.01)
    return f"wsgi /{rest} {request.environ['REMOTE_USER']}"
"""

HANDLERS = """
from coprocess import App, CustomKeyCheck, Pre, Response, current_app

app = App()

@app.resource
async def db():
    yield {"is": "open"}

@Pre
def unnamed(request):
    raise LookupError("no chain has it")

@Pre
async def clean(request, db):
    request.headers["X-Db"] = db["is"]

@CustomKeyCheck
def check(request, session):
    if request.headers.get("Authorization") == current_app.config["token"]:
        session.allow("k", alias="ann")

@Response
def stamp(response, spec):
    response.headers["X-Stamp"] = "VERSION " + spec.config["greeting"]
"""

PASSES = """
from coprocess import Pre, Reject

@Pre
def passes(request):
    if "refused" in request.query_string:
        raise Reject(403, "no")
"""

SETTINGS = """
[app]
token = "secret"

[web_config]
greeting = "hello"

[chains.shop]
pre = "clean"
auth_check = "check"
response = ["stamp"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    (folder / "handlers").mkdir()
    (folder / "handlers" / "h.py").write_text(HANDLERS)
    (folder / "shop.py").write_text(SHOP)
    (folder / "coprocess.toml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module", params=["app", "site"])
def service(folder: Path, request: pytest.FixtureRequest) -> Iterator[ServeProcess]:
    (folder / "handlers" / "h.py").write_text(HANDLERS)
    for mark in ("slow_runs", "let_go"):
        (folder / mark).unlink(missing_ok=True)
    with ServeProcess(folder / "handlers", f"--web=shop:{request.param}", "--web-chain=shop") as service:
        yield service


def test_it_serves_reloads_and_drains(service: ServeProcess, folder: Path) -> None:
    url, admin = f"http://{service.address}", f"http://{service.admin}"
    with httpx.Client(base_url=url, headers={"Authorization": "secret"}) as client:
        answer = client.get("/x")
        assert (answer.status_code, answer.text[5:]) == (200, "/x ann")
        assert answer.headers["X-Stamp"] == "VERSION hello"
        assert httpx.get(f"{url}/x").json() == {"error": "Forbidden"}
        assert httpx.get(f"{admin}/readyz").status_code == 200
        metrics = httpx.get(f"{admin}/metrics").text
        assert 'coprocess_call_duration_seconds_count{api="",hook="clean",hook_type="Pre"' in metrics

        # Reloaded while requests come: none is lost.
        failed: list[object] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    answer = client.get("/y")
                    if answer.status_code != 200:
                        failed.append(answer)
                except httpx.HTTPError as error:
                    failed.append(error)

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        for version in ("two", "three"):
            (folder / "handlers" / "h.py").write_text(HANDLERS.replace("VERSION", version))
            service.process.send_signal(signal.SIGHUP)
            service.wait_for("reloaded")
            assert client.get("/x").headers["X-Stamp"] == f"{version} hello"
        # A chain that would miss a handler is no reload.
        (folder / "handlers" / "h.py").write_text(HANDLERS.replace("def check", "def other"))
        service.process.send_signal(signal.SIGHUP)
        told = service.wait_for("reload failed; the handlers from before serve on")
        assert "no CustomKeyCheck handler 'check' is loaded" in str(told)
        stop.set()
        for thread in asking:
            thread.join(PATIENCE_S)
        assert failed == []

        # What runs at SIGTERM ends.
        slow: list[str] = []
        thread = threading.Thread(target=lambda: slow.append(client.get("/slow").text[5:]))
        thread.start()
        until((folder / "slow_runs").exists)
        service.process.send_signal(signal.SIGTERM)
        assert service.wait_for("stopping")["in_flight"] >= 1
        (folder / "let_go").touch()
        thread.join(PATIENCE_S)
        assert slow == ["/slow ann"]
    assert service.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--web=shop"], "Expected: MODULE:APP"),
        (["--web=nowhere:app"], "no module 'nowhere'"),
        (["--web=shop:nothing"], "has no 'nothing'"),
        (["--web=shop:app", "--workers=2"], "one process serves it"),
        (["--web=broken:app"], "the module broken was not imported"),
        (["--web=site:app"], "Expected: another name for that"),
        (["--web=shop:app", "--web-chain=none"], "no [chains.none]; there are: shop"),
    ],
)
def test_what_is_wrong_is_told_at_start(folder: Path, flags: list[str], expected: str) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "site.py").write_text("app = None\n")
    with ServeProcess(folder / "handlers", *flags, wait=False) as service:
        assert service.process.wait(PATIENCE_S) == 1 or service.process.returncode == 2
    assert expected in str(service.lines)


def test_an_app_that_raises_is_told_without_how_python_imports(folder: Path) -> None:
    """Seven frames of importlib stood before the app's own line."""
    (folder / "broken.py").write_text("1 / 0\n")
    with ServeProcess(folder / "handlers", "--web=broken:app", wait=False) as service:
        assert service.process.wait(PATIENCE_S) == 1
    assert "broken.py" in str(service.lines)
    assert "importlib" not in str(service.lines)


def test_websockets_are_served(tmp_path: Path) -> None:
    """Once, no extra brought what they need: the handshake was answered as a plain request."""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "h.py").write_text(PASSES)
    (tmp_path / "shop.py").write_text(SHOP)
    with ServeProcess(tmp_path / "handlers", "--web=shop:app") as service:
        with websockets.sync.client.connect(f"ws://{service.address}/ws") as client:
            client.send("hello")
            assert client.recv() == "hello!"
        with pytest.raises(websockets.exceptions.InvalidStatus):
            websockets.sync.client.connect(f"ws://{service.address}/ws?refused")


def test_without_handlers_every_request_would_pass(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "shop.py").write_text(SHOP)
    with ServeProcess(tmp_path / "handlers", "--web=shop:app", wait=False) as service:
        assert service.process.wait(PATIENCE_S) == 1
    assert "no handler is loaded, so every request would pass" in str(service.lines)
