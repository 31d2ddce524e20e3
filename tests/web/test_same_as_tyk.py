"""One file of handlers, through the simulated Tyk Gateway and around a web app: the client sees the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coprocess.asgi import Middleware as AsgiMiddleware
from coprocess.desk.tyk.simulator import ApiDefinition, HookDefinition
from coprocess.desk.tyk.trial import InProcessDispatcher
from coprocess.testing.gateway import Gateway
from coprocess.wsgi import Middleware as WsgiMiddleware
from tests.conftest import Load
from tests.same_handlers import AFTER_CHECK
from tests.web.servers import uvicorn_at, wsgiref_at

HANDLERS = """
from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Reject, Response, respond

@Pre
def pre(request, spec):
    request.headers["X-Pre"] = spec.config["name"]
    if request.path == "/reply":
        return respond(418, json={"short": True})
    if request.path == "/fail":
        raise LookupError
    if request.path == "/bad-json":
        request.json()
    request.query["a"] = "9"

@CustomKeyCheck
async def check(request, session):
    token = request.headers.get("Authorization", "")
    if token == "nobody":
        return
    if token != "good" and token != "few":
        raise Reject(401, "who?", headers={"WWW-Authenticate": "Bearer"})
    if token == "few":
        session.allow(token, quota_max=1)
    else:
        session.allow(token, alias="ann", metadata={"plan": "gold"})
"""

REQUESTS: list[tuple[str, str, dict[str, str], bytes]] = [
    ("GET", "/x?b=2&a=1&a=3", {"Authorization": "good"}, b""),
    ("POST", "/x", {"Authorization": "good"}, b"body"),
    ("GET", "/reply", {}, b""),
    ("GET", "/fail", {}, b""),
    ("POST", "/bad-json", {"Authorization": "good"}, b"{"),
    ("GET", "/x", {}, b""),
    ("GET", "/x", {"Authorization": "nobody"}, b""),
    ("GET", "/x", {"Authorization": "few"}, b""),
    ("GET", "/x", {"Authorization": "few"}, b""),
]
SHOWN = ("x-pre", "x-caller")


def told(method: str, url: str, headers: dict[str, str], body: str) -> dict[str, Any]:
    lower = {name.lower(): value for name, value in headers.items()}
    return {"method": method, "url": url, "body": body, **{name: lower.get(name) for name in SHOWN}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "same.py").write_text(HANDLERS + AFTER_CHECK)
    return tmp_path


@pytest.fixture
def tyk(folder: Path, load: Load) -> Iterator[Any]:
    definition = ApiDefinition(
        name="same",
        api_id="same",
        org_id="default",
        listen_path="/",
        target_url="http://upstream.test/",
        config_data={"name": "same"},
        keyless=False,
        pre=(HookDefinition("pre"),),
        auth_check=HookDefinition("check"),
        post_key_auth=(HookDefinition("post_key_auth"),),
        post=(HookDefinition("post"),),
        response=(HookDefinition("response"),),
    )

    def upstream(request: Any) -> Any:
        return told(request.method, request.url, dict(request.headers), request.body.decode())

    with InProcessDispatcher(load(folder).table) as dispatcher:
        yield Gateway(definition, dispatcher, upstream)


def seen(status: int | None, headers: Any, body: bytes) -> tuple[Any, ...]:
    shown = ("X-Alias", "Content-Type", "WWW-Authenticate")
    told = {name: headers.get(name) for name in shown}
    # Tyk tells zeros where there is no quota, and the present as the renewal of one that never renews.
    left = headers.get("X-Ratelimit-Remaining") if headers.get("X-Ratelimit-Limit", "0") != "0" else None
    return status, {**told, "left": left}, body


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_the_client_sees_the_same(kind: str, folder: Path, tyk: Any) -> None:
    import flask
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def show(request: Request) -> JSONResponse:
        url = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        body = (await request.body()).decode()
        return JSONResponse(told(request.method, url, dict(request.headers), body))

    site = flask.Flask("same")
    site.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's own provider
    site.json.compact = True  # type: ignore[attr-defined]  # the same

    @site.route("/<path:rest>", methods=["GET", "POST"])
    def show_flask(rest: str) -> Any:
        environ = flask.request.environ
        url = environ["PATH_INFO"] + (f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else "")
        return told(
            environ["REQUEST_METHOD"], url, dict(flask.request.headers), flask.request.get_data().decode()
        )

    options: dict[str, Any] = {"config": {"name": "same"}, "org_id": "default"}
    expected = [
        seen(got.status, got.headers, got.body)
        for got in (
            tyk.request(method, url, headers=headers, body=body) for method, url, headers, body in REQUESTS
        )
    ]
    if kind == "asgi":
        starlette = Starlette(routes=[Route("/{rest:path}", show, methods=["GET", "POST"])])
        server = uvicorn_at(AsgiMiddleware(starlette, folder, **options))
    else:
        server = wsgiref_at(WsgiMiddleware(site, folder, **options))
    with server as address:
        for (method, url, headers, body), want in zip(REQUESTS, expected, strict=True):
            got = httpx.request(method, f"http://{address}{url}", headers=headers, content=body)
            assert seen(got.status_code, got.headers, got.content) == want, (method, url, headers)
