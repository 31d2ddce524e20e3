"""A project whose tests use the pytest plugin, and running them."""

from __future__ import annotations

import pytest

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
