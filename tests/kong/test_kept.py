"""Requests of native handlers between their phases: each ends, on the handlers that it began with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from coprocess.gateways.kong import kept
from coprocess.gateways.kong.registration import handlers_server, load_handlers
from tests.kong.server import Kong, Served, serving_gateway
from tests.server import until

HANDLERS = """
from coprocess import App, Pre, Response

app = App()

def note(text):
    with open(__file__ + ".log", "a") as out:
        out.write(text + "\\n")

@app.resource(scope="call")
def opened():
    note("opened")
    yield 1
    note("closed")

@Pre
def before(request, opened, state):
    state.load = "first"

@Response
def after(response, state):
    response.headers["X-Load"] = getattr(state, "load", "none") + " on first"
"""


@pytest.fixture(autouse=True)
def own_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that other tests left."""
    monkeypatch.setattr(kept, "requests", kept.KeptRequests(tick_s=0.02))


@contextmanager
def handlers(tmp_path: Path, keep_s: float = 600) -> Iterator[tuple[Served, Path]]:
    folder = tmp_path / "handlers"
    folder.mkdir()
    file = folder / "all.py"
    file.write_text(textwrap.dedent(HANDLERS))
    gateway = handlers_server([folder], "coprocess", keep_s=keep_s)
    with serving_gateway(gateway, tmp_path / "s.socket") as served:
        yield served, file


def noted(file: Path) -> list[str]:
    log = file.with_name(file.name + ".log")
    return log.read_text().split() if log.exists() else []


def phase(kong: Kong, instance: Any, name: str, kept_values: dict[str, Any]) -> list[Any]:
    calls = []
    result = kong.event(instance, name)
    while result["Data"] != "ret":
        method, arguments = result["Data"]["Method"], result["Data"]["Args"]
        assert method != "kong.response.exit"
        calls.append((method, arguments))
        if method == "kong.ctx.shared.set":
            kept_values[arguments[0]] = arguments[1]
        given = kept_values.get(arguments[0]) if method == "kong.ctx.shared.get" else None
        result = kong.step(result["EventId"], given)
    return calls


def headers_set(calls: list[Any]) -> Any:
    ((headers,),) = [arguments for method, arguments in calls if method == "kong.response.set_headers"]
    return headers


def test_a_request_whose_response_phase_never_comes_ends_in_its_time(tmp_path: Path) -> None:
    """Once, it stayed until ten thousand newer ones had come."""
    with handlers(tmp_path, keep_s=0.05) as (served, file), capture_logs() as logs:
        kong = served.connect()
        instance = kong.start("{}", "coprocess")
        values: dict[str, Any] = {}
        phase(kong, instance, "access", values)
        until(lambda: noted(file) == ["opened", "closed"])
        until(lambda: served.engine.lost_requests == 1)
        assert len(kept.requests) == 0
        assert [entry["event"] for entry in logs if "response phase" in entry["event"]] == [
            "the response phase of a request did not come in its time: the request has ended without it"
        ]
        # Where it comes after all, its handlers run, without what is gone.
        assert headers_set(phase(kong, instance, "response", values)) == {"X-Load": "none on first"}
        phase(kong, instance, "access", values)
        until(lambda: served.engine.lost_requests == 2)


def test_a_request_that_was_answered_in_time_is_not_counted_as_lost(tmp_path: Path) -> None:
    with handlers(tmp_path) as (served, file):
        kong = served.connect()
        instance = kong.start("{}", "coprocess")
        values: dict[str, Any] = {}
        phase(kong, instance, "access", values)
        assert len(kept.requests) == 1
        phase(kong, instance, "response", values)
        assert noted(file) == ["opened", "closed"]
        assert len(kept.requests) == served.engine.lost_requests == 0


def test_after_a_reload_a_request_ends_on_the_handlers_that_it_began_with(tmp_path: Path) -> None:
    """Once, it was another's for the new ones: they ran without its state, and it never ended."""
    with handlers(tmp_path) as (served, file):
        kong = served.connect()
        instance = kong.start("{}", "coprocess")
        values: dict[str, Any] = {}
        phase(kong, instance, "access", values)
        file.write_text(textwrap.dedent(HANDLERS).replace("on first", "on second"))
        loaded, _ = load_handlers([file.parent], "coprocess")
        assert not loaded.problems
        served.service.use(loaded.table)
        try:
            assert headers_set(phase(kong, instance, "response", values)) == {"X-Load": "first on first"}
            assert noted(file) == ["opened", "closed"]
            assert headers_set(phase(kong, instance, "response", {})) == {"X-Load": "none on second"}
        finally:
            loaded.forget()


def test_a_configuration_that_loses_its_response_handlers_meanwhile_leaves_no_request(tmp_path: Path) -> None:
    with handlers(tmp_path) as (served, file):
        kong = served.connect()
        values: dict[str, Any] = {}
        phase(kong, kong.start("{}", "coprocess"), "access", values)
        fewer = kong.start(json.dumps({"pre": ["before"]}), "coprocess")
        assert headers_set(phase(kong, fewer, "response", values)) == {"X-Load": "first on first"}
        assert noted(file) == ["opened", "closed"]
        assert phase(kong, fewer, "response", {}) == []


def test_beyond_so_many_the_oldest_ends_and_what_fails_there_ends_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept, "_MOST", 2)
    ended: list[int] = []

    def end(number: int) -> None:
        ended.append(number)
        raise ValueError

    for number in range(4):
        kept.requests.keep(str(number), number, 600, partial(end, number))
    assert ended == [0, 1]
    assert (kept.requests.take("1"), kept.requests.take("3"), kept.requests.lost) == (None, 3, 2)
