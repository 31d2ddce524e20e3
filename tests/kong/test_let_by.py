"""Phases whose code does not run to its end, and that once let their requests by."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.registration import load_plugins
from tests.kong.server import serving
from tests.kong.test_never_open import REFUSED

GUARDS = """
import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

event = threading.Event()
event.set()
pool = ThreadPoolExecutor(1)

async def check(kong):
    await kong.response.exit(403, "no")

def refusing(kong):
    yield kong.response.exit(403, "no")

async def refusing_on_a_loop(kong):
    yield await kong.response.exit(403, "no")

def bare(function):
    def called(*arguments):
        return function(*arguments)
    return called

class Plugin:
    def __init__(self, config): ...

"""

NOT_RUN = {
    "a coroutine of a helper": "def access(self, kong): return check(kong)",
    "a coroutine of a decorated phase": "@bare\n    async def access(self, kong): return await check(kong)",
    "a generator of a helper": "def access(self, kong): return refusing(kong)",
    "a generator of a decorated phase": "@bare\n    def access(self, kong): yield kong.response.exit(403)",
    "an async generator": "def access(self, kong): return refusing_on_a_loop(kong)",
    "a coroutine of an async phase": "async def access(self, kong): return check(kong)",
    "a map, which runs nothing until it is asked": "def access(self, kong): return map(print, [kong])",
    "a function": "def access(self, kong): return kong.response.exit",
    "a partial": "def access(self, kong): return functools.partial(kong.response.exit, 403)",
    "a future of a thread": "def access(self, kong): return pool.submit(event.wait)",
    "a task": "async def access(self, kong): return asyncio.ensure_future(asyncio.sleep(0))",
    "a list of generators": "def access(self, kong): return [refusing(kong)]",
    "coroutines by name": "async def access(self, kong): return {'a': [1, check(kong)], 'b': check(kong)}",
    "a tuple of tasks": "async def access(self, kong): return 1, asyncio.ensure_future(check(kong))",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tells_kong", [False, True])
@pytest.mark.parametrize("what", NOT_RUN)
def test_a_phase_that_returns_code_that_has_not_run_refuses_the_request(
    tmp_path: Path, what: str, tells_kong: bool
) -> None:
    options = PluginOptions(name="p", tells_kong=tells_kong)
    with capture_logs() as logs, serving(tmp_path, f"{GUARDS}    {NOT_RUN[what]}\n", options) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(2):
            assert kong.run(instance)[-1] == REFUSED
        served.wait_idle()
        gc.collect()
    assert any("whose code nobody runs" in str(entry["event"]) for entry in logs)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("tells_kong", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        "def access(self, kong): check(kong)",
        "def access(self, kong): allowed = check(kong)",
        "async def access(self, kong): check(kong)",
        "async def access(self, kong): asyncio.sleep(0)",
    ],
)
def test_a_coroutine_of_its_own_that_a_phase_does_not_await_refuses_the_request(
    tmp_path: Path, body: str, tells_kong: bool
) -> None:
    """Once, a check that had become async def without an await let requests by."""
    options = PluginOptions(name="p", tells_kong=tells_kong)
    source = f"{GUARDS}    {body}\n    def rewrite(self, kong): asyncio.run(asyncio.sleep(0))\n"
    with capture_logs() as logs, serving(tmp_path, source, options) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(2):
            assert kong.run(instance)[-1] == REFUSED
            assert kong.run(instance, "rewrite") == []
        served.wait_idle()
    name = "sleep" if "sleep" in body else "check"
    expected = f'access hook "p" failed: {name}() was not awaited, so that its code did not run'
    assert any(expected in str(entry["event"]) for entry in logs)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_phase_that_yields_is_told_when_it_is_loaded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p.py"
    path.write_text(f"{GUARDS}    {kind} access(self, kong):\n        yield kong.response.exit(403)\n")
    loaded, plugins = load_plugins([path], PluginOptions())
    loaded.forget()
    assert not plugins
    ((problem,),) = [loaded.problems]
    assert f"{path}:28: access() yields. Expected: a function that returns" in str(problem)


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("tells_kong", [False, True])
def test_the_kong_of_a_request_that_has_ended_is_no_way_by(
    tmp_path: Path, kind: str, tells_kong: bool
) -> None:
    source = f"""
class Plugin:
    def __init__(self, config): ...

    {kind} rewrite(self, kong):
        self.kong = kong

    {kind} access(self, kong):
        {"await " if kind == "async def" else ""}self.kong.response.exit(403, "no")
"""
    options = PluginOptions(name="p", tells_kong=tells_kong)
    with capture_logs() as logs, serving(tmp_path, source, options) as served:
        kong = served.connect()
        instance = kong.start()
        assert kong.run(instance, "rewrite") == []
        for _ in range(2):
            assert kong.run(instance)[-1] == REFUSED
        served.wait_idle()
    assert any("the kong of a" in str(entry) for entry in logs)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_kong_of_another_request_that_runs_is_no_way_by(tmp_path: Path, kind: str) -> None:
    """Once, the other request was refused, and this one passed."""
    waits = "await " if kind == "async def" else ""
    source = f"""
class Plugin:
    def __init__(self, config): ...

    {kind} rewrite(self, kong):
        self.kong = kong
        {waits}kong.request.get_header("x")

    {kind} access(self, kong):
        {waits}self.kong.response.exit(403, "no")
"""
    with capture_logs() as logs, serving(tmp_path, source) as served:
        one, other = served.connect(), served.connect()
        instance = one.start()
        asked = one.event(instance, "rewrite")
        assert other.run(instance) == [REFUSED]
        assert one.step(asked["EventId"])["Data"] == "ret"
        served.wait_idle()
    assert any("the kong of another request" in str(entry.get("exception")) for entry in logs)


def test_threads_of_a_phase_ask_for_it_with_and_without_its_context(tmp_path: Path) -> None:
    source = """
import contextvars
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(2)

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        within = contextvars.copy_context()
        pool.submit(within.run, kong.request.get_header, "a").result()
        pool.submit(kong.request.get_header, "b").result()
"""
    with serving(tmp_path, source) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(3):
            assert [arguments for _, arguments in kong.run(instance)] == [["a"], ["b"]]
