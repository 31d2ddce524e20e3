"""A reload takes no hook away that serves, unless somebody took it away, or says that it may be lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.hooks import HookTable
from coprocess.process.reload import Reloader
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from tests.serve_process import ServeProcess, stamping, write
from tests.test_reload import BROKEN, run_reload, stamp_of

#: One hook that serves, and one that is declared wrongly: the file has a problem from the start.
HALF_GOOD = stamping("one") + "\n@Pre\ndef wrong(no_such_parameter):\n    pass\n"


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=HALF_GOOD, other=stamping("x").replace("stamp(", "other("))


@pytest.fixture
def reloader(handlers: Path) -> Iterator[Reloader]:
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    reloader = Reloader(lambda: loader.load([handlers], HOME), service, strict=False)
    assert reloader.first()
    yield reloader
    reloader.loaded.forget()


def names(reloader: Reloader) -> list[str]:
    return sorted(hook.name for hook in reloader.loaded.table)


def test_a_syntax_error_in_a_file_that_had_a_problem_keeps_its_working_hook(
    reloader: Reloader, handlers: Path
) -> None:
    assert len(reloader.problems) == 1
    write(handlers, a=BROKEN)
    outcome = reloader.reload("test")
    assert not outcome.succeeded
    why, lost = outcome.errors
    assert why.startswith(f"{handlers}/a.py:")
    assert lost == f'the hook Pre "stamp" ({handlers}/a.py:3) serves, and would be gone'
    assert names(reloader) == ["other", "stamp"]


def test_a_second_handler_of_one_name_in_a_file_that_had_a_problem_takes_none_away(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("one"), b=HALF_GOOD.replace("stamp(", "b("))
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    reloader = Reloader(lambda: loader.load([handlers], HOME), service, strict=False)
    reloader.first()
    assert names(reloader) == ["b", "stamp"]
    write(handlers, b=HALF_GOOD)
    outcome = reloader.reload("test")
    assert not outcome.succeeded
    assert "stamp" in " ".join(outcome.errors)
    assert names(reloader) == ["b", "stamp"]
    reloader.loaded.forget()


def test_a_package_that_had_a_problem_keeps_the_hooks_of_its_modules(tmp_path: Path) -> None:
    package = tmp_path / "handlers" / "pack"
    package.mkdir(parents=True)
    inner = "@Pre\ndef wrong(no_such_parameter):\n    pass\n"
    write(package, __init__=f"from coprocess import Pre\nfrom . import inside\n{inner}", inside=stamping("i"))
    write(tmp_path / "handlers", other=stamping("x").replace("stamp(", "other("))
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    reloader = Reloader(lambda: loader.load([tmp_path / "handlers"], HOME), service, strict=False)
    reloader.first()
    write(package, inside=BROKEN)
    assert not reloader.reload("test").succeeded
    assert names(reloader) == ["other", "stamp"]
    reloader.loaded.forget()


def test_a_broken_file_behind_a_link_that_is_switched_is_the_same_file(tmp_path: Path) -> None:
    for release in ("1", "2"):
        folder = tmp_path / "releases" / release
        folder.mkdir(parents=True)
        write(folder, a=HALF_GOOD if release == "1" else BROKEN, broken=BROKEN)
        write(folder, other=stamping("o").replace("stamp(", f"other{release}("))
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    reloader = Reloader(lambda: loader.load([current], HOME), service, strict=False)
    reloader.first()
    current.unlink()
    current.symlink_to("releases/2")
    outcome = reloader.reload("test")
    # Nothing of broken.py, which was broken before, nor of other.py, which names its hook anew.
    assert len(outcome.errors) == 1
    assert 'Pre "stamp"' in outcome.errors[0]
    reloader.loaded.forget()


def test_a_hook_that_is_taken_out_of_a_file_is_gone_and_told(reloader: Reloader, handlers: Path) -> None:
    write(handlers, other="")
    outcome = reloader.reload("test")
    assert outcome.succeeded
    assert outcome.removed == (f'Pre "other" ({handlers}/other.py:3)',)
    assert names(reloader) == ["stamp"]


def test_a_file_that_is_deleted_takes_its_hooks_along(reloader: Reloader, handlers: Path) -> None:
    (handlers / "a.py").unlink()
    outcome = reloader.reload("test")
    assert outcome.succeeded
    assert len(outcome.removed) == 1
    assert names(reloader) == ["other"]


def test_an_emptied_folder_keeps_the_old_table(reloader: Reloader, handlers: Path) -> None:
    shutil.rmtree(handlers)
    handlers.mkdir()
    outcome = reloader.reload("test")
    assert outcome.errors == ("no hook would be left",)
    assert names(reloader) == ["other", "stamp"]
    assert reloader.reload("test", force=True).succeeded
    assert names(reloader) == []


def test_force_takes_what_can_be_loaded(reloader: Reloader, handlers: Path) -> None:
    write(handlers, a=BROKEN)
    outcome = reloader.reload("test", force=True)
    assert outcome.succeeded
    assert len(outcome.removed) == 1
    assert names(reloader) == ["other"]
    write(handlers, a=HALF_GOOD)
    assert reloader.reload("test").succeeded
    assert names(reloader) == ["other", "stamp"]


def test_the_command_says_which_hooks_would_be_gone_and_forces(handlers: Path, tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin"
    with ServeProcess(handlers, f"--admin={admin}") as service, service.client() as client:
        write(handlers, a=BROKEN)
        done = run_reload(f"--admin={admin}", folder=tmp_path)
        assert done.returncode == 1
        assert 'the hook Pre "stamp"' in done.stderr
        assert stamp_of(client) == "one"
        done = run_reload("--force", f"--admin={admin}", folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, "reloaded: 1 hooks\n")
        assert done.stderr == f'gone: Pre "stamp" ({handlers}/a.py:3)\n'
        gone = service.wait_for("hooks are gone")
        assert gone["level"] == "warning"
        assert json.dumps(gone["hooks"]) == json.dumps([f'Pre "stamp" ({handlers}/a.py:3)'])
