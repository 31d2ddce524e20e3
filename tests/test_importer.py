"""Bundles of the embedded driver, taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coprocess.api.moments import HookType
from coprocess.desk.tyk import importer
from coprocess.desk.tyk.bundle import BundleError, read_bundle, verify, zip_bytes
from coprocess.desk.tyk.doctor import Severity, examine, read_project
from coprocess.desk.tyk.importer import inspect_bundle, write_import
from coprocess.errors import ConfigError
from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.handler_files import bundle_names
from coprocess.process.config import Settings
from tests import forked


@pytest.fixture(autouse=True)
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that has imported all: for the one that tries a bundle."""
    forked.instead(importer, monkeypatch)


ROOT = Path(__file__).parents[1]
PRE = """from tyk.decorators import *
@Pre
def P(request, session, spec):
    {body}
    return request, session
"""


def make(folder: Path, files: dict[str, str], hooks: dict[str, Any] | None = None) -> Path:
    path = folder / "plug"
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    if hooks is not None:
        manifest = {"file_list": sorted(files), "custom_middleware": {**hooks, "driver": "python"}}
        (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_the_samples_work_unchanged(tmp_path: Path) -> None:
    files = {
        path.name: path.read_text()
        for folder in ("handlers", "event_handlers")
        for path in (ROOT / folder).glob("*.py")
        if "tyk.decorators" in path.read_text()
    }
    hooks = {
        "pre": [{"name": "MyPreMiddleware"}, {"name": "AppendHeader"}, {"name": "SetKeyOnRequest"}],
        "post": [{"name": "MyPreMiddleware", "path": "x", "require_session": True}],
        "auth_check": {"name": "MyAuthCheck"},
        "id_extractor": {"extract_from": "header", "extract_with": "value"},
    }
    bundle, report = inspect_bundle(make(tmp_path, files, hooks))

    assert report.concerns == []
    assert len(report.works) == 6
    assert report.events == ["my_handler"]

    out = tmp_path / "out"
    write_import(bundle, report, out)
    archive = read_bundle(out / "bundles" / "plug.zip")
    verify(archive)
    assert archive.manifest["custom_middleware"] == {
        **hooks,
        "post": [{"name": "MyPreMiddleware", "path": "", "require_session": True}],
        "driver": "grpc",
    }
    # The whole is what a server and a gateway can start with.
    project = read_project(
        Settings(handlers=[out / "handlers"]),
        conf=ROOT / "examples" / "tyk.conf.json",
        apis=[out / "apis"],
        bundles=[],
    )
    assert project.loaded.problems == []
    assert project.loaded.table.choose(HookType.Post, "MyPreMiddleware", "plug").name
    assert [each for each in examine(project) if each.severity is not Severity.NOTE] == []


def test_a_zip_is_taken_too_and_nothing_is_written_without_being_asked(tmp_path: Path) -> None:
    archive = tmp_path / "my plug.zip"
    archive.write_bytes(zip_bytes({"p.py": PRE.format(body="pass").encode()}))

    _, report = inspect_bundle(archive)

    assert report.name == "my-plug"
    assert report.works == ["p.py:2: P, as Pre"]
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        (PRE.format(body='print "x"'), 4, "Python 2 syntax"),
        ("try:\n    x = 1\nexcept ValueError, e:\n    pass\n", 3, "except Error as error"),
        ("import urllib2\n", 1, "urllib.request"),
        ("from ConfigParser import ConfigParser\n", 1, "configparser"),
        ("import no_such_module_here\n", 1, "not installed"),
        ("from tyk.nothing import X\n", 1, "no module tyk.nothing"),
        ("from tyk.session import Nothing\n", 1, "tyk.session has no Nothing"),
        ("from gateway import TykGateway as tyk\ndef f():\n    tyk.fly()\n", 3, "TykGateway has no fly"),
        (PRE.format(body='request.get_heder("x")'), 4, "the request has no get_heder"),
        (PRE.format(body='x = {}.has_key("y")'), 4, "`key in mapping`"),
        (PRE.format(body='x = unicode("y")'), 4, "Write str"),
        ("from tyk.decorators import *\n@Pre\ndef P(request, session):\n    pass\n", 2, "takes 2 arguments"),
        (
            "from tyk.decorators import *\n@Hook\ndef H(request, session, spec):\n    pass\n",
            2,
            "does not say when",
        ),
        ("raise SystemExit(3)\n", 1, "SystemExit"),
    ],
)
def test_what_needs_a_hand_is_said(source: str, line: int, says: str, tmp_path: Path) -> None:
    sound = PRE.format(body="pass").replace("def P", "def Q")
    _, report = inspect_bundle(make(tmp_path, {"bad.py": source, "good.py": sound}))

    (concern,) = report.concerns
    assert (concern.file, concern.line) == (Path("bad.py"), line)
    assert says in str(concern)
    # What is sound beside it works all the same.
    assert report.works == ["good.py:2: Q, as Pre"]


@pytest.mark.parametrize(
    "source",
    [
        PRE.format(body="import helper; from lib import x"),
        PRE.format(body="request.mine = 1; x = request.mine"),
        PRE.format(body='x = request.object.headers; y = request.url; request.add_header("a", "b")'),
        "from gateway import TykGateway as tyk\nimport tyk.request\nfrom tyk import session\n"
        + PRE.format(body='tyk.log("x", "info")'),
        "import coprocess_object_pb2\nfrom coprocess_session_state_pb2 import SessionState\n"
        + PRE.format(body="pass"),
    ],
)
def test_sound_code_needs_no_hand(source: str, tmp_path: Path) -> None:
    files = {"p.py": source, "helper.py": "", "vendor/lib/__init__.py": "x = 1\nprint('loaded')\n"}
    _, report = inspect_bundle(make(tmp_path, files))

    assert report.concerns == []
    assert len(report.works) == 1


def test_hooks_and_functions_that_do_not_match(tmp_path: Path) -> None:
    hooks = {"pre": [{"name": "P"}, {"name": "Gone"}], "post": [{"name": "P"}]}
    more = "\n@Post\ndef Other(request, session, spec):\n    pass\n"
    _, report = inspect_bundle(make(tmp_path, {"p.py": PRE.format(body="pass") + more}, hooks))

    told = sorted(map(str, report.concerns))
    assert len(told) == 3
    assert 'the Pre hook "Gone"' in told[1]
    assert 'the Post hook "P"' in told[0]
    assert "There is one for Pre" in told[0]
    assert "no manifest names the Post handler Other" in told[2]


def test_hook_with_5_arguments_is_a_response_hook_unless_a_manifest_says_otherwise(tmp_path: Path) -> None:
    code = (
        "from tyk.decorators import *\n@Hook\ndef H(request, response, session, metadata, spec):\n    pass\n"
    )
    _, report = inspect_bundle(make(tmp_path / "a", {"p.py": code}))
    assert report.works == ["p.py:2: H, as Response"]

    _, report = inspect_bundle(make(tmp_path / "b", {"p.py": code}, {"pre": [{"name": "H"}]}))
    assert report.works == ["p.py:2: H, as Pre"]
    assert report.concerns == []


def test_code_that_ends_or_holds_up_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = inspect_bundle(make(tmp_path / "a", {"p.py": "import os, sys\nos._exit(7)\n"}))
    assert "status 7" in str(report.concerns[0])

    monkeypatch.setattr(importer, "LOAD_TIMEOUT_S", 2.0)
    _, report = inspect_bundle(make(tmp_path / "b", {"p.py": "while True: pass\n"}))
    assert "did not end within 2 s" in str(report.concerns[0])


def test_the_bundle_stays_as_it_is(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nPath(__file__).write_text('')\nPath(__file__).with_name('new').touch()\n"
    )
    path = make(tmp_path, {"p.py": code})

    inspect_bundle(path)

    assert [each.name for each in path.iterdir()] == ["p.py"]
    assert (path / "p.py").read_text() == code


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    bundle, report = inspect_bundle(make(tmp_path, {"p.py": PRE.format(body="pass")}))
    (tmp_path / "out" / "apis").mkdir(parents=True)
    (tmp_path / "out" / "apis" / "plug.json").write_text("mine")

    with pytest.raises(ConfigError, match="is there already"):
        write_import(bundle, report, tmp_path / "out")
    assert (tmp_path / "out" / "apis" / "plug.json").read_text() == "mine"
    assert not (tmp_path / "out" / "handlers").exists()


def test_a_folder_without_python_is_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no Python files"):
        inspect_bundle(make(tmp_path, {"a.js": "x"}))


def test_the_written_handlers_are_loaded_as_a_bundle(tmp_path: Path) -> None:
    bundle, report = inspect_bundle(make(tmp_path, {"p.py": PRE.format(body="pass")}))
    write_import(bundle, report, tmp_path / "out")

    loaded = loader.load([tmp_path / "out" / "handlers"], HOME)
    (hook,) = loaded.table
    loaded.forget()
    assert hook.bundle == bundle_names("plug")
