"""The fixture `envoy`: handlers in the code of `serve --envoy`, behind the simulated Envoy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from coprocess.desk.envoy.configuration import Wanted, static
from coprocess.desk.envoy.simulator.filter_config import ExtProcConfig
from coprocess.desk.envoy.simulator.mutation_rules import MutationRules
from coprocess.desk.envoy.trial import HandlerServer, config_in, config_of
from coprocess.errors import ConfigError
from coprocess.gateways.envoy.home import HOME
from coprocess.loading import loader
from coprocess.testing import Envoy

HANDLERS = """
import asyncio
from coprocess import CustomKeyCheck, Post, Pre, Reject, Response, respond

@Pre
def stamp(request, state):
    print("stamping")
    request.headers["X-Stamp"] = "1"
    state.seen = request.path
    if request.path == "/answer":
        return respond(201, json={"here": True})
    if request.path == "/broken":
        raise RuntimeError("no good")

@Pre(on_error="open")
def fragile(request):
    if request.headers.get("X-Break"):
        raise ValueError("broken")

@CustomKeyCheck
async def auth(request, session):
    await asyncio.sleep(0)
    if request.headers.get("Authorization") != "good":
        raise Reject(401, "who are you")
    session.allow("t", alias="anna", metadata={"plan": "gold"})

@Post
def upper(request):
    if request.method == "POST":
        request.body = request.raw_body.upper()

@Response
async def tidy(response, state):
    response.headers["X-Seen"] = getattr(state, "seen", "nothing")
    if response.status == 200:
        response.body = response.raw_body + b"!"
"""
CHAINS = '[chains.light]\npre = "stamp"\n[chains.gone]\npre = "gone"\n'
GOOD = {"Authorization": "good"}


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.mkdir("handlers").joinpath("all.py").write_text(HANDLERS)
    pytester.path.joinpath("coprocess.toml").write_text(CHAINS)
    return pytester


pytest_plugins = ("pytester",)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Envoy]:
    (tmp_path / "all.py").write_text(HANDLERS)
    loaded = loader.load([tmp_path], HOME)
    assert loaded.problems == []
    with HandlerServer(loaded, timeout_s=5.0) as server:
        yield Envoy(
            server,
            lambda chain, authz: config_of(Wanted("127.0.0.1:5555", is_authz=authz, authenticates=True)),
        )
    loaded.forget()


def test_a_chain_in_one_stream(made: Envoy) -> None:
    made.upstream = {"ok": True}

    result = made.get("/items?x=1", headers=GOOD)

    assert (result.status, result.body) == (200, b'{"ok": true}!')
    assert result.headers["X-Seen"] == "/items"
    assert result.upstream is not None
    assert result.upstream.headers["X-Stamp"] == "1"
    assert [run.name for run in result.hooks] == ["stamp", "fragile", "auth", "upper", "tidy"]
    assert [call.service for call in result.calls] == ["ext_proc"]
    assert result.metadata["coprocess.session"]["alias"] == "anna"
    assert [finding for finding in result.findings if finding.severity != "note"] == []
    assert result.ok


def test_body_edits(made: Envoy) -> None:
    result = made.post("/items", headers=GOOD, body="small")

    assert result.upstream is not None
    assert result.upstream.body == b"SMALL"
    assert result.upstream.headers["Content-Length"] == "5"


def test_rejection_answer_and_failure(made: Envoy) -> None:
    rejected, answered, failed = made.get("/"), made.get("/answer"), made.get("/broken")

    assert rejected.status == 401
    assert rejected.upstream is None
    assert (answered.status, answered.json()) == (201, {"here": True})
    assert failed.status == 500
    assert failed.hooks["stamp"].failed
    assert "no good" in "".join(failed.hooks["stamp"].traceback)
    assert not failed.ok
    assert 'Pre "stamp": It raised' in repr(failed)


def test_what_fails_open_is_told(made: Envoy) -> None:
    result = made.get("/", headers={**GOOD, "X-Break": "1"})

    assert result.status == 200
    assert result.hooks["Pre", "fragile"].failed
    assert not result.ok


def test_upstream_that_is_down(made: Envoy) -> None:
    made.upstream = "http://127.0.0.1:1"

    result = made.get("/", headers=GOOD)

    assert result.status == 503
    assert result.upstream is None
    assert result.headers["X-Seen"] == "/", "Envoy shows the service what it answers itself"


def test_ext_authz(made: Envoy) -> None:
    made.use(authz=True)

    assert made.get("/").status == 401
    result = made.get("/", headers=GOOD)

    assert result.status == 200
    assert [call.service for call in result.calls] == ["ext_authz"]
    assert [run.name for run in result.hooks] == ["auth"]


def test_what_envoy_leaves_out_is_told(made: Envoy) -> None:
    config = config_of(Wanted("127.0.0.1:5555"))
    [entry] = config.filters
    assert isinstance(entry.settings, ExtProcConfig)
    settings = dataclasses.replace(entry.settings, rules=MutationRules(disallow_all=True))
    made.use(config=dataclasses.replace(config, filters=(dataclasses.replace(entry, settings=settings),)))

    result = made.get("/", headers=GOOD)

    assert result.upstream is not None
    assert "X-Stamp" not in result.upstream.headers
    assert any("left out" in finding.problem for finding in result.findings)


def test_bodies_that_are_not_sent(made: Envoy) -> None:
    """The filter does not let the service ask for bodies: nothing passes by the handlers."""
    made.use(config=config_of(Wanted("127.0.0.1:5555", reads_body=False)))

    result = made.post("/", headers=GOOD, body="x")

    assert result.status == 500


@pytest.mark.parametrize("is_authz", [False, True])
@pytest.mark.parametrize("chain", ["", "shop"])
@pytest.mark.parametrize("reads_body", [False, True])
def test_a_trial_has_the_configuration_that_is_printed(
    tmp_path: Path, is_authz: bool, chain: str, reads_body: bool
) -> None:
    for has_response in (False, True):
        wanted = Wanted(
            "127.0.0.1:5555",
            chain,
            has_response=has_response,
            reads_body=reads_body,
            authenticates=has_response,
            is_authz=is_authz,
        )
        path = tmp_path / "envoy.yaml"
        path.write_text(static(wanted))

        assert config_in(path) == config_of(wanted)


def test_a_file_without_filters(tmp_path: Path) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump({"static_resources": {}}))

    with pytest.raises(ConfigError, match="no connection manager"):
        config_in(path)


def test_in_a_project(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        def test_stamp(envoy):
            envoy.upstream = 404
            result = envoy.get("/x", headers={"Authorization": "good"})
            assert result.status == 404
            assert result.upstream.headers["X-Stamp"] == "1"

        def test_chain(envoy):
            envoy.use(chain="light")
            assert [run.name for run in envoy.get("/").hooks] == ["stamp"]

        def test_gone(envoy):
            with pytest.raises(Exception, match='"gone"'):
                envoy.use(chain="gone")
    """)

    result = project.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=3)
