"""The pytest plugin in projects of its users, and the examples of docs/testing.md."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coprocess.testing.dispatch
import coprocess.testing.gateway
from coprocess.cli.app import app
from coprocess.store import store
from coprocess.tyk import compat
from coprocess.tyk.trial.store import TemporaryServer

# pytester forgets what an inner run imports. Modules that were there before stay, and are not made twice.
assert compat.ALIASES

pytest_plugins = "pytester"

DOCS = Path(__file__).parents[1] / "docs" / "testing.md"

HANDLERS = """
import asyncio

from coprocess import CustomKeyCheck, Event, Post, Pre, Reject, Request, Response, Session, store

calls = 0


@Pre
def stamp(request: Request) -> None:
    global calls
    calls += 1
    request.headers["X-Stamp"] = str(calls)
    request.headers["X-Seen"] = str(store.increment("seen"))


@Post(name="stamp")
async def stamp_again() -> None:
    await asyncio.sleep(0)
    await store.aio.set("async", "1")


@Pre
def failing() -> None:
    raise ValueError("ouch")


@CustomKeyCheck
def key(request: Request, session: Session) -> None:
    if "Authorization" not in request.headers:
        raise Reject(401, "no key")
    session.allow("caller")


@Response
def tidy(response: Response) -> None:
    response.headers["X-Tidy"] = "1"


@Event
def heard(event: Event) -> None:
    store.set("heard", event.type)
"""

API = {
    "name": "API",
    "api_id": "api",
    "use_keyless": True,
    "proxy": {"listen_path": "/", "target_url": "http://upstream.test/"},
    "custom_middleware": {
        "driver": "grpc",
        "pre": [{"name": "stamp"}],
        "post": [{"name": "stamp"}],
        "response": [{"name": "tidy"}],
    },
}


@pytest.fixture(scope="module", autouse=True)
def _store_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As above, of what the store imports when it is used."""

    async def use() -> None:
        assert await store.aio.get("key") is None
        await store.aio.aclose()

    server = TemporaryServer(tmp_path_factory.mktemp("store"))
    store.configure(server.url)
    assert store.get("key") is None
    asyncio.run(use())
    store.close()
    server.close()


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing them would take most of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n')
    pytester.mkdir("handlers")
    (pytester.path / "handlers" / "shop.py").write_text(HANDLERS)
    (pytester.path / "api.json").write_text(json.dumps(API))
    return pytester


def run_inside(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """In this process, with these plugins alone."""
    return project.runpytest("-p", "no:cacheprovider", "-p", "coprocess", "-p", "anyio", *arguments)


def passes(project: pytest.Pytester, code: str, *arguments: str) -> None:
    project.makepyfile(code)
    result = run_inside(project, *arguments)
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed"}, result.stdout.str()


def fails(project: pytest.Pytester, code: str) -> str:
    project.makepyfile(code)
    result = run_inside(project)
    assert result.ret == 1
    return result.stdout.str()


# The examples


def blocks() -> list[tuple[str, str, str]]:
    """Name of the file (or empty), language and text of each block of the page."""
    pattern = re.compile(r"(?:^`([\w./-]+)`\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return pattern.findall(DOCS.read_text())


@pytest.fixture
def documented(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name, _, text in blocks():
        if name:
            path = pytester.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n')
    monkeypatch.chdir(pytester.path)
    return pytester


def test_documented_tests_pass(documented: pytest.Pytester) -> None:
    result = run_inside(documented)
    result.assert_outcomes(passed=7)


COMMANDS = [text for _, language, text in blocks() if language == "console" and "coprocess try" in text]


@pytest.mark.parametrize("number", range(2))
def test_documented_commands(documented: pytest.Pytester, number: int) -> None:
    command, *expected = COMMANDS[number].splitlines()
    result = CliRunner().invoke(app, shlex.split(command.removeprefix("$ coprocess ")))
    got = [same_time(line) for line in result.stdout.splitlines()]
    expected = [same_time(line) for line in expected]
    if expected[0] == "…":
        expected = expected[1:]
        got = got[-len(expected) :]
    assert got == expected


def same_time(line: str) -> str:
    return re.sub(r"\d+\.\d ms|Date: .*", "…", line)


def test_every_documented_command_is_run() -> None:
    assert len(COMMANDS) == 2


def test_documented_keys_of_the_json(documented: pytest.Pytester) -> None:
    table = DOCS.read_text().partition("## `coprocess try --json`")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    # The first has an event, the second a finding.
    for arguments, parts in (
        (["/orders/7"], ("hooks", "events")),
        (["/", "--api", "draft.json"], ("hooks", "findings")),
    ):
        result = CliRunner().invoke(app, ["try", "GET", *arguments, "--json"])
        content = json.loads(result.stdout)
        assert list(rows) == list(content)
        for part in parts:
            assert content[part]
            documented_keys = set(re.findall(r"`(\w+)`", rows[part]))
            assert set(content[part][0]) <= documented_keys


# Fixtures


def test_gateway(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        def test_first(gateway, store):
            result = gateway.put("/a", params={"q": "x y"}, headers={"X-A": "é"}, body="text")
            assert result.status == 200 and result.ok
            assert result.dropped is None
            assert result.text == '{"ok":true}' and result.json() == {"ok": True}
            assert result.headers["x-tidy"] == "1"
            sent = result.upstream
            assert (sent.method, sent.url, sent.body, sent.text) == ("PUT", "/a?q=x+y", b"text", "text")
            assert sent.headers["x-seen"] == "1"
            assert sent.headers["X-A"].encode("latin-1").decode() == "é"
            assert list(result.hooks) == ["stamp", "stamp", "tidy"]
            assert result.hooks["Post", "stamp"].changes == {}
            assert result.hooks["tidy"].changes == {"response.headers": {"X-Tidy": "1"}}
            assert result.hooks["Pre", "stamp"].error is None
            assert 0 < result.hooks["tidy"].seconds < result.seconds
            assert "tidy" in result.hooks and "other" not in result.hooks
            assert store.get("async") == b"1"

        def test_every_method(gateway):
            for method in ("get", "post", "put", "patch", "delete", "options"):
                assert getattr(gateway, method)("/").upstream.method == method.upper()
            assert gateway.head("/").body == b""

        def test_again(gateway, store):
            # Handlers and store are new.
            assert store.get("async") is None
            assert gateway.get("/").upstream.headers["X-Stamp"] == "1"
            assert gateway.get("/").upstream.headers["X-Seen"] == "2"
        """,
    )


def test_hooks_by_name(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import pytest

        def test_it(gateway):
            result = gateway.get("/")
            with pytest.raises(KeyError, match="name the type too. Called: Pre .*stamp.*, Post .*stamp"):
                result.hooks["stamp"]
            with pytest.raises(KeyError, match="'other' was not called. Called: Pre"):
                result.hooks["other"]
        """,
    )


def test_upstreams(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import pytest
        from coprocess import respond

        def wsgi(environ, start_response):
            start_response("201 Created", [("X-Path", environ["PATH_INFO"])])
            return [b"wsgi"]

        async def asgi(scope, receive, send):
            await send({"type": "http.response.start", "status": 202, "headers": []})
            await send({"type": "http.response.body", "body": scope["path"].encode()})

        class App:
            async def __call__(self, scope, receive, send):
                await asgi(scope, receive, send)

        @pytest.mark.parametrize(
            ("upstream", "status", "text"),
            [
                (404, 404, "{}"),
                (respond(503, "down", headers={"X-Up": "1"}), 503, "down"),
                ({"a": 1}, 200, '{"a": 1}'),
                (lambda request: respond(200, request.url), 200, "/a"),
                (wsgi, 201, "wsgi"),
                (asgi, 202, "/a"),
                (App(), 202, "/a"),
            ],
        )
        def test_it(gateway, upstream, status, text):
            gateway.upstream = upstream
            result = gateway.get("/a")
            assert (result.status, result.text) == (status, text)

        @pytest.mark.parametrize("upstream", [None, "ftp://a", 1.5, lambda: 1])
        def test_none(gateway, upstream):
            if upstream is None:
                gateway.upstream = None
                assert gateway.get("/").status == 200
                return
            with pytest.raises(Exception, match="upstream"):
                gateway.upstream = upstream
        """,
    )


def test_marker(project: pytest.Pytester) -> None:
    project.mkdir("others")
    (project.path / "others" / "x.py").write_text("from coprocess import Pre\n@Pre\ndef other(): pass\n")
    (project.path / "other.json").write_text(
        json.dumps(API | {"custom_middleware": {"driver": "grpc", "pre": [{"name": "other"}]}})
    )
    passes(
        project,
        f"""
        import pytest

        pytestmark = pytest.mark.coprocess(upstream=201)

        @pytest.mark.coprocess(handlers=["others"], api="other.json")
        def test_files(gateway):
            result = gateway.get("/")
            assert list(result.hooks) == ["other"] and result.status == 201

        @pytest.mark.coprocess(api={API!r}, upstream=204)
        def test_dict(gateway):
            assert gateway.get("/").status == 204
        """,
        "--strict-markers",
    )


def test_options(project: pytest.Pytester) -> None:
    (project.path / "handlers").rename(project.path / "plugins")
    (project.path / "api.json").rename(project.path / "mine.json")
    project.makepyprojecttoml(
        """
        [tool.pytest.ini_options]
        coprocess_handlers = ["plugins"]
        coprocess_api = "mine.json"
        """
    )
    passes(project, 'def test_it(gateway): assert gateway.get("/").hooks["tidy"].changes')


def test_keyless_definition_of_the_handlers(project: pytest.Pytester) -> None:
    (project.path / "api.json").unlink()
    passes(
        project,
        """
        def test_it(gateway):
            result = gateway.get("/any/where")
            assert [(hook.type, hook.name) for hook in result.hooks.values()] == [
                ("Pre", "stamp"), ("Pre", "failing"),
            ]
            assert result.status == 500 and not result.ok
            assert isinstance(result.hooks["failing"].raised, ValueError)
            assert "failing" in repr(result) and "ouch" in repr(result)
        """,
    )


def test_definition_in_apis(project: pytest.Pytester) -> None:
    project.mkdir("apis")
    (project.path / "api.json").rename(project.path / "apis" / "only.json")
    passes(project, 'def test_it(gateway): assert gateway.definition.name == "API"')


def test_events_and_dropped_connections(project: pytest.Pytester) -> None:
    api = API | {
        "use_keyless": False,
        "custom_plugin_auth_enabled": True,
        "custom_middleware": {"driver": "grpc", "auth_check": {"name": "key"}},
        "event_handlers": {
            "events": {
                "AuthFailure": [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "heard"}}]
            }
        },
    }
    (project.path / "api.json").write_text(json.dumps(api))
    passes(
        project,
        """
        def test_it(gateway, store):
            result = gateway.get("/a")
            [event] = result.events
            assert (event.type, event.handler, event.ran) == ("AuthFailure", "heard", True)
            assert event.meta["Path"] == "/a"
            assert store.get_text("heard") == "AuthFailure"
            assert result.upstream is None and result.status == 401
        """,
    )


def test_dispatch(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import pytest
        from coprocess import respond
        from coprocess.errors import UnknownHook

        def test_requests(dispatch):
            reply = dispatch("Pre", "stamp", method="POST", url="/a?b=c", json={"a": 1}, headers={"X-A": "1"})
            assert reply.sent.request.raw_body == b'{"a": 1}'
            assert reply.sent.request.headers["X-A"] == "1"
            assert reply.changes == {"request.set_headers": {"X-Stamp": "1", "X-Seen": "1"}}
            assert reply.ignored == {}
            assert reply.request.set_headers["X-Stamp"] == "1"
            assert reply.overrides.response_code == -1

        def test_auth(dispatch):
            reply = dispatch("CustomKeyCheck", "key", headers={"Authorization": "1"})
            assert reply.metadata == {"token": "caller"}
            assert dispatch("CustomKeyCheck", "key").overrides.response_code == 401

        def test_async_handler(dispatch):
            assert dispatch("Post", "stamp", session={"alias": "x"}).sent.session.alias == "x"

        def test_response(dispatch):
            reply = dispatch("Response", "tidy", response=respond(404, "gone"))
            assert reply.response.status_code == 404
            assert reply.changes == {"response.headers": {"X-Tidy": "1"}}

        def test_event(dispatch, store):
            dispatch.event("heard", "QuotaExceeded")
            assert store.get("heard") == b"QuotaExceeded"

        def test_failures(dispatch):
            with pytest.raises(ValueError, match="ouch"):
                dispatch("Pre", "failing")
            with pytest.raises(UnknownHook):
                dispatch("Post", "failing")
            with pytest.raises(UnknownHook):
                dispatch.event("missing")
            with pytest.raises(ValueError, match="expected one of Pre"):
                dispatch("Prre", "stamp")
        """,
    )


def test_async_tests(project: pytest.Pytester) -> None:
    """anyio brings its own plugin: its asyncio tests run on a loop of theirs."""
    passes(
        project,
        """
        import asyncio
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_sync_use(gateway, dispatch):
            assert gateway.get("/").hooks["Post", "stamp"].status == "OK"
            dispatch("Post", "stamp")

        async def test_async_use(gateway, store):
            loop = asyncio.get_running_loop()
            async def answer(reader, writer):
                await reader.readuntil(b"\\r\\n\\r\\n")
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nhi")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            gateway.upstream = f"http://127.0.0.1:{port}"
            results = await asyncio.gather(gateway.aget("/a"))
            assert results[0].text == "hi"
            assert (await gateway.apost("/a", json={})).upstream.method == "POST"
            server.close()
            await server.wait_closed()
            await store.aio.set("mine", "1")
            assert await store.aio.get("mine") == b"1"
            await store.aio.aclose()
        """,
    )


# What it says where it cannot


def test_handlers_that_do_not_load(project: pytest.Pytester) -> None:
    (project.path / "handlers" / "half.py").write_text("import nowhere_to_be_found\n")
    text = fails(project, "def test_it(gateway): pass")
    assert "handlers could not be loaded" in text
    assert "nowhere_to_be_found" in text


def test_no_handlers(pytester: pytest.Pytester) -> None:
    text = fails(pytester, "def test_it(gateway): pass")
    assert "no handlers: expected handlers or event_handlers in" in text


def test_several_definitions(project: pytest.Pytester) -> None:
    (project.path / "api.json").unlink()
    for name in ("one.json", "two.json"):
        (project.path / "apis").mkdir(exist_ok=True)
        (project.path / "apis" / name).write_text("{}")
    text = fails(project, "def test_it(gateway): pass")
    assert "name one of one.json, two.json, with the option coprocess_api" in text


def test_marker_with_another_argument(project: pytest.Pytester) -> None:
    code = "import pytest\n@pytest.mark.coprocess(handler='x')\ndef test_it(gateway): pass"
    assert "takes handlers=, api=, upstream=, not handler" in fails(project, code)


def test_failing_assertion_tells_what_went_wrong(project: pytest.Pytester) -> None:
    api = API | {"custom_middleware": {"driver": "grpc", "pre": [{"name": "failing"}]}}
    (project.path / "api.json").write_text(json.dumps(api))
    text = fails(project, 'def test_it(gateway): assert gateway.get("/").status == 200')
    assert 'where 500 = <500 GET /: Pre "failing": It raised ValueError: ouch' in text


# What it costs those who do not use it


def test_nothing_heavy_is_imported_for_projects_without(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    pytester.makepyfile(
        """
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("coprocess")
            heavy = {"grpc", "google.protobuf", "pydantic", "redis", "structlog", "typer", "watchfiles"}
            assert heavy & set(sys.modules) == set()
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_fixtures_of_the_users_own_go_first(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def store():
            return "mine"

        @pytest.fixture
        def gateway(store):
            return store

        def test_it(gateway, valkey_url):
            assert gateway == "mine" and valkey_url
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_names_for_annotations() -> None:
    code = """
import sys
import coprocess.testing
assert "coprocess.tyk" not in sys.modules
from coprocess.testing import Dispatch, DispatchReply, Gateway, Result, SentRequest, Store
import coprocess.store
assert Store is coprocess.store.__class__
assert Gateway.__module__ == "coprocess.testing.gateway"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="Nothing"):
        coprocess.testing.Nothing  # noqa: B018 - the look-up is the test
