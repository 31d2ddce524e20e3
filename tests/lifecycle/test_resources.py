"""Resources: opened before their handlers serve, closed after their last call, by name."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from coprocess.errors import HandlerFailed
from coprocess.loading.hooks import HookTable
from coprocess.loading.resources import Spawn
from tests.conftest import Load
from tests.lifecycle.programs import Opened
from tests.loading import good, problem_of, reply_of, set_headers, the_hook, write
from tests.objects import make_request

HEAD = """
from contextlib import asynccontextmanager, contextmanager
from coprocess import App, Post, Pre, Reject, respond

app = App()
told = []
"""

CHAIN = """
@app.resource
def pool(settings):
    told.append("open pool")
    yield {"of": settings}
    told.append("close pool")

@app.resource
async def remote(pool):
    told.append("open remote")
    yield pool
    told.append("close remote")

@app.resource
def settings():
    told.append("settings")
    return "settings"

@app.resource
@contextmanager
def decorated():
    told.append("open decorated")
    yield "decorated"
    told.append("close decorated")

@app.resource
@asynccontextmanager
async def async_decorated():
    yield "async decorated"

@app.resource
async def awaited():
    return "awaited"

@Pre
def handle(request, remote, decorated, async_decorated, awaited):
    request.headers["X-Of"] = f"{remote['of']}, {decorated}, {async_decorated}, {awaited}"

@Pre
async def handle_async(request, *, remote):
    request.headers["X-Of"] = remote["of"]
"""


def told_of(table: HookTable) -> list[Any]:
    found: list[Any] = the_hook(table, "handle").handler.__globals__["told"]
    return found


def test_resources_open_in_the_order_of_their_needs_and_close_in_reverse(
    tmp_path: Path, load: Load, spawn: Spawn
) -> None:
    loaded = load(write(tmp_path, {"handlers.py": HEAD + CHAIN}))
    told = told_of(loaded.table)
    assert told == []

    loaded.open(spawn, 5)

    assert told == ["settings", "open pool", "open remote", "open decorated"]
    expected = "settings, decorated, async decorated, awaited"
    assert set_headers(reply_of(good(loaded), "handle")) == {"X-Of": expected}
    assert set_headers(reply_of(good(loaded), "handle_async")) == {"X-Of": "settings"}
    told.clear()
    loaded.close(5)
    loaded.close(5)
    assert told == ["close decorated", "close remote", "close pool"]


CALL = """
@app.resource
def pool():
    yield "pool"

@app.resource(scope="call")
{a}def tx(pool, request):
    told.append(f"begin on {{pool}} for {{request.method}}")
    try:
        yield "tx"
    except KeyError as error:
        told.append(f"roll back for {{error!r}}")
        raise
    else:
        told.append("commit")

@app.teardown
def end(error):
    told.append(f"teardown {{error!r}}")

@Pre
{b}def handle(request, tx):
    told.append(tx)
    if request.headers.get("X-Raise"):
        raise KeyError("k")
    if request.headers.get("X-Reject"):
        raise Reject(403, "no")

@Pre
{b}def without(request):
    told.append("without")
"""


@pytest.mark.parametrize("around", ["", "async "])
@pytest.mark.parametrize("handler", ["", "async "])
def test_a_resource_of_a_call_is_opened_for_it_and_closed_at_its_end(
    tmp_path: Path, open_program: Opened, around: str, handler: str
) -> None:
    table = open_program(tmp_path, {"handlers.py": HEAD + CALL.format(a=around, b=handler)})
    told = told_of(table)

    reply_of(table, "handle")

    assert told == ["begin on pool for GET", "tx", "teardown None", "commit"]
    told.clear()
    with pytest.raises(HandlerFailed, match="KeyError"):
        reply_of(table, "handle", request=make_request(headers={"X-Raise": "1"}))
    assert told == [
        "begin on pool for GET",
        "tx",
        "teardown KeyError('k')",
        "roll back for KeyError('k')",
    ]
    told.clear()
    reply_of(table, "handle", request=make_request(headers={"X-Reject": "1"}))
    assert told[-2:] == ["teardown None", "commit"]
    told.clear()
    reply_of(table, "without")
    assert told == ["without", "teardown None"]


def test_a_resource_of_a_call_that_does_not_close_fails_the_call(
    tmp_path: Path, open_program: Opened
) -> None:
    program = """
@app.resource(scope="call")
def tx():
    yield 1
    raise OSError("commit")

@Pre
def handle(tx):
    return respond(204)
"""
    table = open_program(tmp_path, {"handlers.py": HEAD + program})

    with pytest.raises(HandlerFailed, match="raised OSError"):
        reply_of(table, "handle")


def test_a_resource_that_does_not_open_is_a_problem_and_its_handlers_do_not_serve(
    tmp_path: Path, load: Load, spawn: Spawn
) -> None:
    program = """
@app.resource
def first():
    told.append("open first")
    yield 1
    told.append("close first")

@app.resource
def second(first):
    raise ConnectionRefusedError("no server")

@Pre
def handle():
    pass
"""
    loaded = load(write(tmp_path, {"handlers.py": HEAD + program}))
    told = told_of(loaded.table)

    loaded.open(spawn, 5)

    assert 'resource "second" did not open: ConnectionRefusedError: no server' in problem_of(loaded)
    assert len(loaded.table) == 0
    assert told == ["open first", "close first"]


@pytest.mark.parametrize("how", ["def", "async def"])
def test_a_resource_that_hangs_is_told_by_name(tmp_path: Path, load: Load, spawn: Spawn, how: str) -> None:
    go_on = tmp_path / "go_on"
    pause = "time.sleep(0.01)" if how == "def" else "await asyncio.sleep(0.01)"
    wait = f"import asyncio, pathlib, time\n    while not pathlib.Path({str(go_on)!r}).exists(): {pause}"
    program = f"\n@app.resource\n{how} slow():\n    {wait}\n\n@Pre\ndef handle(slow):\n    pass\n"
    loaded = load(write(tmp_path, {"handlers.py": HEAD + program}))

    loaded.open(spawn, 0.05)

    go_on.touch()
    assert 'resource "slow" did not open in 0.05 s' in problem_of(loaded)


def test_a_resource_that_raises_timeout_error_is_not_said_to_hang(
    tmp_path: Path, load: Load, spawn: Spawn
) -> None:
    program = "\n@app.resource\ndef db():\n    raise TimeoutError('connect')\n\n@Pre\ndef handle(db): pass\n"
    loaded = load(write(tmp_path, {"handlers.py": HEAD + program}))

    loaded.open(spawn, 5)

    assert "did not open: TimeoutError: connect" in problem_of(loaded)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
def test_a_resource_that_would_end_the_process_does_not_open(
    tmp_path: Path, load: Load, spawn: Spawn, error: str
) -> None:
    """Once, a KeyboardInterrupt of a resource's own ended the service."""
    source = f"@app.resource\ndef db():\n    raise {error}('no')\n\n@Pre\ndef handle(db): ...\n"
    loaded = load(write(tmp_path, {"handlers.py": HEAD + source}))
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # As a service takes it.
    try:
        loaded.open(spawn, 5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert f'resource "db" did not open: {error}: no' in problem_of(loaded)


REFUSED = {
    "a circle": (
        "@app.resource\ndef a(b): ...\n@app.resource\ndef b(c): ...\n@app.resource\ndef c(a): ...\n",
        "resources need each other: a → b → c → a",
    ),
    "an unknown need": (
        "@app.resource\ndef a(nothing): ...\n@app.resource\ndef b(): ...\n",
        'resource "a" asks for "nothing". Expected: other resources of its folder: b',
    ),
    "a scope that ends too early": (
        '@app.resource\ndef a(b): ...\n@app.resource(scope="call")\ndef b(): ...\n',
        'resource "a" lives as long as the load, and needs "b"',
    ),
    "two of a name": (
        "@app.resource\ndef a(): ...\n@app.resource(name='a')\ndef b(): ...\n",
        'a second resource "a"; the first is at',
    ),
    "the name of a handler's argument": (
        "@app.resource\ndef session(): ...\n",
        'resource "session" has the name of an argument that handlers have anyway, the call\'s own session',
    ),
    "the name of another moment's argument": (
        "@app.resource(name='event', scope='call')\ndef a(): ...\n",
        'resource "event" has the name of an argument',
    ),
    "the name of what failed": ("@app.resource\ndef exc(): ...\n", "the call's own error"),
    "a wrong scope": ("@app.resource(scope='request')\ndef a(): ...\n", "scope='request'. Expected"),
    "two Apps": ("other = App('other')\n", "a second App; the first is at"),
    "a handler that asks for what there is not": ("@Post\ndef asks(db): ...\n", 'asks for "db"'),
    "before that asks for a response": ("@app.before\ndef b(response): ...\n", 'asks for "response"'),
    "before of no moment": (
        "@app.before('Pre')\ndef b(): ...\n",
        "@app.before is on 'Pre'. Expected: a function",
    ),
    "an error handler of no error": ("@app.errorhandler(404)\ndef e(): ...\n", "classes of exceptions"),
    "a name of Flask's": (
        "@app.before_request\ndef b(): ...\n",
        "App has no before_request. Expected: app.before",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_at_load(tmp_path: Path, load: Load, name: str) -> None:
    program, text = REFUSED[name]
    loaded = load(write(tmp_path, {"handlers.py": HEAD + "\n@Pre\ndef handle(request): ...\n\n" + program}))

    assert any(text in str(problem) for problem in loaded.problems), loaded.problems
    if name != "a handler that asks for what there is not":
        assert len(loaded.table) == 0


def test_an_override_takes_the_place_of_a_resource(tmp_path: Path, load: Load, spawn: Spawn) -> None:
    program = """
@app.resource
def db():
    return "real"

@app.resource(scope="call")
def tx(db):
    return f"tx on {db}"

@Pre
def handle(request, db, tx):
    request.headers["X-Got"] = f"{db}, {tx}"
"""
    loaded = load(write(tmp_path, {"handlers.py": HEAD + program}))
    loaded.open(spawn, 5)
    resources = loaded.lifecycles[0].resources

    resources.override("db", "fake")
    assert set_headers(reply_of(loaded.table, "handle")) == {"X-Got": "fake, tx on fake"}
    resources.override("tx", "no tx")
    assert set_headers(reply_of(loaded.table, "handle")) == {"X-Got": "fake, no tx"}
    resources.restore()
    assert set_headers(reply_of(loaded.table, "handle")) == {"X-Got": "real, tx on real"}


def test_state_g_and_current_app(tmp_path: Path, open_program: Opened) -> None:
    program = """
from coprocess import current_app, g

class Own(App):
    def __init__(self):
        super().__init__()
        self.parameter = "param"

app = Own()

@app.before
def first():
    g.user = "u"

@Pre
def handle(request, state):
    request.headers["X-Got"] = f"{state.user}, {'user' in g}, {g.get('no')}, {current_app.parameter}"

@Pre
def fresh(request, state):
    state.more = 1
    request.headers["X-Got"] = ", ".join(state)
"""
    table = open_program(tmp_path, {"handlers.py": "from coprocess import App, Pre\n" + program})

    assert set_headers(reply_of(table, "handle")) == {"X-Got": "u, True, None, param"}
    assert set_headers(reply_of(table, "fresh")) == {"X-Got": "user, more"}
    assert set_headers(reply_of(table, "fresh")) == {"X-Got": "user, more"}


def test_current_app_is_the_app_whose_resources_open_and_close(open_program: Opened, tmp_path: Path) -> None:
    program = """
from coprocess import App, Pre, current_app

app = App()
app.seen = []

@app.resource
def plain():
    return current_app.seen

@app.resource
def db(plain):
    plain.append("opened")
    yield current_app.seen
    current_app.seen.append("closed")

@app.resource
async def made():
    return current_app.seen

@app.resource
async def client():
    current_app.seen.append("opened async")
    yield current_app.seen
    current_app.seen.append("closed async")

@Pre
def handler(request, db, made, client):
    pass
"""
    table = open_program(tmp_path, {"a.py": program})
    hook = next(iter(table))
    assert hook.app is not None
    seen: list[str] = vars(hook.app)["seen"]
    assert seen == ["opened", "opened async"]
    assert hook.lifecycle is not None
    hook.lifecycle.resources.take_open().close(5)
    assert seen == ["opened", "opened async", "closed async", "closed"]


def test_what_failed_has_the_names_that_flask_gives_it(open_program: Opened, tmp_path: Path) -> None:
    program = """
from coprocess import App, Pre, respond

app = App()

@app.errorhandler(LookupError)
def not_found(e):
    return respond(404, type(e).__name__)

@app.teardown
def log(exc):
    pass

@app.teardown
def close(exception):
    pass

@Pre
def handler(request):
    raise KeyError("x")
"""
    open_program(tmp_path, {"a.py": program})
