"""From folders to a table of hooks: what is loaded, and what is told of the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from coprocess.api.moments import HookType
from coprocess.errors import LoadError, UnknownHook
from coprocess.loading.handler_files import bundle_names, module_paths
from coprocess.loading.hooks import HookTable
from coprocess.transport.engines import is_compiled
from tests.conftest import Load
from tests.loading import good, hook_names, problem_of, program, reply_of, set_headers, the_hook, write

ROOT = Path(__file__).parents[1]

GOOD = """
from coprocess import Pre, Request

@Pre
def {name}(request: Request) -> None:
    request.headers["X-Ran"] = "{name}"
"""

# What bundle_hash is for a bundle of that name; and the folder's name itself, as gateways unpack it.
FIRST_HASH = "8b04d5e3775d298e78455efc5ca404d5"
SECOND_ZIP_HASH = "87ff5e29f98f56edbfa7213e79ced8b4"


def handler(name: str) -> str:
    return GOOD.format(name=name)


def test_modules_packages_and_bundles(load: Load, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "module.py": handler("of_module"),
            "package/__init__.py": handler("of_package"),
            "bundle/manifest.json": "{}",
            "bundle/code.py": handler("of_bundle"),
            "namespace/never.py": handler("of_namespace_folder"),
            "vendor/__init__.py": handler("of_vendor"),
            "notes.txt": "",
        },
    )

    assert hook_names(good(load(folder))) == ["Pre of_bundle", "Pre of_module", "Pre of_package"]


def test_folder_may_be_a_bundle_itself(load: Load) -> None:
    table = good(load(program("bundles/first")))

    assert the_hook(table, "Shared").bundle == bundle_names("first")


def test_bundle_that_is_a_package_is_loaded_once(load: Load, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {"bundle/manifest.json": "{}", "bundle/__init__.py": "", "bundle/code.py": handler("of_bundle")},
    )

    assert hook_names(good(load(folder))) == ["Pre of_bundle"]


@pytest.fixture
def bundles(load: Load) -> HookTable:
    return good(load(program("bundles")))


def test_bundle_names_are_the_hashes_a_gateway_sends() -> None:
    assert FIRST_HASH in bundle_names("first")
    assert SECOND_ZIP_HASH in bundle_names("second")
    assert "second" in bundle_names("second")


@pytest.mark.parametrize(
    ("bundle_hash", "who"),
    [(FIRST_HASH, "first"), (SECOND_ZIP_HASH, "second"), ("second", "second")],
)
def test_hooks_of_one_name_are_told_apart_by_bundle(bundles: HookTable, bundle_hash: str, who: str) -> None:
    reply = reply_of(bundles, "Shared", spec={"bundle_hash": bundle_hash})

    assert set_headers(reply) == {"X-Who": who}


def test_hook_that_several_bundles_have_is_not_guessed(bundles: HookTable) -> None:
    with pytest.raises(UnknownHook, match="several bundles have one, and none is the API's own"):
        reply_of(bundles, "Shared")


def test_modules_beside_bundles_are_of_none(bundles: HookTable) -> None:
    assert the_hook(bundles, "of_the_folder").bundle == frozenset()
    assert set_headers(reply_of(bundles, "of_the_folder")) == {"X-Who": "the folder"}


def test_bundles_in_separate_folders(load: Load) -> None:
    table = good(load(program("bundles/first"), program("bundles/second")))

    reply = reply_of(table, "Shared", spec={"bundle_hash": FIRST_HASH})
    assert set_headers(reply) == {"X-Who": "first"}


def test_hooks_of_one_name_are_told_apart_by_api(load: Load, tmp_path: Path) -> None:
    code = """
from coprocess import Pre

@Pre(name="same", api_id="a")
def for_a(request): request.headers["X-Ran"] = "a"

@Pre(name="same", api_id="b")
def for_b(request): request.headers["X-Ran"] = "b"

@Pre(name="same")
def for_the_rest(request): request.headers["X-Ran"] = "rest"
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    assert [set_headers(reply_of(table, "same", api_id=api_id))["X-Ran"] for api_id in "abc"] == [
        "a",
        "b",
        "rest",
    ]


BAD = {
    "syntax": ("\n\ndef broken(:\n", "bad.py:3: SyntaxError: invalid syntax"),
    "null_byte": ("a = '\0'", "bad.py"),
    "exception": ("\n\nraise ValueError('wrong')\n", "bad.py:3: ValueError: wrong"),
    "exit": ("import sys\nsys.exit(3)\n", "bad.py:2: SystemExit: 3"),
    "deep": ("def f():\n    return 1 / 0\nf()\n", "bad.py:2: ZeroDivisionError: "),
    "library": ("import json\njson.loads('{')\n", "bad.py:2: JSONDecodeError: "),
    "base_exception": ("class E(BaseException): pass\nraise E('odd')\n", "bad.py:2: E: odd"),
    "unprintable": (
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E\n",
        "bad.py:3: E: (its text cannot be had)",
    ),
    "not_text": ("a = '\udcff'", "bad.py"),
    "after_a_hook": (
        "from coprocess import Pre\nPre(name='early')(lambda: None)\nraise OSError('late')",
        "bad.py:3: OSError: late",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_does_not_stop_the_others(load: Load, tmp_path: Path, case: str) -> None:
    code, expected = BAD[case]
    write(tmp_path, {"a.py": handler("before"), "z.py": handler("after")})
    (tmp_path / "bad.py").write_bytes(code.encode("utf-8", "surrogateescape"))

    loaded = load(tmp_path)

    assert hook_names(loaded.table) == ["Pre after", "Pre before"]
    assert problem_of(loaded).startswith(f"{tmp_path}/{expected}")
    assert loaded.problems[0].path == tmp_path / "bad.py"


def test_a_service_goes_on_where_a_file_raises_what_ctrl_c_does(load: Load, tmp_path: Path) -> None:
    """Once, a reload of it ended the process."""
    write(tmp_path, {"a.py": handler("before"), "bad.py": "raise KeyboardInterrupt\n"})
    kept = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        loaded = load(tmp_path)
    finally:
        signal.signal(signal.SIGINT, kept)

    assert hook_names(loaded.table) == ["Pre before"]
    assert problem_of(loaded).startswith(f"{tmp_path}/bad.py:1: KeyboardInterrupt")


def test_problem_of_running_code_has_its_traceback(load: Load, tmp_path: Path) -> None:
    loaded = load(write(tmp_path, {"bad.py": "def f():\n    raise ValueError('why')\nf()\n"}))

    traceback = loaded.problems[0].traceback
    assert traceback.startswith("Traceback")
    assert "in f\n    raise ValueError('why')" in traceback
    # How it was imported says nothing to those who wrote it.
    assert traceback.count("File ") == 2


def test_problem_in_a_package_names_the_file_in_it(load: Load, tmp_path: Path) -> None:
    loaded = load(
        write(tmp_path, {"package/__init__.py": "from . import inner", "package/inner.py": "\n1/0"})
    )

    assert problem_of(loaded).startswith(f"{tmp_path}/package/inner.py:2: ZeroDivisionError")


def test_ctrl_c_while_loading_is_not_a_problem_of_the_file(load: Load, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(write(tmp_path, {"slow.py": "import signal\nsignal.raise_signal(signal.SIGINT)"}))


def test_a_file_that_raises_what_ctrl_c_does_is_a_problem_of_the_file(load: Load, tmp_path: Path) -> None:
    """Once, commands ended with 130, and without a word."""
    loaded = load(write(tmp_path, {"bad.py": "def f():\n    raise KeyboardInterrupt('why')\nf()\n"}))
    assert problem_of(loaded) == f"{tmp_path}/bad.py:2: KeyboardInterrupt: why"


def test_handlers_of_a_sibling_are_kept_where_its_importer_fails(load: Load, tmp_path: Path) -> None:
    """Also those that only the loader knows: a function that another one of the same name hid."""
    helper = """
from coprocess import Pre, Post

@Pre
def same(): pass

@Post
def same(): pass
"""
    loaded = load(write(tmp_path, {"a.py": "import helper\nraise ValueError", "helper.py": helper}))

    assert hook_names(loaded.table) == ["Post same", "Pre same"]
    assert len(loaded.problems) == 1


def test_duplicate_names_both_places_and_loads_neither(load: Load, tmp_path: Path) -> None:
    loaded = load(
        write(tmp_path, {"a.py": handler("same"), "b.py": handler("same"), "c.py": handler("other")})
    )

    assert problem_of(loaded) == (
        f'{tmp_path}/b.py:4: a second Pre handler "same"; the first is at {tmp_path}/a.py:4. '
        "Expected: one handler for each type and name"
    )
    assert hook_names(loaded.table) == ["Pre other"]


def test_duplicate_among_handlers_that_are_made_on_one_line(load: Load, tmp_path: Path) -> None:
    """Their place is the same; only those of one name are refused."""
    code = """
from coprocess import Pre

def make(name):
    @Pre(name=name)
    def made(request): pass

for name in ("a", "twice", "b", "twice"):
    make(name)
"""
    loaded = load(write(tmp_path, {"handlers.py": code}))

    assert hook_names(loaded.table) == ["Pre a", "Pre b"]
    assert 'a second Pre handler "twice"' in problem_of(loaded)


def test_duplicates_across_folders(load: Load, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, {"handlers.py": handler("same")})

    loaded = load(tmp_path / "one", tmp_path / "two")

    assert len(loaded.table) == 0
    assert "a second Pre handler" in problem_of(loaded)


def test_folder_named_twice_is_loaded_once(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "real", {"handlers.py": handler("hook")})
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert hook_names(good(load(tmp_path / "real", tmp_path / "link", tmp_path / "real"))) == ["Pre hook"]


def test_symlinks_in_a_folder(load: Load, tmp_path: Path) -> None:
    """As a mounted volume has them: each file leads through a hidden folder."""
    write(tmp_path / "..2026_11_21", {"handlers.py": handler("hook"), "manifest.json": "{}"})
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "..data").symlink_to(tmp_path / "..2026_11_21")
    (folder / "handlers.py").symlink_to("..data/handlers.py")

    assert hook_names(good(load(folder))) == ["Pre hook"]


def test_relative_folder(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine", {"handlers.py": handler("hook")})
    monkeypatch.chdir(tmp_path)

    assert the_hook(good(load(Path("mine"))), "hook").source.path == tmp_path / "mine" / "handlers.py"


@pytest.mark.parametrize("name", ["missing", "file.py"])
def test_folder_that_is_none_is_an_error(load: Load, tmp_path: Path, name: str) -> None:
    write(tmp_path, {"file.py": ""})

    with pytest.raises(LoadError) as caught:
        load(tmp_path / name)

    assert str(caught.value) == f"{tmp_path}/{name}: no such folder. Expected: a folder with handler modules"


def test_folder_whose_name_is_no_identifier(load: Load, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "my handlers-1.0",
        {"handlers.py": f"from helper import *\n{handler('hook')}", "helper.py": ""},
    )

    assert hook_names(good(load(folder))) == ["Pre hook"]


def test_file_whose_name_is_no_identifier_is_loaded(load: Load, tmp_path: Path) -> None:
    """Nobody can import it by its name; the gateway need not."""
    folder = write(
        tmp_path, {"my-handler.py": handler("of_file"), "my-package/__init__.py": handler("of_package")}
    )

    assert hook_names(good(load(folder))) == ["Pre of_file", "Pre of_package"]


def test_file_name_with_further_dots_is_a_problem(load: Load, tmp_path: Path) -> None:
    loaded = load(write(tmp_path, {"handlers.old.py": handler("old"), "handlers.py": handler("new")}))

    assert hook_names(loaded.table) == ["Pre new"]
    assert problem_of(loaded).startswith(f"{tmp_path}/handlers.old.py: not loaded. Expected: ")


def test_hidden_files_are_left_alone(load: Load, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "._handlers.py": "\0",
            ".hidden/__init__.py": handler("hidden"),
            ".git/manifest.json": "{}",
            ".git/x.py": handler("git"),
            "handlers.py": handler("hook"),
        },
    )
    # As an editor leaves while a file is open: it leads nowhere.
    (folder / ".#handlers.py").symlink_to("someone@somewhere")
    (folder / "dangling.py").symlink_to("nowhere")

    assert hook_names(good(load(folder))) == ["Pre hook"]


def test_copies_of_what_the_driver_offers_are_not_run(load: Load, tmp_path: Path) -> None:
    files = {"gateway.py": "1/0", "tyk/__init__.py": "1/0", "coprocess_object_pb2.py": "1/0"}

    folder = write(tmp_path, {**files, "handlers.py": "import gateway, tyk, coprocess_object_pb2"})

    assert good(load(folder)) is not None
    assert [path.name for path in module_paths(folder)] == [
        "coprocess_object_pb2.py",
        "gateway.py",
        "handlers.py",
        "tyk",
    ]


def test_file_and_name_of_a_module(load: Load, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from coprocess import Pre

TEXT = (Path(__file__).parent / "data.txt").read_text()
assert __name__ != "__main__"

@Pre
def reads(request):
    request.headers["X-Data"] = TEXT
"""
    folder = write(tmp_path, {"handlers.py": code, "data.txt": "from beside"})

    assert set_headers(reply_of(good(load(folder)), "reads")) == {"X-Data": "from beside"}


def test_hooks_and_events_in_one_folder(load: Load, tmp_path: Path) -> None:
    code = "from coprocess import Event, Pre\n@Pre\ndef a(): pass\n@Event\ndef b(): pass\n"

    assert hook_names(good(load(write(tmp_path, {"handlers.py": code})))) == ["Event b", "Pre a"]


def test_both_styles_in_one_module(load: Load, tmp_path: Path) -> None:
    code = """
import coprocess
from tyk.decorators import *

@Pre
def Old(request, session, spec): pass

@coprocess.Pre
def new(request): pass
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    assert {hook.name: hook.style for hook in table} == {"Old": "embedded", "new": "native"}


def test_empty_folder(load: Load, tmp_path: Path) -> None:
    assert len(good(load(tmp_path))) == 0


def test_files_are_those_that_were_loaded(load: Load, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a.py": "", "bad.py": "1/0", "package/__init__.py": "", "b/manifest.json": "{}", "b/c.py": ""},
    )

    files = load(tmp_path).files

    assert [str(path.relative_to(tmp_path)) for path in files] == ["a.py", "bad.py", "package", "b/c.py"]


def test_first_load_is_served_on_after_a_second_one(load: Load, tmp_path: Path) -> None:
    write(tmp_path, {"handlers.py": handler("first")})
    first = load(tmp_path)
    write(tmp_path, {"handlers.py": handler("second")})

    second = load(tmp_path)
    first.forget()

    assert set_headers(reply_of(first.table, "first")) == {"X-Ran": "first"}
    assert hook_names(second.table) == ["Pre second"]
    with pytest.raises(UnknownHook):
        second.table.choose(HookType.Pre, "first")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as it would be published."""
    if is_compiled():
        pytest.skip("a wheel is made of sources with nothing compiled beside them")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    own = {
        str(path.relative_to(ROOT))
        for package in ("coprocess", "coprocess_handlers")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    with ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}

    assert names == own
    assert {"coprocess/py.typed", "coprocess/gateways/tyk/wire/coprocess.descriptorset"} <= names
    assert {"coprocess/gateways/tyk/wire/coprocess_object_pb2.pyi", "coprocess/testing/plugin.py"} <= names


def test_wheel_serves_a_folder_outside_of_a_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with ZipFile(wheel) as content:
        content.extractall(site)
        entry_points = next(name for name in content.namelist() if name.endswith("entry_points.txt"))
        text = content.read(entry_points).decode()
    assert "[console_scripts]\ncoprocess = coprocess.cli:main" in text
    assert "[pytest11]\ncoprocess = coprocess.testing.plugin" in text
    write(
        tmp_path / "elsewhere", {"handlers.py": "from helper import *\n" + handler("hook"), "helper.py": ""}
    )
    # Before the checkout, which is installed too.
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert Path(run("-c", "import coprocess; print(coprocess.__file__)").strip()).is_relative_to(site)
    assert f"{tmp_path}/elsewhere/handlers.py" in run("-m", "coprocess", "check", "--handlers", "elsewhere")
    assert "X-Ran" in run("-m", "coprocess", "call", "Pre", "hook", "--handlers", "elsewhere")
