"""What handler code puts on `sys.path` of its own folder is its own, and nobody else's."""

from __future__ import annotations

import os
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from coprocess.desk.tyk.importer import inspect_bundle
from coprocess.loading.loaded import Loaded
from tests.conftest import Load
from tests.loading import good, reply_of, set_headers, write

HOOK = """
from tyk.decorators import *
{code}

@Hook
def hook(request, session, spec):
    import some_lib.inner
    request.add_header("X-Version", some_lib.VERSION + " " + some_lib.inner.VERSION)
    return request, session
"""
HERE = "import os, sys\nhere = os.path.dirname(os.path.abspath(__file__))\n"
LIBRARY = "vendor/lib/python3.7/site-packages"
WAYS = {
    "insert": f"sys.path.insert(0, os.path.join(here, '{LIBRARY}'))",
    "append": f"sys.path.append(os.path.join(here, '{LIBRARY}/'))",
    "add": f"sys.path += [os.path.join(here, '{LIBRARY}')]",
    "slice": f"sys.path[0:0] = [os.path.join(here, '{LIBRARY}')]",
    "new list": f"sys.path = [os.path.join(here, '{LIBRARY}'), *sys.path]",
    "addsitedir": f"import site\nsite.addsitedir(os.path.join(here, '{LIBRARY}'))",
    "helper": "import paths",
    "relative": f"sys.path.append(os.path.relpath(os.path.join(here, '{LIBRARY}')))",
    "removed": (
        f"sys.path.insert(0, os.path.join(here, '{LIBRARY}'))\nimport some_lib\n"
        f"assert sys.path.pop(0).startswith(here)"
    ),
    "found anyway": "",
}


def version_of(loaded: Loaded) -> str:
    return set_headers(reply_of(good(loaded), "hook"))["X-Version"]


def write_bundle(folder: Path, version: str, code: str, library: str = LIBRARY) -> Path:
    files = {
        "middleware.py": HOOK.format(code=HERE + code + "\nimport some_lib"),
        "paths.py": HERE + WAYS["insert"],
        f"{library}/some_lib/__init__.py": f"VERSION = {version!r}\nfrom some_lib import inner\n",
        f"{library}/some_lib/inner.py": f"import some_lib\nVERSION = {version!r}",
    }
    return write(folder, files)


@pytest.mark.parametrize("way", WAYS)
def test_two_bundles_bring_different_versions_of_a_library(load: Load, tmp_path: Path, way: str) -> None:
    first = write_bundle(tmp_path / "first", "1", WAYS[way])
    second = write_bundle(tmp_path / "second", "2", WAYS[way])
    path, same, cache = list(sys.path), sys.path, set(sys.path_importer_cache)

    loaded = [load(first), load(second), load(first)]

    assert [version_of(each) for each in loaded] == ["1 1", "2 2", "1 1"]
    assert sys.path == path
    assert way == "new list" or sys.path is same
    assert set(sys.path_importer_cache) == cache
    assert not [name for name in sys.modules if name.partition(".")[0] in ("some_lib", "paths")]


def test_edited_library_is_seen_by_a_reload(load: Load, tmp_path: Path) -> None:
    seen = []
    for version in "12":
        write_bundle(tmp_path, version, WAYS["append"], "libs")
        middleware = (tmp_path / "middleware.py").read_text().replace(LIBRARY, "libs")
        seen.append(version_of(load(write(tmp_path, {"middleware.py": middleware}))))

    assert seen == ["1 1", "2 2"]


def test_path_that_is_put_first_goes_before_the_folder_itself(load: Load, tmp_path: Path) -> None:
    code = f"sys.path.{{how}}os.path.join(here, '{LIBRARY}'))"
    seen = []
    for how in ("insert(0, ", "append("):
        folder = write_bundle(tmp_path / how[0], "library", code.format(how=how))
        write(folder, {"some_lib/__init__.py": "VERSION = 'own'", "some_lib/inner.py": "VERSION = 'own'"})
        seen.append(version_of(load(folder)))

    assert seen == ["library library", "own own"]


def test_neighbouring_bundles_path_belongs_to_the_scope_too(load: Load, tmp_path: Path) -> None:
    """It lies in the folder that is served."""
    path = list(sys.path)
    write(
        tmp_path,
        {"shared/some_lib/__init__.py": "VERSION = 's'", "shared/some_lib/inner.py": "VERSION = 's'"},
    )
    code = HOOK.format(code=HERE + "sys.path.append(os.path.join(here, '..', 'shared'))\nimport some_lib")
    write(tmp_path, {"plug/manifest.json": "{}", "plug/middleware.py": code})

    assert version_of(load(tmp_path)) == "s s"
    assert sys.path == path


def test_path_outside_of_the_folder_is_for_the_process_once(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    write(outside, {"some_lib/__init__.py": "VERSION = 'o'", "some_lib/inner.py": "VERSION = 'o'"})
    code = HOOK.format(code=f"import sys\nsys.path.insert(0, {str(outside)!r})\nimport some_lib")
    folder = write(tmp_path / "plug", {"middleware.py": code})
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", list(path))

    loaded = [load(folder), load(folder)]

    assert [version_of(each) for each in loaded] == ["o o", "o o"]
    assert sys.path == [str(outside), *path]
    for name in [name for name in sys.modules if name.partition(".")[0] == "some_lib"]:
        del sys.modules[name]


def test_path_that_a_call_adds_is_searched_by_that_call(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = HOOK.format(code=HERE).replace(
        "    import", f"    {WAYS['append'].replace(LIBRARY, 'libs')}\n    import"
    )
    write_bundle(tmp_path, "late", "", "libs")
    loaded = load(write(tmp_path, {"middleware.py": code}))
    monkeypatch.setattr(sys, "path", list(sys.path))

    assert version_of(loaded) == "late late"
    assert "some_lib" not in sys.modules


def test_library_that_a_folder_brings_knows_its_version(load: Load, tmp_path: Path) -> None:
    loaded = []
    for version in "12":
        folder = write_bundle(tmp_path / version, version, "")
        library = (
            "from importlib import metadata\nVERSION = metadata.version('some-lib')\nfrom . import inner"
        )
        info = f"Metadata-Version: 2.1\nName: some-lib\nVersion: {version}.0\n"
        write(
            folder / LIBRARY,
            {"some_lib/__init__.py": library, f"some_lib-{version}.0.dist-info/METADATA": info},
        )
        loaded.append(load(folder))

    assert [version_of(each) for each in loaded] == ["1.0 1", "2.0 2"]
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("some-lib")


def test_zip_on_the_path(load: Load, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        archive.writestr("some_lib/__init__.py", "VERSION = 'z'")
        archive.writestr("some_lib/inner.py", "import some_lib\nVERSION = some_lib.VERSION")
    code = HOOK.format(code=HERE + "sys.path.insert(0, os.path.join(here, 'lib.zip'))\nimport some_lib")
    path = list(sys.path)

    assert version_of(load(write(tmp_path, {"middleware.py": code}))) == "z z"
    assert sys.path == path
    # As a false alarm of `import` was.
    _, report = inspect_bundle(tmp_path)
    assert not [concern for concern in report.concerns if "not installed" in str(concern)]


def test_import_module_finds_each_bundles_own_library_as_import_does(load: Load, tmp_path: Path) -> None:
    """The second bundle silently got the library of the first."""
    code = f"import importlib\n{WAYS['insert']}\nsome_lib = importlib.import_module('some_lib')"
    loaded = []
    for version in "12":
        folder = write_bundle(tmp_path / version, version, code)
        middleware = (folder / "middleware.py").read_text().removesuffix("\nimport some_lib")
        loaded.append(load(write(folder, {"middleware.py": middleware})))

    assert [version_of(each) for each in loaded] == ["1 1", "2 2"]
    assert "some_lib" not in sys.modules


def test_vendored_part_of_a_namespace_package_hides_no_installed_part(load: Load, tmp_path: Path) -> None:
    code = """
import google.auth
import google.protobuf.message
from google import protobuf
from google.protobuf.message import Message
from tyk.decorators import *

@Hook
def hook(request, session, spec):
    import google.auth, google.protobuf
    assert isinstance(session, Message) and google.protobuf is protobuf
    request.add_header("X-Version", google.auth.VERSION)
"""
    files = {"middleware.py": code, f"{LIBRARY}/google/auth/__init__.py": "VERSION = 'mine'"}

    assert version_of(load(write(tmp_path, files))) == "mine"


@pytest.mark.parametrize("way", ["insert", "addsitedir", "found anyway"])
def test_import_has_no_alarm_for_a_library_that_the_bundle_brings(tmp_path: Path, way: str) -> None:
    folder = write_bundle(tmp_path / "plug", "1", WAYS[way])
    write(folder, {f"{LIBRARY}/some_lib/old.py": "print 'Python 2'\nimport no_such_module_here\n"})

    _, report = inspect_bundle(folder)

    assert [concern for concern in report.concerns if "does not say when" not in str(concern)] == []


def test_import_has_no_alarm_for_a_library_on_a_path_of_the_bundles_own(tmp_path: Path) -> None:
    folder = write_bundle(
        tmp_path / "plug", "1", WAYS["append"].replace(LIBRARY, "libs/python"), "libs/python"
    )

    _, report = inspect_bundle(folder)

    assert [concern for concern in report.concerns if "does not say when" not in str(concern)] == []
    assert os.path.isdir(folder / "libs")


@pytest.mark.parametrize("way", ["sys.path.clear()", "sys.path = sys.path[:1]", "sys.path.pop()"])
def test_what_code_takes_from_the_path_is_there_again_for_others(
    load: Load, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", list(path))
    assert load(write(tmp_path / "handlers", {"a.py": f"import sys\n{way}\n"})).problems == []
    assert sys.path == path
