"""One file of handlers through each home: Tyk, Kong and Envoy as simulated, and around web apps.

What the client and the upstream see is the same in all of them.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coprocess import Reply, respond
from coprocess.asgi import Middleware as AsgiMiddleware
from coprocess.desk.envoy.configuration import Wanted
from coprocess.desk.envoy.trial import HandlerServer, config_of
from coprocess.desk.kong.trial import plugin_servers
from coprocess.desk.tyk.simulator import ApiDefinition, HookDefinition
from coprocess.desk.tyk.trial import InProcessDispatcher
from coprocess.gateways.envoy.home import HOME as ENVOY
from coprocess.loading import loader
from coprocess.testing import Envoy, Gateway, Kong
from coprocess.wsgi import Middleware as WsgiMiddleware
from tests.conftest import Load
from tests.same_handlers import AFTER_CHECK

HANDLERS = """
from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Reject, Response, respond

@Pre
def pre(request):
    request.headers["X-Pre"] = request.path
    if request.path == "/reply":
        return respond(418, json={"short": True}, headers={"X-Why": "tea"})
    if request.path == "/fail":
        raise LookupError
    request.query["a"] = "9"
    request.headers.pop("X-Secret", None)

@CustomKeyCheck
async def check(request, session):
    token = request.headers.get("Authorization", "")
    if token not in ("good", "few"):
        raise Reject(401, "who?", headers={"WWW-Authenticate": "Bearer"})
    if token == "few":
        session.allow(token, quota_max=1)
    else:
        session.allow(token, alias="ann", metadata={"plan": "gold"})
"""
TOLD = ("x-pre", "x-caller", "x-secret")
SHOWN = ("X-Alias", "X-Why", "WWW-Authenticate")

#: Of an upstream that tells what came: as JSON.
Told = Callable[[Any], dict[str, Any]]
Seen = tuple[int | None, dict[str, str], Any]
#: Method, URL, headers, body.
Ask = Callable[[str, str, dict[str, str], bytes], Seen]


def told(method: str, url: str, headers: Any, body: bytes) -> dict[str, Any]:
    lower = {str(name).lower(): value for name, value in dict(headers).items()}
    return {"method": method, "url": url, "body": body.decode()} | {name: lower.get(name) for name in TOLD}


def told_neutral(request: Any) -> dict[str, Any]:
    return told(request.method, request.url, request.headers, request.body)


def seen(status: int | None, headers: Any, body: bytes) -> Seen:
    try:
        content = json.loads(body)
    except ValueError:
        content = body
    return status, {name: headers[name] for name in SHOWN if name in headers}, content


def asking(gateway: Any) -> Ask:
    def ask(method: str, url: str, headers: dict[str, str], body: bytes) -> Seen:
        got = gateway.request(method, url, headers=headers, body=body)
        return seen(got.status, got.headers, got.body)

    return ask


@contextmanager
def tyk(folder: Path, load: Load) -> Iterator[Ask]:
    definition = ApiDefinition(
        name="four",
        api_id="four",
        org_id="default",
        listen_path="/",
        target_url="http://upstream.test/",
        keyless=False,
        pre=(HookDefinition("pre"),),
        auth_check=HookDefinition("check"),
        post_key_auth=(HookDefinition("post_key_auth"),),
        post=(HookDefinition("post"),),
        response=(HookDefinition("response"),),
    )
    loaded = load(folder)
    with InProcessDispatcher(loaded.table) as dispatcher, dispatcher.opening(loaded):
        yield asking(Gateway(definition, dispatcher, told_neutral))


@contextmanager
def kong(folder: Path, load: Load) -> Iterator[Ask]:
    with plugin_servers([folder]) as servers:
        simulated = Kong(servers, upstream=told_neutral)
        try:
            yield asking(simulated)
        finally:
            simulated.close()


@contextmanager
def envoy(folder: Path, load: Load) -> Iterator[Ask]:
    loaded = loader.load([folder], ENVOY)
    assert not loaded.problems
    try:
        with HandlerServer(loaded) as server:
            wanted = Wanted("127.0.0.1:5555", authenticates=True)
            yield asking(Envoy(server, lambda chain, authz: config_of(wanted), told_neutral))
    finally:
        loaded.forget()


def wsgi_site(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    query = environ["QUERY_STRING"]
    headers = {name[5:].replace("_", "-"): value for name, value in environ.items() if name[:5] == "HTTP_"}
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    url = environ["PATH_INFO"] + (f"?{query}" if query else "")
    answer = json.dumps(told(environ["REQUEST_METHOD"], url, headers, body)).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi_site(scope: Any, receive: Any, send: Any) -> None:
    body, more = io.BytesIO(), True
    while more:
        message = await receive()
        body.write(message.get("body", b""))
        more = message.get("more_body", False)
    query = scope["query_string"].decode()
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    url = scope["path"] + (f"?{query}" if query else "")
    answer = json.dumps(told(scope["method"], url, headers, body.getvalue())).encode()
    named = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": named})
    await send({"type": "http.response.body", "body": answer})


@contextmanager
def wsgi(folder: Path, load: Load) -> Iterator[Ask]:
    app = WsgiMiddleware(wsgi_site, handlers=folder)
    try:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://test") as client:

            def ask(method: str, url: str, headers: dict[str, str], body: bytes) -> Seen:
                got = client.request(method, url, headers=headers, content=body)
                return seen(got.status_code, got.headers, got.content)

            yield ask
    finally:
        app.close()


@contextmanager
def asgi(folder: Path, load: Load) -> Iterator[Ask]:
    app = AsgiMiddleware(asgi_site, handlers=folder)
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

        def ask(method: str, url: str, headers: dict[str, str], body: bytes) -> Seen:
            got = runner.run(client.request(method, url, headers=headers, content=body))
            return seen(got.status_code, got.headers, got.content)

        try:
            yield ask
        finally:
            runner.run(client.aclose())
            runner.run(app.close())


HOMES = {"tyk": tyk, "kong": kong, "envoy": envoy, "wsgi": wsgi, "asgi": asgi}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("home", HOMES)
def test_the_same_handlers_do_the_same(home: str, tmp_path: Path, load: Load) -> None:
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "same.py").write_text(HANDLERS + AFTER_CHECK)
    with HOMES[home](folder, load) as ask:
        upstream = {"method": "POST", "url": "/x?a=9&b=2", "body": "[body]", "x-pre": "/x", "x-secret": None}
        ann = {"was": upstream | {"x-caller": "ann gold"}}
        headers = {"Authorization": "good", "X-Secret": "s"}
        assert ask("POST", "/x?b=2&a=1&a=3", headers, b"body") == (202, {"X-Alias": "ann"}, ann)
        nobody = {"was": upstream | {"method": "GET", "url": "/x?a=9", "body": "[]", "x-caller": "none none"}}
        few = {"Authorization": "few"}
        assert ask("GET", "/x", few, b"") == (202, {"X-Alias": "none"}, nobody)
        status, _, content = ask("GET", "/x", few, b"")
        assert (status, content["error"]) == (403, "Quota exceeded")
        refused = ask("GET", "/x", {}, b"")
        assert refused == (401, {"WWW-Authenticate": "Bearer"}, {"error": "who?"})
        assert ask("GET", "/reply", headers, b"") == (418, {"X-Why": "tea"}, {"short": True})
        assert ask("GET", "/fail", headers, b"")[0] == 500


#: What each home asks for, beside what a test is about.
PASSING = """
@CustomKeyCheck
def check(session): session.allow("t")

@PostKeyAuth
def post_key_auth(): pass

@Post
def post(): pass
"""

PART = """
from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Response

@Pre
def pre(): pass

@Response
async def response(request, response):
    response.body = b"new"
"""


def part_told(request: Any) -> Reply:
    return respond(206, "ew", headers={"Content-Range": "bytes 1-2/9", "Content-Type": "text/plain"})


def part_of_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("206 Part", [("Content-Range", "bytes 1-2/9"), ("Content-Type", "text/plain")])
    return [b"ew"]


async def part_of_asgi(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-range", b"bytes 1-2/9"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 206, "headers": headers})
    await send({"type": "http.response.body", "body": b"ew"})


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("home", HOMES)
def test_a_new_body_for_a_part_is_the_whole_everywhere(
    home: str, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "part.py").write_text(PART + PASSING)
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "told_neutral", part_told)
    monkeypatch.setattr(here, "wsgi_site", part_of_wsgi)
    monkeypatch.setattr(here, "asgi_site", part_of_asgi)
    monkeypatch.setattr(here, "SHOWN", ("Content-Range",))
    with HOMES[home](folder, load) as ask:
        assert ask("GET", "/x", {}, b"") == (200, {}, b"new")


FORGETFUL = """
import asyncio
from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Reject, Response

async def check_caller(request):
    raise Reject(403, "no")

@Pre
{kind} pre(request):
    {body}

@Response
def response(): pass
"""


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("def", "check_caller(request)"),
        ("def", "allowed = check_caller(request)"),
        ("async def", "check_caller(request)"),
        ("async def", "await asyncio.sleep(0.001); check_caller(request)"),
    ],
)
def test_a_check_that_is_not_awaited_lets_nobody_by(
    home: str, kind: str, body: str, tmp_path: Path, load: Load
) -> None:
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "forgetful.py").write_text(FORGETFUL.format(kind=kind, body=body) + PASSING)
    with HOMES[home](folder, load) as ask:
        for _ in range(2):
            assert ask("GET", "/x", {}, b"")[0] == 500


LEAVING = FORGETFUL.replace(
    "@Pre",
    """
kept = set()

def begin(coroutine):
    return asyncio.get_running_loop().create_task(coroutine)

async def goes_on():
    task = begin(check_caller(None))
    kept.add(task)
    task.add_done_callback(lambda done: done.exception())

async def begins(request):
    begin(check_caller(request))

async def is_slow():
    await asyncio.sleep(60)

@Pre""",
)

LETS_NOBODY_BY = [
    "asyncio.create_task(check_caller(request))",
    "kept.add(asyncio.create_task(check_caller(request)))",
    "begin(asyncio.wait_for(check_caller(request), 5))",
    "asyncio.gather(check_caller(request), asyncio.sleep(0))",
    "asyncio.create_task(check_caller(request)); await asyncio.sleep(0.01)",
    "await asyncio.gather(begins(request))",
    "await asyncio.wait([begin(is_slow())], timeout=0.001)",
]
LETS_BY = [
    "task = begin(asyncio.sleep(60)); task.cancel()",
    "await begin(asyncio.sleep(0.001))",
    "begin(asyncio.sleep(0)); await asyncio.sleep(0.01)",
    "await goes_on()",
    "task = begin(begins(request)); task.add_done_callback(lambda done: done.exception())",
    "import spawning; spawning.spawn(asyncio.sleep(60))",
]
#: A library's: what it begins is for its own ends.
VENDORED = "import asyncio\ndef spawn(coroutine): asyncio.create_task(coroutine)\n"


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(
    ("body", "status"), [*((body, 500) for body in LETS_NOBODY_BY), *((body, 200) for body in LETS_BY)]
)
def test_a_check_in_a_task_that_is_not_awaited_lets_nobody_by(
    home: str, body: str, status: int, tmp_path: Path, load: Load
) -> None:
    """Once, the handler had ended, and what the task found came too late."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "forgetful.py").write_text(LEAVING.format(kind="async def", body=body) + PASSING)
    (folder / "vendor").mkdir()
    (folder / "vendor" / "spawning.py").write_text(VENDORED)
    with HOMES[home](folder, load) as ask:
        for _ in range(2):
            assert ask("GET", "/x", {}, b"")[0] == status
    gc.collect()  # What asyncio says of such tasks: Python 3.11 must not come to it while it parses a file.


AROUND = """
import asyncio
from coprocess import App, CustomKeyCheck, Post, PostKeyAuth, Pre, Response

app = App()

async def refuse(request):
    raise PermissionError

@app.resource(scope="call")
async def heart():
    beat = asyncio.create_task(asyncio.sleep(60))
    yield beat
    beat.cancel()

@app.before(Pre)
async def look(request):
    {body}

@Response
def response(): pass

@Pre
{kind} pre(request, heart):
    assert not heart.done()
"""


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("asyncio.create_task(refuse(request))", 500),
        ("refuse(request)", 500),
        ("await asyncio.create_task(asyncio.sleep(0))", 200),
    ],
)
def test_what_code_around_a_handler_does_not_await_lets_nobody_by(
    home: str, kind: str, body: str, status: int, tmp_path: Path, load: Load
) -> None:
    """Once, around a `def`, nobody noted it. A task of a resource is that one's."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "around.py").write_text(AROUND.format(kind=kind, body=body) + PASSING)
    with HOMES[home](folder, load) as ask:
        for _ in range(2):
            assert ask("GET", "/x", {}, b"")[0] == status
    gc.collect()


NAMED = """
from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Response

@Pre
def pre(): pass

@Response
def response(): pass

@CustomKeyCheck
def check(request, session, metadata):
    {body}

@PostKeyAuth
def post_key_auth(): pass

@Post
def post(): pass
"""


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("metadata['token'] = 't'", 500),
        ("metadata['token'] = ''", 403),
        ("session.allow('t', rate=-1)", 500),
        ("session.allow('t', rate=float('nan'))", 500),
        ("session.allow('t', rate=1, per=-1)", 500),
        ("session.alias = 'ann'; session.metadata['token'] = 't'", 200),
        ("session.alias = 'ann'; metadata['token'] = 't'", 200),
        ("session.allow('t', rate=10)", 200),
        ("metadata['token'] = 't'; session.allow('t')", 200),
    ],
)
def test_what_names_no_caller_at_tyk_admits_nobody_anywhere(
    home: str, body: str, status: int, tmp_path: Path, load: Load
) -> None:
    """Once, a token of the metadata admitted elsewhere, and a negative rate was no limit at Tyk."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "named.py").write_text(NAMED.format(body=body))
    with HOMES[home](folder, load) as ask:
        # Tyk answers whatever fails there by 403.
        assert ask("GET", "/x", {}, b"")[0] == (403 if home == "tyk" and status == 500 else status)
