"""Wrong files and folders end in a sentence that names them, and never in a traceback of ours."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coprocess.desk.tyk.bundle import BundleError, read_bundle
from coprocess.desk.tyk.importer import inspect_bundle
from coprocess.desk.tyk.simulator import ApiDefinition
from coprocess.errors import ConfigError, LoadError
from coprocess.process.settings_loading import load_settings
from coprocess.transport.tls import TlsFiles
from tests.cli.commands import GOOD
from tests.conftest import Load
from tests.loading import write

DEEP = "[" * 100_000


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who is not root, whom no permission stops."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A folder that every user can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == Path(tmp_path).owner() and folder != Path("/tmp"):  # noqa: S108 - to leave it
            folder.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_a_folder_without_permission(load: Load, open_path: Path, mode: int) -> None:
    folder = open_path / "handlers"
    write(folder, {"a.py": GOOD})
    folder.chmod(mode)
    try:
        with without_rights(), pytest.raises(LoadError) as caught:
            load(folder)
    finally:
        folder.chmod(0o755)
    assert str(caught.value) == (
        f"{folder}: cannot be read: Permission denied. Expected: a folder with handler modules"
    )


def test_a_folder_that_is_a_link_to_itself(load: Load, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(LoadError, match=r"a: (is a link that leads to itself|no such folder)"):
        load(tmp_path / "a")


def test_a_folder_whose_name_is_too_long(load: Load, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="File name too long") as caught:
        load(tmp_path / ("a" * 5000))
    assert len(str(caught.value)) < 400


def test_links_in_circles_within_a_folder_are_no_handlers(load: Load, tmp_path: Path) -> None:
    write(tmp_path, {"good.py": GOOD})
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "self.py").symlink_to("self.py")
    assert [hook.name for hook in load(tmp_path).table] == ["works"]


def test_pipes_are_no_handlers_and_nobody_waits_for_them(load: Load, tmp_path: Path) -> None:
    write(tmp_path, {"good.py": GOOD, "package/a": ""})
    os.mkfifo(tmp_path / "pipe.py")
    os.mkfifo(tmp_path / "package" / "__init__.py")
    loaded = load(tmp_path)
    assert [hook.name for hook in loaded.table] == ["works"]
    assert not loaded.problems


@pytest.mark.parametrize("name", ["coprocess.py", "coprocess/__init__.py"])
def test_a_handler_file_named_as_the_library_takes_no_place_of_it(
    load: Load, tmp_path: Path, name: str
) -> None:
    write(tmp_path, {name: GOOD, "good.py": GOOD})
    loaded = load(tmp_path)
    assert [hook.name for hook in loaded.table] == ["works"]
    (problem,) = loaded.problems
    assert str(problem) == (
        f"{tmp_path / name.removesuffix('/__init__.py')}: not loaded: handlers import coprocess, and get the "
        "library. Expected: another name"
    )


@pytest.mark.parametrize(
    "code",
    [b"x = 1\0", b"x = '\xe9'", b"\xff\xfex", b"# coding: nothing\n", b"x = " + b"(" * 5000 + b")" * 5000],
    ids=range(5),
)
def test_files_that_are_no_python_are_told_without_a_traceback(
    load: Load, tmp_path: Path, code: bytes
) -> None:
    (tmp_path / "a.py").write_bytes(code)
    (problem,) = load(tmp_path).problems
    assert str(problem).startswith(f"{tmp_path / 'a.py'}:")
    assert not problem.traceback
    assert "\n" not in str(problem)


def test_a_handler_file_without_permission(load: Load, open_path: Path) -> None:
    write(open_path, {"a.py": GOOD})
    (open_path / "a.py").chmod(0)
    with without_rights():
        (problem,) = load(open_path).problems
    assert str(problem) == f"{open_path / 'a.py'}: cannot be read: Permission denied"
    assert not problem.traceback


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"a = {DEEP}".encode(), "nested too deeply. Expected: settings, as lines or tables"),
        (b"\xff\xfe", "not TOML: 'utf-8' codec can't decode byte 0xff"),
        (b"a = " + b"1" * 5000, "not TOML: Exceeds the limit"),
        (b"\0", "not TOML: "),
    ],
    ids=["deep", "not UTF-8", "5,000 digits", "a zero"],
)
def test_settings_that_cannot_be_read(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings({}, path)
    assert str(caught.value).startswith(f"{path}: {told}")


def test_settings_that_are_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings({}, tmp_path)


def test_a_key_file_without_permission(open_path: Path) -> None:
    (open_path / "cert.pem").write_text("x")
    key = open_path / "key.pem"
    key.write_text("x")
    key.chmod(0)
    with without_rights(), pytest.raises(ConfigError) as caught:
        TlsFiles(open_path / "cert.pem", key)
    assert str(caught.value) == f"tls_key: {key}: cannot be read: Permission denied"
    key.chmod(0o600)
    key.unlink()
    key.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        TlsFiles(open_path / "cert.pem", key)


def test_deep_json(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text(DEEP)
    with pytest.raises(ConfigError, match="nested more than 100 levels deep"):
        ApiDefinition.load(path)
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as bundle:
        bundle.writestr("manifest.json", DEEP)
    with pytest.raises(BundleError, match=r"manifest\.json is not JSON: it is nested more than 100"):
        _ = read_bundle(tmp_path / "bundle.zip").manifest


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "{}",
        '{"hooks": [{"type": "Nothing"}], "problems": []}',
        '{"hooks": [{"type": "Pre", "name": 1, "file": "a", "line": 1, "any_type": false}], "problems": []}',
        '{"hooks": [], "problems": [{"file": 1, "text": 2}]}',
        '{"hooks": [], "problems": [3]}',
        DEEP,
        "\\xff",
    ],
    ids=range(8),
)
def test_a_plugin_that_forges_what_loading_it_gave(tmp_path: Path, answer: str) -> None:
    """Its code runs where the answer is written, so it may write one itself."""
    code = f"import os, sys\nopen(sys.argv[2], 'w').write({answer!r})\nos._exit(0)\n"
    write(tmp_path / "bundle", {"a.py": code, "manifest.json": "{}"})
    _, report = inspect_bundle(tmp_path / "bundle")
    changed = "the plugin's code changed what loading says of it"
    assert any(concern.problem == changed for concern in report.concerns)
