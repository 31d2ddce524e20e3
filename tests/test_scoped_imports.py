"""Imports of handler code, and that they leave everybody else's alone."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess.loading.scoped_imports import NAMESPACE, ImportScope
from tests.conftest import Load
from tests.loading import (
    global_of,
    good,
    hook_names,
    problem_of,
    program,
    reply_of,
    set_headers,
    the_hook,
    write,
)


@pytest.fixture
def scope(tmp_path: Path) -> Any:
    """A scope over `tmp_path` and its vendor folder, in which `given` is an alias."""
    alias = ModuleType("given")
    vars(alias)["WHO"] = "alias"
    scope = ImportScope("test_scope", [tmp_path, tmp_path / "vendor"], {"given": alias})
    yield scope
    scope.forget()


def load_code(scope: ImportScope, folder: Path, code: str) -> ModuleType:
    write(folder, {"main.py": code})
    return scope.load("main")


def test_every_way_to_import_a_sibling(load: Load) -> None:
    table = good(load(program("siblings")))

    assert set_headers(reply_of(table, "uses_siblings")) == {"X-Greeting": "hello of siblings"}
    assert set_headers(reply_of(table, "imports_late")) == {"X-Late": "late other leaf"}


def test_handler_within_a_package(load: Load) -> None:
    """Once, though the package imports it, and a neighbour imports the package."""
    table = good(load(program("siblings")))

    assert hook_names(table) == ["Pre imports_late", "Pre uses_siblings", "Pre within"]


def test_circular_imports_between_siblings(load: Load) -> None:
    assert set_headers(reply_of(good(load(program("circular"))), "circle")) == {"X-Ran": "first"}


def test_module_runs_once_though_its_package_imports_it(scope: ImportScope, tmp_path: Path) -> None:
    files = {
        "counter.py": "runs = []",
        "package/__init__.py": "from . import inner",
        "package/inner.py": "import counter\ncounter.runs.append(__name__)",
        "main.py": "import package.inner\nfrom package.inner import counter",
    }
    write(tmp_path, files)

    assert scope.load("main").counter.runs == [f"{scope.package}.package.inner"]


def test_two_folders_with_a_helper_of_one_name(load: Load) -> None:
    table = good(load(program("same_names/first"), program("same_names/second")))

    assert set_headers(reply_of(table, "of_first")) == {"X-Who": "first"}
    assert set_headers(reply_of(table, "of_second")) == {"X-Who": "second"}


def test_nothing_of_the_interpreters_own_is_touched(load: Load) -> None:
    modules, finders, path = set(sys.modules), list(sys.meta_path), list(sys.path)
    hooks, cache = list(sys.path_hooks), set(sys.path_importer_cache)

    table = good(load(program("siblings"), program("same_names/first")))
    reply_of(table, "imports_late")
    reply_of(table, "of_first")

    added = set(sys.modules) - modules
    assert added
    assert all(f"{name}.".startswith(f"{NAMESPACE}.") for name in added)
    assert (finders, path, hooks) == (sys.meta_path, sys.path, sys.path_hooks)
    assert set(sys.path_importer_cache) == cache
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("plain")


@pytest.fixture
def compiles_to_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own default, whatever the shell says."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


@pytest.mark.usefixtures("compiles_to_files")
def test_no_compiled_files_are_left_in_the_users_folder(load: Load, tmp_path: Path) -> None:
    write(tmp_path, {"handlers.py": "import helper", "helper.py": ""})

    load(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["handlers.py", "helper.py"]


def test_imports_in_functions_from_several_threads(load: Load, tmp_path: Path) -> None:
    """Every thread gets the one module, whole."""
    code = """
from coprocess import Pre

@Pre
def late(request):
    import slow
    from package import inner
    request.headers["X-Late"] = f"{slow.value} {inner.value}"
    slow.users.append(slow)
"""
    slow = "import time\nruns = []\nusers = []\ntime.sleep(0.05)\nvalue = 1\nruns.append(1)"
    files = {"handlers.py": code, "package/__init__.py": "", "package/inner.py": "value = 2"}
    # Not in the folder when it is loaded, so that the threads are the first.
    table = good(load(write(tmp_path, files)))
    write(tmp_path, {"slow.py": slow})
    barrier = threading.Barrier(8)

    def call() -> dict[str, str]:
        barrier.wait()
        return set_headers(reply_of(table, "late"))

    with ThreadPoolExecutor(8) as pool:
        replies = [future.result() for future in [pool.submit(call) for _ in range(8)]]

    assert replies == [{"X-Late": "1 2"}] * 8
    module = sys.modules[f"{the_hook(table, 'late').function.__module__.rpartition('.')[0]}.slow"]
    assert module.runs == [1]
    assert module.users == [module] * 8


def test_import_in_a_function_does_not_wait_for_another_scope(tmp_path: Path) -> None:
    """A reload whose modules take long to run holds up no request."""
    release, entered = threading.Event(), threading.Event()
    gate = ModuleType("gate")
    vars(gate).update(release=release, entered=entered)
    write(tmp_path, {"slow.py": "import gate\ngate.entered.set()\ngate.release.wait(20)", "quick.py": ""})
    old = ImportScope("test_old", [tmp_path], {"gate": gate})
    new = ImportScope("test_new", [tmp_path], {"gate": gate})
    loading = threading.Thread(target=new.load, args=("slow",))
    loading.start()
    try:
        assert entered.wait(20)
        assert old.load("quick").__name__ == "coprocess_handlers.test_old.quick"
        assert loading.is_alive()
    finally:
        release.set()
        loading.join()
        old.forget()
        new.forget()


def test_call_that_outlives_its_scope_goes_on_importing(scope: ImportScope, tmp_path: Path) -> None:
    files = {
        "known.py": "",
        "unknown.py": "from dataclasses import dataclass\n@dataclass\nclass C:\n    x: 'int'\n",
        "package/__init__.py": "from . import unknown",
        "package/unknown.py": "",
    }
    write(tmp_path, files)
    code = """
import known

def late():
    import known as again
    import unknown
    import package.unknown
    from . import unknown as relative
    import json
    assert again is known and unknown is relative
    return unknown.C(1), package.unknown
"""
    module = load_code(scope, tmp_path, code)
    scope.forget()

    made, _ = module.late()

    assert made.x == 1
    assert not [name for name in sys.modules if name.startswith(scope.package)]


def test_forgotten_modules_are_collected(load: Load, tmp_path: Path) -> None:
    folder = write(tmp_path, {"handlers.py": "import helper", "helper.py": "class Big: pass\nbig = Big()"})

    def load_once() -> weakref.ref[Any]:
        loaded = load(folder)
        [helper] = [
            module for scope in loaded._scopes for module in scope.modules() if hasattr(module, "big")
        ]
        loaded.forget()
        loaded._scopes.clear()
        return weakref.ref(helper.big)

    known = set(sys.modules)
    references = [load_once() for _ in range(20)]
    gc.collect()

    assert [reference() for reference in references] == [None] * 20
    assert set(sys.modules) == known | {NAMESPACE}


def test_classes_that_others_look_up_by_their_module(load: Load) -> None:
    """dataclasses with string annotations, typing.get_type_hints, pickle."""
    table = good(load(program("classes")))

    [name] = set_headers(reply_of(table, "pickles")).values()
    assert name.startswith(f"{NAMESPACE}.")
    assert name.endswith(".handlers")


def test_sibling_goes_before_an_installed_package(scope: ImportScope, tmp_path: Path) -> None:
    write(tmp_path, {"redis.py": "MINE = True"})

    assert load_code(scope, tmp_path, "import redis").redis.MINE


def test_standard_library_goes_before_a_sibling(scope: ImportScope, tmp_path: Path) -> None:
    """As in the embedded driver. A relative import gets the sibling."""
    write(tmp_path, {"json.py": "MINE = True"})

    module = load_code(scope, tmp_path, "import json\nfrom . import json as own")

    assert module.json is importlib.import_module("json")
    assert module.own.MINE


def test_folder_without_init_hides_no_installed_package(scope: ImportScope, tmp_path: Path) -> None:
    """It may be of templates, or of data."""
    write(tmp_path, {"redis/config.txt": "", "templates/page.py": "TEXT = 1"})

    module = load_code(scope, tmp_path, "import redis\nfrom templates.page import TEXT")

    assert module.redis is importlib.import_module("redis")
    assert module.TEXT == 1


def test_alias_goes_before_a_sibling(scope: ImportScope, tmp_path: Path) -> None:
    write(tmp_path, {"given.py": "WHO = 'sibling'"})

    assert load_code(scope, tmp_path, "import given\nfrom given import WHO").WHO == "alias"


def test_vendor_comes_after_the_folder_itself(scope: ImportScope, tmp_path: Path) -> None:
    files = {
        "both.py": "WHERE = 'folder'",
        "vendor/both.py": "WHERE = 'vendor'",
        "vendor/only.py": "import both",
    }
    write(tmp_path, files)

    module = load_code(scope, tmp_path, "import both, only")

    assert module.both.WHERE == "folder"
    assert module.only.both is module.both


def test_missing_module_is_named_as_the_user_knows_it(load: Load, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"package/__init__.py": "", "one.py": "import nowhere_at_all", "two.py": "import package.gone"},
    )

    problems = [str(problem) for problem in load(tmp_path).problems]

    assert problems == [
        f"{tmp_path}/one.py:1: ModuleNotFoundError: No module named 'nowhere_at_all'",
        f"{tmp_path}/two.py:1: ModuleNotFoundError: No module named 'package.gone'",
    ]


def test_missing_name_is_an_import_error(load: Load, tmp_path: Path) -> None:
    write(tmp_path, {"helper.py": "", "handlers.py": "\nfrom helper import nothing"})

    assert f"{tmp_path}/handlers.py:2: ImportError: cannot import name 'nothing'" in problem_of(
        load(tmp_path)
    )


def test_relative_import_beyond_the_folder(load: Load, tmp_path: Path) -> None:
    write(tmp_path, {"handlers.py": "from ... import something"})

    assert f"{tmp_path}/handlers.py:1: ImportError: " in problem_of(load(tmp_path))


def test_module_that_failed_is_run_again_by_its_next_importer(scope: ImportScope, tmp_path: Path) -> None:
    write(tmp_path, {"flaky.py": "import given\ngiven.tries.append(1)\nassert len(given.tries) > 1"})
    vars(scope._aliases["given"])["tries"] = []
    with pytest.raises(AssertionError):
        scope.load("flaky")

    assert load_code(scope, tmp_path, "import flaky").flaky is scope.load("flaky")


def test_module_may_put_an_object_in_its_own_place(scope: ImportScope, tmp_path: Path) -> None:
    write(tmp_path, {"lazy.py": "import sys\nsys.modules[__name__] = type('Lazy', (), {'value': 7})()"})

    assert load_code(scope, tmp_path, "import lazy\nfrom lazy import value").value == 7


@pytest.mark.usefixtures("compiles_to_files")
def test_edit_of_equal_size_in_the_same_second_is_seen(load: Load, tmp_path: Path) -> None:
    """A cached compilation is told apart by whole seconds and size."""
    code = """
from coprocess import Pre
import helper

@Pre
def hook(request):
    request.headers["X"] = helper.VALUE
"""
    seen = []
    for value in "1234":
        write(tmp_path, {"handlers.py": code, "helper.py": f"VALUE = '{value}'"})
        seen.append(set_headers(reply_of(good(load(tmp_path)), "hook"))["X"])

    assert seen == ["1", "2", "3", "4"]


def test_each_load_has_modules_of_its_own(load: Load) -> None:
    first, second = (the_hook(good(load(program("circular"))), "circle") for _ in range(2))

    assert global_of(first, "second") is not global_of(second, "second")


identifiers = st.from_regex(r"\A[a-z][a-z_0-9]{0,8}\Z").filter(
    lambda name: (
        name.isidentifier()
        and name not in sys.stdlib_module_names
        and not __import__("keyword").iskeyword(name)
    )
)


@given(names=st.lists(identifiers, min_size=1, max_size=4, unique=True), data=st.data())
def test_any_tree_of_packages_is_imported_by_its_names(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    """`import a.b.c`, `from a.b import c` and `from .a.b import c` give one module, the file's own."""
    folder = tmp_path_factory.mktemp("tree")
    *packages, leaf = names
    for depth in range(1, len(packages) + 1):
        write(folder, {"/".join([*packages[:depth], "__init__.py"]): ""})
    write(folder, {"/".join([*packages, f"{leaf}.py"]): f"WHO = {'.'.join(names)!r}"})
    parent = ".".join(packages)
    ways = [f"import {'.'.join(names)} as found", f"from .{parent} import {leaf} as found"]
    if parent:
        ways.append(f"from {parent} import {leaf} as found")
    chosen = data.draw(st.permutations(ways))
    write(folder, {f"main_{number}.py": way for number, way in enumerate(chosen)})
    scope = ImportScope("test_tree", [folder], {})
    try:
        found = [scope.load(f"main_{number}").found for number in range(len(chosen))]
    finally:
        scope.forget()

    assert {module.WHO for module in found} == {".".join(names)}
    assert all(each is found[0] for each in found)
