"""Names of handler modules stay: over reloads, on other replicas, and in processes that handlers start."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.handler_modules import NAMESPACE
from coprocess.loading.loaded import Loaded
from coprocess.loading.routes import Route
from tests.conftest import Load
from tests.loading import global_of, good, reply_of, set_headers, the_hook, write

PICKLES = """
import dataclasses, pickle, sys, typing
from coprocess import Pre
from kept import Kept

@dataclasses.dataclass
class Thing:
    mark: "str" = "{mark}"
    kept: "Kept | None" = None

@Pre
def hook(request):
    thing = pickle.loads(pickle.dumps(Thing()))
    assert type(thing) is Thing and typing.get_type_hints(Thing)["kept"]
    assert sys.modules[__name__].Thing is Thing
    request.headers["X-Mark"] = thing.mark
"""
KEPT = "class Kept:\n    pass\n"


def write_handlers(folder: Path, mark: str = "one") -> Path:
    return write(folder, {"things.py": PICKLES.format(mark=mark), "kept.py": KEPT})


def mark_of(loaded: Loaded) -> str:
    return set_headers(reply_of(good(loaded), "hook"))["X-Mark"]


def test_names_are_those_of_folder_and_file(load: Load, tmp_path: Path) -> None:
    for _ in range(2):
        hook = the_hook(good(load(write_handlers(tmp_path / "my-plug"))), "hook")
        assert hook.function.__module__ == f"{NAMESPACE}.my_plug.things"


def test_pickle_of_an_own_class_outlives_a_reload(load: Load, tmp_path: Path) -> None:
    first = load(write_handlers(tmp_path / "handlers"))
    first.serve()
    text = pickle.dumps(global_of(the_hook(good(first), "hook"), "Thing")("old"))
    second = load(write_handlers(tmp_path / "handlers", "two"))
    second.serve()
    first.forget()

    thing = pickle.loads(text)  # noqa: S301 - our own

    assert type(thing) is global_of(the_hook(good(second), "hook"), "Thing")
    assert thing.mark == "old"


def test_pickle_of_an_own_class_is_read_by_another_replica(load: Load, tmp_path: Path) -> None:
    """Its folder lies elsewhere."""
    loaded = load(write_handlers(tmp_path / "one" / "handlers"))
    text = pickle.dumps(global_of(the_hook(good(loaded), "hook"), "Thing")("mine"))
    write_handlers(tmp_path / "two" / "handlers")
    script = (
        "import pickle, sys; from pathlib import Path; from coprocess.loading import loader;"
        "from coprocess.gateways.tyk.home import HOME;"
        "loaded = loader.load([Path(sys.argv[1])], HOME);"
        "print(pickle.loads(bytes.fromhex(sys.argv[2])))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "two" / "handlers"), text.hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.stdout == "Thing(mark='mine', kept=None)\n", done.stderr


def test_calls_of_both_loads_pickle_their_own_while_both_run(load: Load, tmp_path: Path) -> None:
    old = load(write_handlers(tmp_path / "handlers"))
    old.serve()
    new = load(write_handlers(tmp_path / "handlers", "two"))

    assert [mark_of(old), mark_of(new)] == ["one", "two"]
    new.serve()
    assert [mark_of(old), mark_of(new), mark_of(old)] == ["one", "two", "one"]


def test_names_mean_what_serves_until_another_load_takes_over(load: Load, tmp_path: Path) -> None:
    """Also while a load runs, and after one that failed."""
    folder = write_handlers(tmp_path / "handlers")
    first = load(folder)
    first.serve()
    name = f"{NAMESPACE}.handlers.things"

    def meant() -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(sys.modules[name].Thing().mark))
        thread.start()
        thread.join()
        return found[0]

    gate = {"meant": meant, "seen": []}
    sys.modules["tests_gate"] = gate_module = type(sys)("tests_gate")
    vars(gate_module).update(gate)
    write_handlers(folder, "two")
    write(folder, {"zz.py": "import things, tests_gate\ntests_gate.seen.append(tests_gate.meant())\n1/0"})
    failed = load(folder)
    del sys.modules["tests_gate"]
    assert len(failed.problems) == 1
    failed.forget()

    assert gate["seen"] == ["one"]
    assert meant() == "one"
    (folder / "zz.py").unlink()
    second = load(folder)
    assert meant() == "one"
    second.serve()
    assert meant() == "two"
    second.forget()
    assert meant() == "one"


def test_versions_of_routes_have_names_of_their_own(tmp_path: Path) -> None:
    default = write_handlers(tmp_path / "handlers")
    canary = write_handlers(tmp_path / "canary" / "handlers", "two")
    for _ in range(2):
        loaded = loader.load([default], HOME, [Route("new", (canary,), 50)])
        hooks = {hook.version: hook.function.__module__ for hook in loaded.table}
        loaded.forget()
        assert hooks == {"": f"{NAMESPACE}.handlers.things", "new": f"{NAMESPACE}.new_handlers.things"}


def test_folders_of_one_name_are_told_apart(load: Load, tmp_path: Path) -> None:
    folders = [write_handlers(tmp_path / each / "handlers", each) for each in ("a", "b")]
    (folders[1] / "things.py").write_text(PICKLES.format(mark="b").replace("def hook", "def other"))

    for _ in range(2):
        table = good(load(*folders))
        names = {hook.name: hook.function.__module__ for hook in table}
        assert names == {"hook": f"{NAMESPACE}.handlers.things", "other": f"{NAMESPACE}.handlers_2.things"}


def test_relative_import_by_importlib_gets_the_sibling(load: Load, tmp_path: Path) -> None:
    code = """
import importlib
from coprocess import Pre
import helper

@Pre
def hook(request):
    found = importlib.import_module(".helper", __package__)
    late = importlib.import_module(".late", __package__)
    import late as again
    assert found == helper and found.runs is helper.runs and late.deep is again.deep
    request.headers["X-Mark"] = late.deep.VALUE
"""
    files = {
        "a.py": code,
        "helper.py": "runs = []\nruns.append(1)",
        "late.py": "import deep",
        "deep.py": "VALUE = 'deep'",
    }

    assert mark_of(load(write(tmp_path, files))) == "deep"


def test_module_attributes_are_set_through_the_name(load: Load, tmp_path: Path) -> None:
    code = """
import sys
from coprocess import Pre
me = sys.modules[__name__]
me.added = "added"
setattr(sys.modules[__name__], "gone", 1)
del sys.modules[__name__].gone

@Pre
def hook(request):
    assert "gone" not in globals() and "added" in dir(me) and vars(me) is globals()
    request.headers["X-Mark"] = added
"""
    assert mark_of(load(write(tmp_path, {"a.py": code}))) == "added"


def test_forgotten_names_are_gone(load: Load, tmp_path: Path) -> None:
    first, second = (load(write_handlers(tmp_path / "gone")) for _ in range(2))
    name = f"{NAMESPACE}.gone.things"
    first.forget()
    assert name in sys.modules
    second.forget()
    assert not [each for each in sys.modules if each.startswith(f"{NAMESPACE}.gone")]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


STARTS_PROCESSES = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
from coprocess import Pre
import library
from work import double

@Pre
def hook(request):
    context = multiprocessing.get_context(request.headers["X-Method"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pid, value = pool.submit(double, library.Number(21)).result(30)
    assert pid != os.getpid()
    request.headers["X-Mark"] = str(value.number)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_handlers_start_import_handler_modules(tmp_path: Path, method: str) -> None:
    work = "import os\nimport library\ndef double(n): return os.getpid(), library.Number(n.number * 2)\n"
    library = "class Number:\n    def __init__(self, number): self.number = number\n"
    files = {"hooks.py": STARTS_PROCESSES, "work.py": work, "vendor/library.py": library}
    write(tmp_path / "handlers", files)
    script = """
import sys
from pathlib import Path
from coprocess.loading import loader
from coprocess.gateways.tyk.home import HOME
from tests.loading import good, reply_of, set_headers
from tests.objects import make_request

if __name__ == "__main__":
    loaded = loader.load([Path(sys.argv[1])], HOME)
    request = make_request(headers={"X-Method": sys.argv[2]})
    print(set_headers(reply_of(good(loaded), "hook", request=request)))
"""
    write(tmp_path, {"main.py": script})
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "handlers"), method]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root, env={"PYTHONPATH": str(root)}
    )

    assert done.stdout == "{'X-Mark': '42'}\n", done.stderr
