"""`coprocess doctor`, `bundle` and `import` as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coprocess.desk.tyk.doctor import RULES
from tests import forked
from tests.doctor_world import World

COPROCESS = str(Path(sys.executable).with_name("coprocess"))


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COPROCESS_")}
    return forked.run(
        [COPROCESS, *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_finding_is_shown_with_its_place_and_what_to_do(world: World) -> None:
    world.middleware["pre"].append({"name": "pree"})
    world.examine()

    done = run("doctor", cwd=world.folder)

    assert done.returncode == 1
    lines = (world.folder / "apis" / "one.json").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if '"pree"' in text)
    column = lines[line - 1].index('"pree"') + 1
    assert done.stdout == (
        f"apis/one.json:{line}:{column}: error [hook-unknown] custom_middleware.pre[3].name\n"
        '    No Pre handler "pree" is loaded. Near it: pre (@Pre).\n'
        "    At run time: Every request to the API is answered with 500, Middleware error.\n"
        "    To mend it: Correct the name, or write the handler: a function pree with @Pre.\n\n"
    )
    assert done.stderr.splitlines()[-1].endswith("examined: 1 error, 0 warnings, 0 notes")


def test_warnings_and_notes_are_no_failure(world: World) -> None:
    world.code["slow"] = "time.sleep(1)"
    world.code["old_pre"] = 'r.object.body = "x"'
    world.examine()

    done = run("doctor", cwd=world.folder)

    assert done.returncode == 0
    assert "0 errors, 1 warning, 1 note" in done.stderr


def test_json_and_sarif(world: World) -> None:
    world.middleware["pre"].append({"name": "pree"})
    world.code["slow"] = "time.sleep(1)"
    world.examine()

    done = run("doctor", "--json", "--sarif", "out.sarif", cwd=world.folder)

    assert done.returncode == 1
    content = json.loads(done.stdout)
    assert content["counts"] == {"error": 1, "warning": 1}
    found = {finding["rule"]: finding for finding in content["findings"]}
    assert found["hook-unknown"]["json_path"] == "custom_middleware.pre[3].name"
    assert found["handler-blocking-async"]["json_path"] is None

    log = json.loads((world.folder / "out.sarif").read_text())
    check_sarif(log)
    results = {result["ruleId"]: result for result in log["runs"][0]["results"]}
    assert results["hook-unknown"]["level"] == "error"
    location = results["hook-unknown"]["locations"][0]
    assert location["physicalLocation"]["artifactLocation"] == {"uri": "apis/one.json", "uriBaseId": "ROOT"}
    assert location["physicalLocation"]["region"]["startLine"] == found["hook-unknown"]["line"]
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "custom_middleware.pre[3].name"
    assert "Near it" in results["hook-unknown"]["message"]["text"]


def check_sarif(log: dict[str, Any]) -> None:
    """What SARIF 2.1.0 requires of the parts that are used here (its schema's `required` and patterns)."""
    assert log["version"] == "2.1.0"
    (run_,) = log["runs"]
    driver = run_["tool"]["driver"]
    assert driver["name"]
    assert driver["version"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert ids == list(RULES)
    assert len(ids) == len(set(ids))
    assert all(rule["shortDescription"]["text"].endswith(".") for rule in driver["rules"])
    assert run_["originalUriBaseIds"]["ROOT"]["uri"].startswith("file:///")
    assert run_["originalUriBaseIds"]["ROOT"]["uri"].endswith("/")
    for result in run_["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        for location in result["locations"]:
            physical = location["physicalLocation"]
            assert " " not in physical["artifactLocation"]["uri"]
            region = physical.get("region", {"startLine": 1})
            assert region["startLine"] >= 1
            assert region.get("startColumn", 1) >= 1


def test_a_sound_project_without_definitions(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "a.py").write_text("from coprocess import Pre\n@Pre\ndef a(): pass\n")

    done = run("doctor", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "")
    assert "0 definitions, 0 bundles, 1 handler examined" in done.stderr


@pytest.mark.parametrize("option", ["--conf", "--apis", "--bundles", "--handlers"])
def test_paths_that_do_not_exist(option: str, tmp_path: Path) -> None:
    done = run("doctor", option, "nowhere", cwd=tmp_path)

    assert done.returncode == 1
    assert "nowhere: no such" in done.stderr
    assert "Traceback" not in done.stderr


def test_bundle_commands(world: World) -> None:
    world.examine()
    handlers = world.folder / "one"
    handlers.mkdir()
    (handlers / "a.py").write_text("from coprocess import Pre\n@Pre\ndef a(): pass\n")

    built = run("bundle", "build", "one", cwd=world.folder)
    assert built.returncode == 0, built.stderr
    assert built.stdout == "one.zip: driver grpc, 0 files, not signed\nhooks: a\n"
    assert (
        run("bundle", "verify", "one.zip", cwd=world.folder).stdout
        == "one.zip: checksum is right; not signed\n"
    )

    broken = run("bundle", "verify", "one", cwd=world.folder)
    assert broken.returncode == 1
    assert broken.stderr == "coprocess: one: has no manifest.json\n"


def test_import_command(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    source = (
        "from tyk.decorators import *\n@Pre\ndef P(request, session, spec):\n    return request, session\n"
    )
    (tmp_path / "old" / "a.py").write_text(source)

    done = run("import", "old", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("old: works unchanged:\n    a.py:2: P, as Pre\nwritten: out/handlers/old\n")
    assert run("doctor", cwd=tmp_path / "out").returncode == 0

    (tmp_path / "old" / "b.py").write_text("import urllib2\n")
    done = run("import", "old", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "needs a hand:\n    b.py:1: urllib2 is Python 2's name. Import urllib.request instead\n"
        in done.stdout
    )
