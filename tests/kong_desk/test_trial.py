"""Plugins at the simulated Kong: `coprocess kong try` and what it shows."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coprocess.cli.app import app
from coprocess.desk.kong.trial import Trial, TrialKong, plugin_servers
from coprocess.errors import ConfigError, CoprocessError
from coprocess.process.redaction import redact_text


def tried(folder: Path, code: str, *arguments: str) -> Result:
    path = folder / "plugin.py"
    path.write_text(textwrap.dedent(code))
    return CliRunner().invoke(app, ["kong", "try", str(path), *arguments])


def shown(folder: Path, code: str, *arguments: str) -> Any:
    result = tried(folder, code, *arguments, "--json")
    return json.loads(result.stdout)


GUARD = """
Schema = [{"key": {"type": "string", "required": True}}]

class Plugin:
    def __init__(self, config):
        self.key = config["key"]

    def access(self, kong):
        print("looking")
        key, err = kong.request.get_header("X-Key")
        if key != self.key:
            kong.response.exit(401, {"message": "no"}, {"WWW-Authenticate": "Key"})
            kong.log.err("never")
        kong.service.request.set_header("X-User", "u1")

    def log(self, kong):
        kong.log.notice("status ", kong.response.get_status()[0])
"""


def test_a_request_that_passes(tmp_path: Path) -> None:
    arguments = ["GET", "/a?b=1", "-H", "X-Key: k", "--config", '{"key": "k"}', "--upstream", "201"]
    trial = shown(tmp_path, GUARD, *arguments)
    assert trial["ok"]
    assert trial["response"]["status"] == 201
    assert ["X-User", "u1"] in trial["upstream"]["headers"]
    assert trial["upstream"]["target"] == "/a?b=1"
    assert [run["phase"] for run in trial["runs"]] == ["start", "access", "log"]
    assert trial["runs"][1]["output"] == ["looking"]
    assert trial["calls"][0] == {
        "plugin": "plugin",
        "phase": "access",
        "method": "kong.request.get_header",
        "args": ["X-Key"],
        "result": "k",
        "error": None,
    }
    assert trial["log"] == [{"level": "notice", "plugin": "plugin", "text": "status 201"}]


def test_one_that_is_refused_as_text(tmp_path: Path) -> None:
    result = tried(tmp_path, GUARD, "POST", "/", "-d", "x", "--config", '{"key": "k"}')
    assert result.exit_code == 0, result.output
    assert "client gets 401 Unauthorized" in result.output
    assert "upstream  was not asked" in result.output
    assert "WWW-Authenticate: Key" in result.output
    assert "never" not in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["GET", "/"], "required field missing, at config.key"),
        (["GET", "/", "--config", '{"key": 5}'], "expected a string, got a number, at config.key"),
        (["GET", "/", "--config", '{"key": "k", "x": 1}'], "unknown field, at config.x"),
        (["GET", "/", "--config", "{"], "--config: not JSON"),
        (["GET", "no-slash", "--config", '{"key": "k"}'], "begins with a slash"),
        (["GET", "/", "--config", '{"key": "k"}', "--upstream", "99"], "--upstream 99"),
    ],
)
def test_what_kong_refuses_is_told(tmp_path: Path, arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        CliRunner().invoke(app, ["kong", "try", _written(tmp_path), *arguments], catch_exceptions=False)


def test_what_kong_refuses_of_a_secret_field_is_not_redacted(tmp_path: Path) -> None:
    """It was "config.secret: [redacted] field missing": the text of the error was taken for the secret."""
    path = Path(_written(tmp_path))
    path.write_text(path.read_text().replace('"key"', '"secret"'))
    with pytest.raises(ConfigError) as refused:
        CliRunner().invoke(app, ["kong", "try", str(path), "GET", "/"], catch_exceptions=False)
    assert "required field missing, at config.secret" in redact_text(str(refused.value))


def test_a_folder_in_the_place_of_a_plugin_is_named_as_one(tmp_path: Path) -> None:
    """It was told that there is no such file."""
    with pytest.raises(CoprocessError, match=r"a folder\. Expected: a plugin's Python file"):
        CliRunner().invoke(app, ["kong", "conf", str(tmp_path)], catch_exceptions=False)


def test_an_attribute_set_on_shared_names_set(tmp_path: Path) -> None:
    """It was "object has no attribute 'user'", as if it could have one."""
    code = """
    class Plugin:
        def __init__(self, config): ...

        def access(self, kong):
            kong.ctx.shared.user = 1
    """
    result = tried(tmp_path, code, "GET", "/")
    assert result.exit_code == 1
    assert "kong.ctx.shared.user cannot be set. Expected: kong.ctx.shared.set('user', …)" in result.output


def _written(folder: Path) -> str:
    path = folder / "plugin.py"
    path.write_text(textwrap.dedent(GUARD))
    return str(path)


INIT = "def __init__(self, config):\n    "
ACCESS = "def access(self, kong):\n    "


def body(code: str) -> str:
    """A plugin with these methods."""
    made = code if "__init__" in code else f"{INIT}pass\n{code}"
    return "class Plugin:\n" + textwrap.indent(made, "    ")


@pytest.mark.parametrize(
    ("code", "rule", "status"),
    [
        ("def access(self, kong):\n    raise ValueError('ouch')", "plugin-raised", 500),
        (f"{INIT}raise ValueError('ouch')\ndef access(self, kong): pass", "plugin-raised", 500),
        ("def access(self, kong):\n    kong.request.get_header(5)", "pdk-raised", 500),
        ("def access(self, kong):\n    kong.response.get_status()", "pdk-raised", 500),
        ("def access(self, kong):\n    kong.service.set_tls_cert_key('a', 'b')", "pdk-raised", 500),
        ("def log(self, kong):\n    kong.request.get_method()", "pdk-raised", 200),
        (f"{ACCESS}kong.response.exit(405, None, {{'Allow': 'GET'}})", "exit-loses-headers", 405),
        ("def access(self, kong):\n    kong.response.set_status(201)", "status-not-kept", 200),
        (f"{ACCESS}kong.response.set_headers({{'X': {{'a': 1}}}})", "header-lost", 200),
    ],
)  # fmt: skip
def test_findings(tmp_path: Path, code: str, rule: str, status: int) -> None:
    trial = shown(tmp_path, body(code), "GET", "/")
    assert [finding["rule"] for finding in trial["findings"]] == [rule]
    assert trial["response"]["status"] == status


def test_a_long_body_is_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 65536)
    code = body("def access(self, kong):\n    kong.request.get_raw_body()")
    trial = shown(tmp_path, code, "POST", "/", "-d", f"@{tmp_path}/long")
    assert trial["response"]["status"] == 500
    assert "get_raw_body(0)" in trial["findings"][0]["remedy"]
    code = body("def access(self, kong):\n    kong.log.notice(len(kong.request.get_raw_body(0)[0]))")
    assert shown(tmp_path, code, "POST", "/", "-d", f"@{tmp_path}/long")["log"][0]["text"] == "65536"


def test_all_phases_in_order_also_of_the_handshake(tmp_path: Path) -> None:
    phases = ("certificate", "rewrite", "access", "response", "log")
    code = body("\n".join(f"def {phase}(self, kong):\n    kong.log.notice('{phase}')" for phase in phases))
    trial = shown(tmp_path, code, "GET", "https://shop.test/x")
    assert [line["text"] for line in trial["log"]] == list(phases)
    assert [line["text"] for line in shown(tmp_path, code, "GET", "/x")["log"]] == list(phases[1:])


def test_several_plugins_by_priority_share_a_context(tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(
        "priority = 10\n" + body("def access(self, kong):\n    kong.ctx.shared.set('n', [1, None, 2.5])")
    )
    second.write_text(body("def access(self, kong):\n    kong.log.notice(str(kong.ctx.shared.get('n')[0]))"))
    result = CliRunner().invoke(app, ["kong", "try", str(second), "GET", "/", "--with", str(first), "--json"])
    trial = json.loads(result.stdout)
    assert [run["plugin"] for run in trial["runs"] if run["phase"] == "access"] == ["first", "second"]
    assert trial["log"][0]["text"] == "{1: 1, 3: 2.5}"


def test_a_declarative_configuration_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "kong.yml").write_text(
        "_format_version: '3.0'\nservices:\n- url: http://shop.test:81/base\n  routes:\n  - paths: [/shop]\n"
        "    plugins:\n    - name: plugin\n      config: {key: k}\n"
    )
    arguments = ["-H", "X-Key: k", "--declarative", str(tmp_path / "kong.yml")]
    trial = shown(tmp_path, GUARD, "GET", "/shop/x%20y", *arguments)
    assert trial["upstream"]["target"] == "/base/x%20y"
    assert ["Host", "shop.test:81"] in trial["upstream"]["headers"]
    other = shown(tmp_path, GUARD, "GET", "/other", *arguments)
    assert other["response"]["status"] == 404
    assert not other["runs"]


def test_plugins_beside_that_the_configuration_names_are_taken(tmp_path: Path) -> None:
    """Once, they had to be given by --with, and nothing said so."""
    plugin = "class Plugin:\n    def __init__(self, config): ...\n    def access(self, kong): ...\n"
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}.py").write_text(plugin)
    arguments = ["kong", "try", str(tmp_path / "first.py"), "GET", "/", "--json", "--declarative"]
    document = tmp_path / "kong.json"
    service = {"url": "http://a", "routes": [{"paths": ["/"]}]}
    document.write_text(
        json.dumps({"services": [service], "plugins": [{"name": "first"}, {"name": "third"}]})
    )
    trial = json.loads(CliRunner().invoke(app, [*arguments, str(document)]).stdout)
    assert {run["plugin"] for run in trial["runs"]} == {"first", "third"}
    document.write_text(json.dumps({"services": [service], "plugins": [{"name": "fourth"}]}))
    assert "--with FILE" in str(CliRunner().invoke(app, [*arguments, str(document)]).exception)


def test_bytes_that_are_no_utf8_reach_the_plugin(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(
        body(
            "def access(self, kong):\n"
            "    kong.response.set_header('X-Seen', ascii(kong.request.get_query_arg('q')[0]))"
        )
    )
    with plugin_servers([path]) as servers:
        kong = TrialKong(servers)
        trial: Trial = kong.request("GET", "/?q=%E9")
        kong.close()
    assert trial.ok
    assert trial.exchange.response is not None
    assert trial.exchange.response.headers.get(b"X-Seen") == b"'\\udce9'"


def test_a_path_is_sent_in_the_bytes_that_were_typed(tmp_path: Path) -> None:
    """Once, what Latin-1 has was one byte of it, and all else was no target."""
    path = tmp_path / "plugin.py"
    path.write_text(
        body(
            "def access(self, kong):\n    kong.response.exit(200, ascii(kong.request.get_query_arg('q')[0]))"
        )
    )
    result = CliRunner().invoke(app, ["kong", "try", str(path), "GET", "/?q=é€", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["response"]["body"] == ascii("é€")


def test_without_its_server_a_known_instance_lets_requests_by_and_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(body("def access(self, kong):\n    kong.response.exit(403, 'guarded')"))
    with plugin_servers([path]) as servers:
        kong = TrialKong(servers)
        assert kong.request("GET", "/").status == 403
    trial = kong.request("GET", "/")
    kong.close()
    assert trial.status == 200
    assert not trial.ok
    assert trial.findings[0].rule == "fail-open"


HANDLERS = """
from coprocess import CustomKeyCheck, Pre, Reject, Request, Session

@Pre
def stamp(request: Request) -> None:
    request.headers["X-Stamp"] = "1"

@CustomKeyCheck
def key(request: Request, session: Session) -> None:
    if request.headers.get("Authorization") != "k":
        raise Reject(401, "no key")
    session.allow("caller")
"""


def test_a_folder_of_native_handlers(tmp_path: Path) -> None:
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "auth.py").write_text(HANDLERS)
    with plugin_servers([folder]) as servers:
        kong = TrialKong(servers, configs={"handlers": {"pre": ["stamp"], "auth_check": ["key"]}})
        assert kong.request("GET", "/").status == 401
        passed = kong.request("GET", "/", [("Authorization", "k")])
        kong.close()
    assert passed.status == 200
    assert passed.exchange.sent is not None
    assert passed.exchange.sent.headers.get(b"X-Stamp") == b"1"
    assert passed.exchange.credential == {b"id": b"caller"}


FAILING = """
from coprocess import Pre, Request, store

@Pre
async def guard(request: Request) -> None:
    print("looking")
    raise ValueError("no such key")

@Pre
def count(request: Request) -> None:
    request.headers["X-Count"] = str(store.increment("count"))
"""


def handlers_tried(folder: Path, chain: str, *arguments: str) -> Result:
    handlers = folder / "handlers"
    handlers.mkdir(exist_ok=True)
    (handlers / "guard.py").write_text(FAILING)
    config = json.dumps({"pre": [chain]})
    return CliRunner().invoke(app, ["kong", "try", str(handlers), "GET", "/", "--config", config, *arguments])


def test_a_native_handler_that_fails_is_shown(tmp_path: Path) -> None:
    result = handlers_tried(tmp_path, "guard")
    assert result.exit_code == 1
    assert re.search(r'Pre "guard"  [\d.]+ ms  failed  \S+guard\.py:4', result.stdout)
    assert "ValueError: no such key" in result.stdout
    assert re.search(r"It raised ValueError: no such key \(at\s+\S+guard\.py:7\)", result.stdout)


def test_what_an_async_native_handler_prints_is_its_own(tmp_path: Path) -> None:
    result = handlers_tried(tmp_path, "guard", "--json")
    trial = json.loads(result.stdout)
    [handler] = trial["runs"][1]["handlers"]
    assert (handler["name"], handler["output"]) == ("guard", ["looking"])
    assert [(each["rule"], each["hook"]) for each in trial["findings"]] == [("handler-failed", "guard")]


def test_native_handlers_have_a_store_here(tmp_path: Path) -> None:
    result = handlers_tried(tmp_path, "count", "--json")
    trial = json.loads(result.stdout)
    assert trial["ok"], trial
    assert ["X-Count", "1"] in trial["upstream"]["headers"]


@pytest.mark.parametrize("function", ["def", "async def"])
def test_a_handler_of_an_event_that_fails_is_shown(tmp_path: Path, function: str) -> None:
    """Once, the trial said that all was well."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    source = f"{function} heard(event):\n    print('heard it')\n    raise RuntimeError('not now')\n"
    (folder / "events.py").write_text(f"from coprocess import Event\n\n@Event\n{source}")
    configuration = json.dumps({"events": {"Log": ["heard"]}})
    result = CliRunner().invoke(app, ["kong", "try", str(folder), "GET", "/", "--config", configuration])
    assert result.exit_code == 1
    for text in ('✗ Event "heard"', "It raised RuntimeError: not now", "| heard it", "change no request"):
        assert text in result.output
