"""The pytest fixture `kong`."""

from __future__ import annotations

from pathlib import Path

import pytest

from coprocess import respond
from coprocess.desk.kong.trial import plugin_servers
from coprocess.testing import Kong

# Inner runs have processes of their own: in this one, they would have the half of the package imported anew.
pytest_plugins = ["pytester"]

PLUGIN = """
Schema = [{"greeting": {"type": "string", "default": "hello"}}]

class Plugin:
    def __init__(self, config):
        self.greeting = config["greeting"]

    def access(self, kong):
        consumer, _ = kong.client.get_consumer()
        name = consumer["username"] if consumer else "you"
        kong.response.set_header("X-Greeting", f"{self.greeting} {name}")
        kong.ctx.shared.set("seen", True)

    def response(self, kong):
        body, _ = kong.service.response.get_raw_body()
        if body == b"down":
            kong.response.exit(503, {"message": "later"})
"""

TESTS = """
import pytest

from coprocess.testing import Kong


def test_greets(kong: Kong) -> None:
    result = kong.get("/x", headers={"A": "1"}, params={"q": "é"})
    assert result.ok
    assert result.headers["X-Greeting"] == "hello you"
    assert result.upstream.url == "/x?q=%C3%A9"
    assert result.upstream.headers["A"] == "1"
    assert result.shared == {"seen": True}
    assert [call.method for call in result.calls][0] == "kong.client.get_consumer"


def test_another_configuration_and_a_caller(kong: Kong) -> None:
    kong.configure({"greeting": "hej"})
    kong.consumer("ann")
    assert kong.get("/").headers["X-Greeting"] == "hej ann"
    kong.configure({"greeting": "ciao"})
    assert kong.get("/").headers["X-Greeting"] == "ciao ann"


def test_upstream(kong: Kong) -> None:
    kong.upstream = {"a": 1}
    assert kong.post("/", json={"b": 2}).json() == {"a": 1}
    from coprocess import respond
    kong.upstream = lambda request: respond(200, "down")
    result = kong.get("/")
    assert result.status == 503
    assert result.json() == {"message": "later"}


@pytest.mark.coprocess(config={"greeting": "salut"}, upstream=204)
def test_marked(kong: Kong) -> None:
    assert kong.get("/").status == 204
    assert kong.get("/").headers["X-Greeting"] == "salut you"


@pytest.mark.coprocess(config={"greting": "salut"})
def test_misspelt(kong: Kong) -> None:
    pass


@pytest.mark.coprocess(plugins="none.py")
def test_missing(kong: Kong) -> None:
    pass
"""


def test_a_project_with_kong_plugins(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n')
    (pytester.mkdir("plugins") / "hello.py").write_text(PLUGIN)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "coprocess", "-p", "anyio")
    result.assert_outcomes(passed=4, errors=2)
    assert "During handling" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*unknown field, at config.greting*", "*none.py*no such file*"])


NEEDS = """
Schema = [{"key": {"type": "string", "required": True}}]

class Plugin:
    def __init__(self, config):
        self.key = config["key"]

    def access(self, kong):
        if kong.request.get_header("X-Key")[0] != self.key:
            kong.response.exit(401)
"""
TESTS_OF_NEEDS = """
import pytest

from coprocess.testing import Kong


def test_configured(kong: Kong) -> None:
    kong.configure({"key": "k"})
    assert kong.get("/").status == 401
    assert kong.get("/", headers={"X-Key": "k"}).ok


def test_forgotten(kong: Kong) -> None:
    kong.get("/")


def test_refused(kong: Kong) -> None:
    kong.configure({"key": 5})


@pytest.mark.coprocess(config={})
def test_marked_as_empty(kong: Kong) -> None: ...
"""


def test_a_plugin_that_needs_a_configuration_may_be_given_it_in_the_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, each of its tests failed before it began, and nothing said what was expected."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (pytester.mkdir("plugins") / "needs.py").write_text(NEEDS)
    pytester.makepyfile(TESTS_OF_NEEDS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "coprocess", "-p", "anyio")
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*(required field missing, at config.key)*",
            "*(required field missing, at config.key). Expected: kong.configure({…}), or config={…} of the*",
            "*(expected a string, got a number, at config.key)*",
        ]
    )


NATIVE = """
from coprocess import Pre, Request, store

@Pre
def count(request: Request) -> None:
    request.headers["X-Count"] = str(store.increment("count"))
    if request.path == "/bad":
        raise ValueError("no such key")
"""

NATIVE_TESTS = """
import pytest

from coprocess.testing import Kong


@pytest.mark.coprocess(plugins="handlers")
def test_counts(kong: Kong, store) -> None:
    assert kong.get("/").upstream.headers["X-Count"] == "1"
    assert store.get("count") == b"1"


@pytest.mark.coprocess(plugins="handlers")
def test_bad(kong: Kong) -> None:
    assert kong.get("/bad").ok
"""


def test_native_handlers_have_a_store_and_a_failure_is_told(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (pytester.mkdir("handlers") / "count.py").write_text(NATIVE)
    pytester.makepyfile(NATIVE_TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "coprocess", "-p", "anyio")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*It raised ValueError: no such key*"])


EXITS = """
class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        status, _ = kong.request.get_header("X-Exit")
        if status:
            kong.response.exit(int(status), "body", {"X-A": "1"})
"""


@pytest.mark.parametrize("status", [204, 304])
def test_no_body_is_sent_after_a_status_that_has_none(tmp_path: Path, status: int) -> None:
    """Once, the simulator sent one: nginx, and so Kong, does not."""
    path = tmp_path / "exits.py"
    path.write_text(EXITS)
    with plugin_servers([path]) as servers:
        kong = Kong(servers, upstream=lambda request: respond(status, "body"))
        for headers in ({"X-Exit": str(status)}, {}):
            result = kong.get("/", headers=headers)
            assert (result.status, result.body) == (status, b"")
            assert ("Content-Length" in result.headers) <= (status == 304)
        assert kong.get("/", headers={"X-Exit": "200"}).body == b"body"
        kong.close()
