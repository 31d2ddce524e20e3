"""What the pytest plugin says where it cannot, and what it costs those who do not use it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import coprocess.testing.dispatch
import coprocess.testing.gateway
from tests.pytest_plugin.projects import API, fails

pytest_plugins = "pytester"


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
    assert (
        "takes handlers=, api=, upstream=, plugins=, config=, declarative=, lua_style=, not handler"
        in fails(project, code)
    )


def test_an_event_handler_is_sent_events(project: pytest.Pytester) -> None:
    code = "def test_it(dispatch): dispatch('Event', 'seen')"
    assert 'Expected: dispatch.event("seen", "AuthFailure", meta={})' in fails(project, code)


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
assert "coprocess.gateways.tyk" not in sys.modules
from coprocess.testing import Dispatch, DispatchReply, Gateway, Result, SentRequest, Store
import coprocess.store
assert Store is coprocess.store.__class__
assert Gateway.__module__ == "coprocess.testing.gateway"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="Nothing"):
        coprocess.testing.Nothing  # noqa: B018 - the look-up is the test
