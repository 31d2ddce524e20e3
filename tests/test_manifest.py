"""Which files of a folder and of a bundle are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coprocess.desk.tyk.bundle import BundleError, read_bundle
from coprocess.desk.tyk.bundle_build import build
from coprocess.desk.tyk.importer import inspect_bundle, write_import
from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from tests.conftest import Load
from tests.loading import good, hook_names, problem_of, reply_of, set_headers, write

HOOK = """
from tyk.decorators import *

@Pre
def {name}(request, session, spec):
    request.add_header("X-Ran", "{name}")
    return request, session
"""
REFUSES_EVERYTHING = HOOK.format(name="P").replace("return request", "raise SystemExit\n    return request")
RUNS_AT_LOAD = "raise SystemExit('it was run')\n"


def hook(name: str) -> str:
    return HOOK.format(name=name)


def manifest(*files: str, **more: Any) -> str:
    return json.dumps(
        {"file_list": files, "custom_middleware": {"pre": [{"name": "P"}], "driver": "python"}, **more}
    )


def test_only_the_entry_file_of_a_bundle_and_what_it_imports_are_run(load: Load, tmp_path: Path) -> None:
    files = {
        "plug/manifest.json": manifest("middleware.py", "helper.py", "lib/deep.py"),
        "plug/middleware.py": "import helper\nfrom lib.deep import VALUE\n" + hook("P"),
        "plug/helper.py": hook("InHelper"),
        "plug/lib/deep.py": "VALUE = 1",
        "plug/middleware-old.py": REFUSES_EVERYTHING,
        "plug/test_middleware.py": RUNS_AT_LOAD,
        "plug/conftest.py": RUNS_AT_LOAD,
        "plug/setup.py": RUNS_AT_LOAD,
        "plug/scratch.py": RUNS_AT_LOAD,
        "plug/package/__init__.py": RUNS_AT_LOAD,
    }
    table = good(load(write(tmp_path, files)))

    assert hook_names(table) == ["Pre InHelper", "Pre P"]
    assert set_headers(reply_of(table, "P")) == {"X-Ran": "P"}


def test_single_file_is_the_entry_whatever_it_is_called(load: Load, tmp_path: Path) -> None:
    files = {"manifest.json": manifest("./my-auth.py"), "my-auth.py": hook("P"), "old.py": RUNS_AT_LOAD}

    assert hook_names(good(load(write(tmp_path, files)))) == ["Pre P"]


def test_entry_in_a_folder_of_the_bundle(load: Load, tmp_path: Path) -> None:
    files = {"manifest.json": manifest("src/plug.py"), "src/plug.py": hook("P"), "src/old.py": RUNS_AT_LOAD}

    assert hook_names(good(load(write(tmp_path, files)))) == ["Pre P"]


def test_several_files_without_a_middleware_py_are_run_as_listed(load: Load, tmp_path: Path) -> None:
    files = {
        "manifest.json": manifest("a.py", "b.py", "config.yaml", "test_a.py", "lib/c.py"),
        "a.py": hook("A"),
        "b.py": hook("B"),
        "lib/c.py": RUNS_AT_LOAD,
        "test_a.py": RUNS_AT_LOAD,
        "old.py": RUNS_AT_LOAD,
    }

    assert hook_names(good(load(write(tmp_path, files)))) == ["Pre A", "Pre B"]


@pytest.mark.parametrize("text", [manifest(), "{}", '{"file_list": null}', manifest("config.yaml")])
def test_manifest_that_lists_no_modules_runs_all_but_tests(load: Load, tmp_path: Path, text: str) -> None:
    files = {"manifest.json": text, "a.py": hook("A"), "test_a.py": RUNS_AT_LOAD, "config.yaml": ""}

    assert hook_names(good(load(write(tmp_path, files)))) == ["Pre A"]


@pytest.mark.parametrize(
    "name",
    [
        "test_handlers.py",
        "handlers_test.py",
        "conftest.py",
        "setup.py",
        "noxfile.py",
        "tests.py",
        "fabfile.py",
        "__main__.py",
        "tests/__init__.py",
    ],
)
def test_tests_and_scripts_of_tools_are_not_run(load: Load, tmp_path: Path, name: str) -> None:
    files = {"handlers.py": hook("P"), name: RUNS_AT_LOAD}

    loaded = load(write(tmp_path, files))

    assert hook_names(good(loaded)) == ["Pre P"]
    assert loaded.left_out == []


def test_handlers_may_still_import_what_is_not_run(load: Load, tmp_path: Path) -> None:
    files = {"handlers.py": "import test_data\n" + hook("P"), "test_data.py": hook("Q")}

    loaded = load(write(tmp_path, files))

    assert hook_names(good(loaded)) == ["Pre P", "Pre Q"]
    assert loaded.left_out == []


def test_hooks_in_a_file_that_is_not_run_are_told(load: Load, tmp_path: Path) -> None:
    files = {
        "test_auth.py": "import coprocess\n@coprocess.Pre(name='x')\nasync def f(): pass\n",
        "plug/manifest.json": manifest("middleware.py", "other.py"),
        "plug/middleware.py": hook("P"),
        "plug/other.py": hook("Other"),
        "plug/middleware-old.py": hook("P"),
    }

    loaded = load(write(tmp_path, files))

    assert loaded.left_out == [
        f"{tmp_path}/plug/other.py: declares hooks and is not run: manifest.json has middleware.py run, "
        "and what that imports",
        f"{tmp_path}/test_auth.py: declares hooks and is not run: its name is that of a test or a tool's "
        "script; rename it",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "manifest.json: not JSON, so which files to run is not known"),
        ("[]", "manifest.json: not a JSON object"),
        ('{"file_list": "middleware.py"}', "manifest.json: file_list is not a list of file names"),
        (manifest("middleware.py", "gone.py"), "manifest.json: file_list has middleware.py, which is not in"),
        (manifest("../good/handlers.py"), "file_list has ../good/handlers.py, which leads out of it"),
        (manifest(f"{'a' * 5000}.py"), "which is not in the folder"),  # It ended the whole load.
    ],
)
def test_bundle_whose_entry_is_not_known_is_not_run(load: Load, tmp_path: Path, text: str, says: str) -> None:
    """To run every file could run one that is there to be kept from running."""
    files = {"manifest.json": text, "old.py": RUNS_AT_LOAD, "../good/handlers.py": hook("Good")}
    folder = write(tmp_path / "plug", files)

    loaded = load(folder, tmp_path / "good")

    assert says in problem_of(loaded)
    assert hook_names(loaded.table) == ["Pre Good"]


def test_manifest_of_another_name_is_one_by_what_it_says(load: Load, tmp_path: Path) -> None:
    files = {
        "plug/bundle-v2.json": manifest("middleware.py"),
        "plug/middleware.py": hook("P"),
        "plug/old.py": RUNS_AT_LOAD,
        "pack/__init__.py": hook("Q"),
        # Neither is a manifest: the first is an API definition.
        "pack/api.json": json.dumps({"api_id": "a", "custom_middleware": {"pre": []}}),
        "pack/data.json": json.dumps({"file_list": [], "custom_middleware": "no"}),
        "pack/other.json": '"custom_middleware" "file_list" {',
    }
    table = good(load(write(tmp_path, files)))

    assert {hook.name: bool(hook.bundle) for hook in table} == {"P": True, "Q": False}


def test_manifest_json_goes_before_others(load: Load, tmp_path: Path) -> None:
    files = {
        "manifest.json": manifest("a.py"),
        "manifest-old.json": manifest("b.py"),
        "a.py": hook("A"),
        "b.py": RUNS_AT_LOAD,
    }

    assert hook_names(good(load(write(tmp_path, files)))) == ["Pre A"]


def test_several_manifests_of_other_names_run_what_each_says(load: Load, tmp_path: Path) -> None:
    files = {
        "dev.json": manifest("a.py"),
        "prod.json": manifest("b.py"),
        "a.py": hook("A"),
        "b.py": hook("B"),
        "c.py": RUNS_AT_LOAD,
    }

    assert hook_names(good(load(write(tmp_path, files)))) == ["Pre A", "Pre B"]


def test_import_takes_a_manifest_of_another_name_and_keeps_the_entry(tmp_path: Path) -> None:
    files = {
        "tyk-bundle.json": manifest("middleware.py"),
        "middleware.py": hook("P"),
        "middleware-old.py": REFUSES_EVERYTHING,
        "test_p.py": "import no_such_module_here\n",
    }
    bundle, report = inspect_bundle(write(tmp_path / "plug", files))

    assert report.concerns == []
    assert report.works == ["middleware.py:4: P, as Pre"]
    write_import(bundle, report, tmp_path / "out")
    served = loader.load([tmp_path / "out" / "handlers"], HOME)
    served.forget()
    assert hook_names(good(served)) == ["Pre P"]
    # The gateway takes the bundle as it is: it lists no files.
    assert read_bundle(tmp_path / "out" / "bundles" / "plug.zip").manifest["file_list"] == []


def test_import_has_no_alarm_for_tests_without_a_manifest(tmp_path: Path) -> None:
    files = {
        "p.py": hook("P"),
        "test_p.py": "import no_such_module_here\n",
        "tests/check.py": "import no_such_module_here\n",
    }
    _, report = inspect_bundle(write(tmp_path / "plug", files))

    assert report.concerns == []


def test_build_takes_a_manifest_of_another_name(tmp_path: Path) -> None:
    files = {"m.json": manifest("p.py"), "p.py": hook("P"), "old.py": RUNS_AT_LOAD}
    folder = write(tmp_path / "plug", files)

    build(folder, tmp_path / "out.zip", driver="python")

    assert sorted(read_bundle(tmp_path / "out.zip").files) == ["manifest.json", "p.py"]
    write(folder, {"n.json": manifest("p.py")})
    with pytest.raises(BundleError, match=r"several files could be the manifest: m\.json, n\.json"):
        build(folder, tmp_path / "out.zip", driver="python")
