"""`coprocess import`: servers of one's own, shared state, missing modules, the doctor's rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coprocess.desk.tyk.doctor import Severity
from coprocess.desk.tyk.importer import Report, inspect_bundle
from tests.test_importer import PRE, copies, make

__all__ = ["copies"]  # A fixture of each test here.

_SERVER = """import grpc
import coprocess_object_pb2_grpc as rpc
from coprocess_common_pb2 import Pre, CustomKeyCheck
class Mine(rpc.DispatcherServicer):
    def Dispatch(self, object, context):
        {body}
        return object
"""


def report_of(folder: Path, files: dict[str, str], hooks: dict[str, object] | None = None) -> Report:
    return inspect_bundle(make(folder, files, hooks))[1]


def told(report: Report) -> list[str]:
    return [str(concern) for concern in report.concerns]


_AUTH_A = "@CustomKeyCheck def A(request, session, metadata, spec)"
_SELF = '    def __init__(self): self.hooks = {"FromSelf": 1}\n'
_ROUTE = 'def route(call):\n    if call.hook_name == "FromRoute": pass\n'
_BY_TYPE = 'if object.hook_type == CustomKeyCheck:\n            if object.hook_name == "A": pass'
_TOGETHER = 'match object.hook_name, object.hook_type:\n            case "A", 5: pass'


@pytest.mark.parametrize(
    ("body", "more", "functions"),
    [
        ('if object.hook_name == "A": pass', "", ["@Pre (or"]),
        ('if "A" == object.hook_name and object.hook_type == 4: pass', "", [_AUTH_A]),
        (_BY_TYPE, "", [_AUTH_A]),
        ('if object.hook_name in ("A", "B"): pass', "", ["def A(request, session, spec)", "def B("]),
        ('name = object.hook_name\n        if name == "A": pass', "", ["def A("]),
        ('match object.hook_name:\n            case "A" | "B": pass', "", ["def A(", "def B("]),
        (_TOGETHER, "", ["@Response def A(request, response,"]),
        ('return {"A": len, "B": len}[object.hook_name](object)', "", ["def A(", "def B("]),
        ('return {"A": len}.get(object.hook_name)(object)', "", ["def A("]),
        ("if object.hook_name in HOOKS: pass", 'HOOKS = {"FromTable": 1}\n', ["def FromTable("]),
        ("return self.hooks[object.hook_name](object)", _SELF, ["def FromSelf("]),
        (
            "return getattr(self, object.hook_name)(object)",
            "    def by_name(self, o): pass\n",
            ["def by_name("],
        ),
        ("return route(object)", _ROUTE, ["def FromRoute("]),
    ],
)
def test_the_hooks_of_a_hand_written_server_are_listed(
    body: str, more: str, functions: list[str], tmp_path: Path
) -> None:
    report = report_of(tmp_path, {"server.py": _SERVER.format(body=body) + more})

    first, *rest = told(report)
    assert first.startswith("server.py:4: Mine is a gRPC server of its own")
    assert "Split its Dispatch" in first
    # What it stands on goes with it: nothing is said of grpc or of generated modules.
    assert all(line.startswith("server.py:") and "Write each as a function" in line for line in rest)
    for function in functions:
        assert any(function in line for line in rest), rest


def test_a_manifest_tells_when_the_hooks_of_a_server_run(tmp_path: Path) -> None:
    source = _SERVER.format(body='if object.hook_name == "A": pass')

    report = report_of(tmp_path, {"s.py": source}, {"post": [{"name": "A"}]})

    assert [line.partition(": ")[0] for line in told(report)] == ["s.py:4", "s.py:6"]
    assert "@Post def A(request, session, spec)" in told(report)[1]


def test_a_class_that_is_no_server(tmp_path: Path) -> None:
    source = "class Bus:\n    def Dispatch(self, event):\n        pass\n" + PRE.format(body="pass")

    assert told(report_of(tmp_path, {"p.py": source})) == []


TWO = """from tyk.decorators import *
{top}
@Pre
def First(request, session, spec):
    {first}
    return request, session
@Post
def Second(request, session, spec):
    {second}
    return request, session
"""


@pytest.mark.parametrize(
    ("top", "first", "second", "name"),
    [
        ("N = 0", "global N; N += 1", "print(N)", "N"),
        ("N = None", "global N; N = request.url", "print(N)", "N"),
        ("CACHE = {}", "CACHE['x'] = 1", "print(CACHE)", "CACHE"),
        ("SEEN = []", "SEEN.append(1)", "len(SEEN)", "SEEN"),
        ("class C: pass\nSTATE = C()", "STATE.user = 1", "print(STATE.user)", "STATE"),
        ("import state", "state.user = 1", "print(state.user)", "user"),
        ("from state import user", "user.update(a=1)", "print(user)", "user"),
        ("D = {}\ndef keep(v):\n    D['v'] = v", "keep(1)", "print(D['v'])", "D"),
        ("D = {}", "del D['x']", "print(D)", "D"),
    ],
)
def test_state_that_hooks_share_is_told(top: str, first: str, second: str, name: str, tmp_path: Path) -> None:
    source = TWO.format(top=top, first=first, second=second)

    (concern,) = told(report_of(tmp_path, {"p.py": source, "state.py": "user = {}\n"}))

    assert f"{name} is changed by First and shared by First, Second" in concern
    assert "--workers" in concern


@pytest.mark.parametrize(
    ("top", "first", "second"),
    [
        ("LIMIT = 5", "print(LIMIT)", "print(LIMIT)"),
        ("CACHE = {}", "CACHE['x'] = 1", "pass"),
        ("N = 0", "N = 1; print(N)", "print(N)"),
        ("def helper(x): return x", "helper(1)", "helper(2)"),
    ],
)
def test_what_hooks_do_not_share_is_not_told(top: str, first: str, second: str, tmp_path: Path) -> None:
    assert told(report_of(tmp_path, {"p.py": TWO.format(top=top, first=first, second=second)})) == []


def test_shared_state_is_told_where_it_is_changed_first(tmp_path: Path) -> None:
    """Which of several lines was told changed from run to run, with the hash of names."""
    first = SHARED_BY_MANY.index("COUNT['x']")
    line = SHARED_BY_MANY[:first].count("\n") + 1
    plugin = make(tmp_path, {"p.py": SHARED_BY_MANY}, {"pre": [{"name": f"Hook{n}"} for n in range(6)]})
    for seed in ("1", "2", "3", "4"):
        ran = subprocess.run(
            [sys.executable, "-m", "coprocess", "import", str(plugin)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"p.py:{line}: COUNT is changed by" in ran.stdout
        # All of them run, as they are: it is what they share that is told.
        assert "no handler works" not in ran.stdout


SHARED_BY_MANY = "from tyk.decorators import *\nCOUNT = {}\n" + "".join(
    f"@Hook\ndef Hook{n}(request, session, spec):\n    COUNT['x'] = {n}\n    return request, session\n"
    for n in range(6)
)


def test_state_on_self_is_told(tmp_path: Path) -> None:
    body = "self.last = object.request\n        print(self.last)"

    lines = told(report_of(tmp_path, {"s.py": _SERVER.format(body=body)}))

    assert any(line.startswith("s.py:6: calls change self.last and read it (line 7)") for line in lines)


def test_a_missing_module_is_one_line(tmp_path: Path) -> None:
    files = {
        "a.py": "import no_such_module\nimport no_such_module.part\n",
        "b.py": "import a\n",
        "c.py": "from no_such_module import x\n",
    }

    (line,) = told(report_of(tmp_path, files))

    assert line.startswith("a.py:1: the module no_such_module is not installed (also for ")
    assert "c.py:1" in line


def test_a_module_of_python_2_is_told_where_it_is_and_not_where_it_is_wanted(tmp_path: Path) -> None:
    (line,) = told(report_of(tmp_path, {"a.py": "import urllib2\n", "b.py": "import a\n"}))

    assert line.startswith("a.py:1: urllib2 is Python 2's name")


def test_the_doctors_rules_are_run(tmp_path: Path) -> None:
    source = PRE.format(body='request.object.headers["X"] = "1"')

    report = report_of(tmp_path, {"p.py": source})

    (finding,) = report.findings
    assert (finding.severity, finding.rule) == (Severity.ERROR, "handler-edit-ignored")
    assert (finding.file, finding.line) == (Path("p.py"), 4)
    # It runs all the same.
    assert (report.works, report.concerns) == (["p.py:2: P, as Pre"], [])


def test_the_doctors_rules_know_when_a_manifest_has_a_hook_run(tmp_path: Path) -> None:
    source = PRE.format(body='session.alias = "x"').replace("@Pre", "@Hook")

    of_post = report_of(tmp_path / "a", {"p.py": source}, {"post": [{"name": "P"}]})
    of_auth = report_of(tmp_path / "b", {"p.py": source}, {"auth_check": {"name": "P"}})

    assert [finding.rule for finding in of_post.findings] == ["handler-session-edit"]
    assert [finding.rule for finding in of_auth.findings] == ["auth-no-token"]
