"""`coprocess kong doctor`: each rule finds its fault, and a project without faults is left in peace."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coprocess.cli.app import app
from coprocess.desk.findings import FileFinding
from coprocess.desk.kong.doctor import RULES, examine
from coprocess.errors import ConfigError

GOOD = """
    Schema = ({"message": {"type": "string", "default": "hi"}},)
    version = "1.0.0"
    priority = 5

    class Plugin:
        def access(self, kong):
            host, err = kong.request.get_header("host")
            kong.response.set_header("X", host)
"""
MIXED = GOOD + "        if not kong.request.get_method():\n                pass\n"
COMMAND = GOOD.replace("host, err =", "host =").replace("kong.response", "_, err = kong.response")
MISSPELT = GOOD.replace("access", "rewrite") + "\n        def acess(self, kong): ...\n"
AWAITED = GOOD.replace("def access", "async def access").replace("= kong.request", "= await kong.request")
DUMP = {
    "Name": "hello",
    "Phases": ["access"],
    "Priority": 5,
    "Version": "1.0.0",
    "Schema": {
        "name": "hello",
        "fields": [{"config": {"type": "record", "fields": [{"message": {"type": "string"}}]}}],
    },
}
SERVE = f"{sys.executable} -m coprocess kong serve"
Examine = Callable[..., list[FileFinding]]


@pytest.fixture
def project(tmp_path: Path) -> Examine:
    """Examines a project like a good one, but for what a test says of it."""

    def examined(
        *,
        code: str = GOOD,
        dump: object = None,
        printed: str | None = None,
        conf: dict[str, str] | None = None,
        lines: str = "",
        declarative: object = None,
        flags: str = "",
        run: bool = True,
    ) -> list[FileFinding]:
        plugin = tmp_path / "hello.py"
        plugin.write_text(textwrap.dedent(code))
        text = json.dumps([dump or DUMP]) if printed is None else printed
        (tmp_path / "dump.txt").write_text(text)
        settings = {
            "plugins": "bundled,hello",
            "pluginserver_names": "hello",
            "pluginserver_hello_socket": f"{tmp_path}/hello.socket",
            "pluginserver_hello_start_cmd": f"{SERVE} {plugin} -p {tmp_path} {flags}",
            "pluginserver_hello_query_cmd": f"/bin/cat {tmp_path}/dump.txt",
            **(conf or {}),
        }
        path = tmp_path / "kong.conf"
        path.write_text("\n".join(f"{name} = {value}" for name, value in settings.items() if value) + lines)
        document = tmp_path / "kong.json"
        document.write_text(json.dumps(declarative or configured({"message": "a"})))
        return examine(path, document, [], run=run)

    return examined


def test_a_good_project_has_no_findings(project: Examine) -> None:
    assert project() == []


REWRITE = {**DUMP, "Phases": ["rewrite"]}


def configured(config: object, name: str = "hello") -> object:
    return {"plugins": [{"name": name, "config": config}]}


ROUTE = {"url": "http://a", "routes": [{"paths": ["/"], "plugins": [{"name": "hello"}]}]}


@pytest.mark.parametrize(
    ("rule", "changes", "told"),
    [
        ("conf-unreadable", {"lines": "\nnonsense\n"}, "no setting"),
        ("conf-unknown-setting", {"lines": "\npluginserver_Hello_socket = /x\n"}, "_Hello_socket"),
        ("conf-no-query-cmd", {"conf": {"pluginserver_hello_query_cmd": ""}}, "no query command"),
        ("conf-no-start-cmd", {"conf": {"pluginserver_hello_start_cmd": ""}}, "no start command"),
        ("conf-command", {"conf": {"pluginserver_hello_start_cmd": "/no/such"}}, "/no/such is not there"),
        ("conf-command", {"conf": {"pluginserver_hello_start_cmd": "./hello.py"}}, "no absolute path"),
        ("conf-command", {"conf": {"pluginserver_hello_start_cmd": "no-such-program -v"}}, "is not found"),
        ("conf-command", {"conf": {"pluginserver_hello_start_cmd": "'open"}}, "cannot be read as a command"),
        ("conf-environment", {"flags": "--name $NAME"}, "uses NAME"),
        ("conf-environment", {"flags": "--config ~/x"}, "uses ~"),
        ("conf-not-enabled", {"conf": {"plugins": "bundled"}}, "lacks 'hello'"),
        ("conf-not-enabled", {"conf": {"plugins": "bundled,Hello"}}, "calls itself 'hello'"),
        ("conf-not-enabled", {"conf": {"plugins": "bundled,hello,ghost"}}, "lists 'ghost', of which"),
        ("conf-not-enabled", {"conf": {"plugins": "cors,ghost"}, "printed": ""}, "lists 'ghost', of which"),
        ("conf-socket", {"conf": {"pluginserver_hello_socket": "/other/x.sock"}}, "/other/x.sock"),
        ("conf-socket", {"conf": {"pluginserver_hello_socket": f"/{'x' * 120}.sock"}}, "107 is the most"),
        ("conf-socket", {"flags": "--socket-name other"}, "/other"),
        ("dump-broken", {"printed": "warming up\n[]"}, "not one JSON value"),
        ("dump-broken", {"printed": ""}, "it is empty"),
        ("dump-broken", {"conf": {"pluginserver_hello_query_cmd": "/bin/echo oops >&2"}}, "It said: 'oops'"),
        ("dump-refused", {"dump": {**DUMP, "Priority": 1.5}}, "Priority is 1.5"),
        ("dump-refused", {"dump": {**DUMP, "Version": "1"}}, "Version is '1'"),
        ("dump-refused", {"printed": "{}"}, "expected a list with one plugin"),
        ("phase-never-runs", {"dump": {**DUMP, "Phases": ["acces"]}}, "no phase that Kong knows"),
        ("phase-never-runs", {"code": MISSPELT}, "acess is no phase of Kong's. Did you mean access?"),
        ("phase-never-runs", {"dump": REWRITE, "declarative": {"services": [ROUTE]}}, "rewrite"),
        ("phase-never-runs", {"dump": {**DUMP, "Phases": ["preread"]}}, "its protocols lack tcp"),
        ("phase-fatal", {"dump": {**DUMP, "Phases": ["access", "init_worker"]}}, "init_worker"),
        ("plugin-broken", {"code": "def ("}, "hello.py:1: "),
        ("method-unknown", {"code": GOOD.replace("set_header", "set_heder")}, "mean kong.response."),
        ("method-unknown", {"code": GOOD.replace("response.set", "set")}, "kong.set_header is no function"),
        ("style-mixed", {"code": MIXED}, "get_method"),
        ("style-wrong", {"code": GOOD.replace("host, err =", "host =")}, "taken as a value"),
        ("style-wrong", {"flags": "--no-lua-style"}, "--no-lua-style"),
        ("style-mixed", {"code": COMMAND, "flags": "--no-lua-style"}, "kong.response.set_header in line 9"),
        ("style-wrong", {"code": AWAITED}, "In an async phase it is the value alone"),
        ("config-refused", {"declarative": {"services": [{"nam": 1}]}, "printed": ""}, "services"),
        ("config-refused", {"declarative": configured({"other": 1})}, "unknown field"),
        ("config-refused", {"declarative": configured({"message": 5})}, "got a number"),
        ("config-unused", {"declarative": configured({"allow": ["a"]}, "acl")}, "nowhere"),
    ],
)  # fmt: skip
def test_it_finds(project: Examine, rule: str, changes: dict[str, object], told: str) -> None:
    found = [finding for finding in project(**changes) if finding.rule == rule]
    assert found, project(**changes)
    assert any(told in finding.problem for finding in found), found
    assert all(finding.effect and finding.remedy for finding in found)


@pytest.mark.parametrize(
    ("command", "rule", "remedy"),
    [
        (f"{sys.executable} -c 'import nowhere_to_be_found'", "dump-broken", "Install it"),
        ("/bin/sh -c 'nowhere_to_be_found x'", "dump-broken", "absolute path"),
        ("nowhere_to_be_found", "conf-command", "absolute path"),
        ("/bin/sh -c 'exit 3'", "dump-broken", "Run query_cmd yourself"),
    ],
)
def test_a_query_command_that_cannot_run_is_told_once_with_what_helps(
    project: Examine, command: str, rule: str, remedy: str
) -> None:
    """Once, all were told to print nothing, and one that is not found was told twice."""
    (found,) = project(conf={"pluginserver_hello_query_cmd": command})
    assert found.rule == rule
    assert remedy in found.remedy


def test_plugins_of_a_folder_are_read(project: Examine, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "hello.py").write_text(textwrap.dedent(GOOD))
    command = f"{SERVE} -d {folder} -p {tmp_path} --socket-name hello.socket --no-lua-style"
    (found,) = project(conf={"pluginserver_hello_start_cmd": command})
    assert found.rule == "style-wrong"
    assert str(folder / "hello.py") in str(found)


def test_a_script_without_its_executable_bit_or_first_line(project: Examine, tmp_path: Path) -> None:
    script = tmp_path / "other.py"
    script.write_text("pass\n")
    command = {"pluginserver_hello_start_cmd": str(script)}
    assert any("no executable bit" in finding.problem for finding in project(conf=command))
    script.chmod(0o755)
    assert any("does not begin with #!" in finding.problem for finding in project(conf=command))
    script.write_text("#!/no/python\n")
    assert any("/no/python, which is not there" in finding.problem for finding in project(conf=command))


def test_a_version_that_kong_refuses_is_told_from_the_code_alone(tmp_path: Path) -> None:
    """The doctor said that there is no error, and the plugin did not load."""
    path = tmp_path / "hello.py"
    path.write_text(textwrap.dedent(GOOD).replace('"1.0.0"', '"0.1"'))

    result = CliRunner().invoke(app, ["kong", "doctor", str(path)])

    assert result.exit_code == 1
    assert "version is '0.1'" in result.output


def test_a_phase_that_yields_is_told_from_the_code_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.py"
    path.write_text(
        "class Plugin:\n"
        "    def access(self, kong):\n"
        "        def each():\n"
        "            yield 1\n"
        "        return list(each()) and None\n"
        "    async def log(self, kong):\n"
        "        if kong:\n"
        "            yield\n"
    )
    (found,) = examine(None, None, [path])
    assert (found.rule, found.line) == ("phase-never-runs", 6)
    assert "log yields" in found.problem


@pytest.mark.parametrize(
    "lines",
    [
        "key = kong.request.get_header('x')\n            if key and key[0]: kong.log.info(key[0])",
        "key = kong.request.get_header('x')\n            value, problem = key",
        "key = kong.request.get_header('x')\n            if isinstance(key, tuple): key = key[0]",
        "kong.log.debug(f'asked for {kong.request.get_host()}{kong.request.get_path()}')",
        "print(f'{kong.request.get_method()}')",
        "unused = kong.request.get_method()",
    ],
)
def test_a_pair_that_is_taken_apart_later_is_no_value(project: Examine, lines: str) -> None:
    """Once, plugins that work were told to mix both styles, as an error."""
    assert project(code=f"{GOOD}            {lines}\n") == []


OF_ITS_OWN = """
    import kong_pdk.pdk.kong as kong

    class Plugin:
        def access(self, kong):
            kong.own = print
            kong.own("x")
            kong.log("x")
            kong.log.error("x")
            kong.call("kong.x.y")
            kong.log.inspect.on()
            kong.request.get_header("x")[0].nothing()

    def helper(k):
        k.response.anything()
"""


def test_what_is_no_kong_and_what_a_plugin_puts_there_are_no_unknown_methods(tmp_path: Path) -> None:
    path = tmp_path / "hello.py"
    path.write_text(textwrap.dedent(OF_ITS_OWN))
    assert examine(None, None, [path]) == []
    path.write_text(
        textwrap.dedent(OF_ITS_OWN).replace("def access(self, kong)", "def access(self, k, kong=None)")
    )
    assert examine(None, None, [path]) == []


def test_values_are_right_with_no_lua_style_and_async(project: Examine) -> None:
    code = GOOD.replace("host, err =", "host =")
    assert project(code=code, flags="--no-lua-style") == []
    awaited = code.replace("def access", "async def access").replace(
        "kong.request.get", "await kong.request.get"
    )
    assert project(code=awaited) == []


def test_nothing_is_run_where_that_is_not_wanted(project: Examine, tmp_path: Path) -> None:
    conf = {"pluginserver_hello_query_cmd": f"/usr/bin/touch {tmp_path}/ran"}
    project(conf=conf, run=False)
    assert not (tmp_path / "ran").exists()
    project(conf=conf)
    assert (tmp_path / "ran").exists()


def test_the_command_and_its_exit_status(project: Examine, tmp_path: Path) -> None:
    project()
    arguments = ["kong", "doctor", "--conf", str(tmp_path / "kong.conf")]
    good = CliRunner().invoke(app, arguments)
    assert good.exit_code == 0, good.output
    (tmp_path / "dump.txt").write_text("[]")
    log = tmp_path / "doctor.sarif"
    bad = CliRunner().invoke(app, [*arguments, "--json", "--sarif", str(log)])
    assert bad.exit_code == 1
    assert json.loads(log.read_text())["runs"][0]["results"][0]["ruleId"] == "dump-refused"
    assert json.loads(bad.stdout)["findings"][0]["rule"] == "dump-refused"
    assert CliRunner().invoke(app, ["kong", "doctor", "--conf", str(tmp_path / "none")]).exit_code == 1


def test_a_missing_library_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was a finding: that Kong does not start, and that the file is to be mended."""
    (tmp_path / "kong.yml").write_text('_format_version: "3.0"\n')
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match="YAML needs PyYAML"):
        examine(None, tmp_path / "kong.yml", [])


def test_the_page_tells_every_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kong-desk.md").read_text()
    for rule in RULES:
        assert f"`{rule}`" in page, rule
