"""`coprocess serve --envoy`, in a process of its own, on both engines."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from coprocess.errors import ConfigError
from coprocess.gateways.envoy import wire
from coprocess.process.settings_loading import load_settings
from tests.envoy.call import Call
from tests.envoy.drive import GET, check_request, edits
from tests.objects import make_object
from tests.serve_process import ServeProcess
from tests.server import PATIENCE_S, until

HANDLERS = """
from coprocess import CustomKeyCheck, Post, Pre, Response
VERSION = "1"
@Pre
def hook(request): request.headers["X-Version"] = VERSION
@CustomKeyCheck
def check(session): session.allow("token")
@Response
async def after(response): response.headers["X-Version"] = VERSION
"""
CHAINS = '[chains.orders]\npre = "hook"\nresponse = ["after"]\n'


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "one.py").write_text(HANDLERS)
    (tmp_path / "coprocess.toml").write_text(CHAINS)
    return folder


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_streams_and_checks_and_a_reload_that_loses_none(handlers: Path, engine: str) -> None:
    with (
        ServeProcess(handlers, "--envoy", f"--engine={engine}", "--reflection") as served,
        served.client() as client,
    ):
        channel = client.channel
        before = Call(channel, chain="orders")
        assert edits(before.request().request_headers.response) == [("x-version", b"1", False)]
        (handlers / "one.py").write_text(HANDLERS.replace('"1"', '"2"'))
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("reloaded")
        assert edits(before.response().response_headers.response) == [("x-version", b"1", False)]
        assert before.end() == []
        assert before.replies.code() is grpc.StatusCode.OK
        after = Call(channel, pre="hook")
        assert edits(after.request().request_headers.response) == [("x-version", b"2", False)]
        after.end()
        check: Any = channel.unary_unary(
            wire.CHECK, wire.CheckRequest.SerializeToString, wire.CheckResponse.FromString
        )
        assert check(check_request(), timeout=PATIENCE_S).status.code == 0
        metrics = served.http("GET", "/metrics")[1]
        assert 'hook="hook"' in metrics
        with pytest.raises(grpc.RpcError):
            client.dispatch(make_object())


def test_chains_that_name_what_is_not_there_keep_those_from_before(handlers: Path) -> None:
    settings = handlers.parent / "coprocess.toml"
    with ServeProcess(handlers, "--envoy") as served, served.client() as client:
        settings.write_text('[chains.orders]\npost = "hook"\n')
        served.process.send_signal(signal.SIGHUP)
        (error,) = served.wait_for("reload failed; the handlers from before serve on")["errors"]
        assert error == 'chains.orders: expected a handler of Post, and "hook" is a handler of Pre'
        call = Call(client.channel, chain="orders")
        assert edits(call.request().request_headers.response) == [("x-version", b"1", False)]
        call.response()
        call.end()


def test_tyk_and_envoy_at_one_address(handlers: Path) -> None:
    with ServeProcess(handlers, "--envoy", "--tyk") as served, served.client() as client:
        message = make_object()
        message.hook_name = "hook"
        assert client.dispatch(message).request.set_headers["X-Version"] == "1"
        call = Call(client.channel, pre="hook")
        assert call.request().WhichOneof("response") == "request_headers"
        call.end()


def test_settings_that_serve_nothing_or_cannot_be_together() -> None:
    with pytest.raises(ConfigError, match="nothing is served"):
        load_settings({"tyk": False})
    with pytest.raises(ConfigError, match="or worker_listen own"):
        load_settings({"envoy": True, "workers": "2"})


AROUND = """
from pathlib import Path
import asyncio, time
from coprocess import App, CustomKeyCheck, Pre, Response
TOLD = Path(__file__).parent.parent / "told"
app = App()
def tell(text):
    with TOLD.open("a") as told:
        told.write(text + "\\n")
@app.resource
def db():
    yield "db"
    tell("db closed")
@app.resource(scope="call")
async def tx(db):
    tell("begin")
    try:
        yield "tx"
    finally:
        tell("end")
@app.teardown
def first(error):
    tell("first " + type(error).__name__)
@app.teardown
async def second(tx):
    await asyncio.sleep(0)
    tell("second")
@Pre
def hook(request, tx):
    tell("pre")
    while request.path == "/slow" and not TOLD.with_name("goes-on").exists():
        time.sleep(0.005)
    if request.path == "/fail":
        raise LookupError
@CustomKeyCheck
def check(session, tx):
    session.allow("token")
@Response
async def after(tx):
    tell("response")
@Pre
async def waits_first(tx):
    await asyncio.sleep(60)
@Response
async def waits(tx):
    tell("waits")
    await asyncio.sleep(60)
"""


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_resources_of_calls_and_teardowns_live_as_long_as_the_stream(handlers: Path, engine: str) -> None:
    (handlers / "one.py").write_text(AROUND)
    told = handlers.parent / "told"

    def lines() -> list[str]:
        return told.read_text().split("\n")[:-1] if told.exists() else []

    def ends_with(*expected: str) -> None:
        until(lambda: lines()[-len(expected) :] == list(expected))
        told.write_text("")

    with ServeProcess(handlers, "--envoy", f"--engine={engine}") as served, served.client() as client:
        call = Call(client.channel, pre="hook", response="after")
        call.request()
        assert lines() == ["begin", "pre"]
        call.response()
        call.end()
        ends_with("begin", "pre", "response", "second", "first NoneType", "end")
        # The client ends before the response.
        call = Call(client.channel, pre="hook", response="after")
        call.request()
        call.end()
        ends_with("begin", "pre", "second", "first NoneType", "end")
        # It leaves while a handler runs.
        call = Call(client.channel, pre="hook", response="waits")
        call.request()

        def leave() -> None:
            until(lambda: lines()[-1:] == ["waits"])
            call.replies.cancel()

        leaving = threading.Thread(target=leave)
        leaving.start()
        with pytest.raises(grpc.RpcError):
            call.response()
        leaving.join()
        until(lambda: lines()[-1:] == ["end"])
        assert lines()[:3] == ["begin", "pre", "waits"]
        told.write_text("")
        check: Any = client.channel.unary_unary(
            wire.CHECK, wire.CheckRequest.SerializeToString, wire.CheckResponse.FromString
        )
        check(check_request(extensions={"x-coprocess-auth-check": "check"}), timeout=PATIENCE_S)
        ends_with("begin", "second", "first NoneType", "end")
        # A stream from before a reload keeps what it has.
        call = Call(client.channel, pre="hook", response="after")
        call.request()
        (handlers / "one.py").write_text(AROUND + "\n")
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("reloaded")
        call.response()
        call.end()
        ends_with("begin", "pre", "response", "second", "first NoneType", "end", "db closed")


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_a_handler_that_overruns_has_its_teardowns(handlers: Path, engine: str) -> None:
    """As it had not ended when the request did, they never ran."""
    (handlers / "one.py").write_text(AROUND)
    told = handlers.parent / "told"
    with (
        ServeProcess(handlers, "--envoy", f"--engine={engine}", "--timeout-s=0.2") as served,
        served.client() as client,
    ):
        slow = [*GET[:1], (":path", "/slow"), *GET[2:]]
        for pre in ("hook", "waits_first"):
            call = Call(client.channel, pre=pre)
            assert call.request(slow).immediate_response.status.code == 500
            call.end()
            until(lambda: told.exists() and told.read_text().endswith("end\n"))
            (handlers.parent / "goes-on").touch()
            *_, second, first, error, end = told.read_text().split()
            assert (second, first, end) == ("second", "first", "end")
            assert error != "NoneType"
            told.write_text("")
