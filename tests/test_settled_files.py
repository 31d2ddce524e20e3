"""Reloads take whole folders: they wait for copies, follow paths, and load again what changed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from coprocess.errors import LoadError
from coprocess.loading.hooks import HookTable
from coprocess.loading.loaded import Loaded
from coprocess.process import settled_files
from coprocess.process.config import Settings
from coprocess.process.places import Places
from coprocess.process.settled_files import SettledLoad, take_snapshot
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, until
from tests.test_reload import stamp_of


def release(folder: Path, value: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write(folder, a=stamping(value), b=stamping(value).replace("stamp(", "other("))


@pytest.mark.parametrize("by", ["SIGHUP", "file change"])
def test_a_copy_that_is_under_way_is_waited_for(tmp_path: Path, by: str) -> None:
    handlers = release(tmp_path / "handlers", "one")
    # Much longer than it stands still between two writes: so may a busy machine, too.
    flags = ["--settle-s=6", *(["--reload"] if by == "file change" else [])]
    with ServeProcess(handlers, *flags) as service, service.client() as client:
        for path in handlers.iterdir():
            path.unlink()
        # Half of a file is whole Python, too.
        (handlers / "a.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'half')!r}).touch()\n")
        if by == "SIGHUP":
            service.process.send_signal(signal.SIGHUP)
        for name in ("x", "y", "b", "a"):
            threading.Event().wait(0.3)
            assert (stamp_of(client), stamp_of(client, "other")) == ("one", "one")
            write(handlers, **{name: stamping("two").replace("stamp(", f"{name}(")})
        release(handlers, "two")
        assert service.wait_for("reloaded")["because"] == by
        assert (stamp_of(client), stamp_of(client, "other")) == ("two", "two")
        assert not (tmp_path / "half").exists()
        assert not any("failed" in line["event"] for line in service.lines)


def switch_link(top: Path) -> Path:
    release(top / "releases" / "1", "one")
    (top / "current").symlink_to("releases/1")
    return top / "current"


def switched(handlers: Path) -> None:
    top = handlers.parent
    release(top / "releases" / "2", "two")
    (top / "next").symlink_to("releases/2")
    (top / "next").replace(handlers)


def mount(top: Path) -> Path:
    """As Kubernetes does with a ConfigMap."""
    handlers = top / "mounted"
    release(handlers / "..2026_1", "one")
    (handlers / "..data").symlink_to("..2026_1")
    for name in ("a.py", "b.py"):
        (handlers / name).symlink_to(f"..data/{name}")
    return handlers


def remounted(handlers: Path) -> None:
    release(handlers / "..2026_2", "two")
    (handlers / "..data_tmp").symlink_to("..2026_2")
    (handlers / "..data_tmp").replace(handlers / "..data")
    shutil.rmtree(handlers / "..2026_1")


def plain(top: Path) -> Path:
    return release(top / "handlers", "one")


def renamed_and_made_anew(handlers: Path) -> None:
    handlers.rename(handlers.with_name("old"))
    threading.Event().wait(0.3)
    release(handlers, "two")


def swapped(handlers: Path) -> None:
    new = release(handlers.with_name("new"), "two")
    handlers.rename(handlers.with_name("old"))
    new.rename(handlers)


@pytest.mark.parametrize(
    ("make", "change"),
    [(switch_link, switched), (mount, remounted), (plain, renamed_and_made_anew), (plain, swapped)],
)
def test_the_watch_follows_the_path(
    tmp_path: Path, make: Callable[[Path], Path], change: Callable[[Path], None]
) -> None:
    handlers = make(tmp_path)
    with ServeProcess(handlers, "--reload") as service, service.client() as client:
        assert stamp_of(client) == "one"
        change(handlers)
        service.wait_for("reloaded")
        # On a busy machine, the half of a change may be loaded before.
        until(lambda: (stamp_of(client), stamp_of(client, "other")) == ("two", "two"))
        # It goes on watching there.
        release(handlers, "three")
        service.wait_for("reloaded")
        until(lambda: stamp_of(client) == "three")


def test_a_default_folder_that_is_gone_takes_no_hook_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled_files, "MAX_OTHER_S", 0.1)
    from coprocess.gateways.tyk.home import HOME
    from coprocess.process.places import Places
    from coprocess.process.settings_loading import load_settings

    monkeypatch.chdir(tmp_path)
    handlers = release(tmp_path / "handlers", "one")
    (tmp_path / "event_handlers").mkdir()
    places = Places(load_settings({}), None)
    load = SettledLoad(lambda: places.load(HOME), places.all_folders, 0.01, lambda: False)
    load().forget()
    handlers.rename(tmp_path / "elsewhere")
    with pytest.raises(LoadError, match="was there, and is gone"):
        load()
    (tmp_path / "elsewhere").rename(handlers)
    loaded = load()
    assert len(loaded.table) == 2
    loaded.forget()


def test_an_edit_of_one_length_that_keeps_its_time_is_a_change(tmp_path: Path) -> None:
    """As of a copy that keeps times."""
    handlers = write(tmp_path / "handlers", a=stamping("one"))
    before, status = take_snapshot([handlers]), os.stat(handlers / "a.py")
    write(handlers, a=stamping("two"))
    os.utime(handlers / "a.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert take_snapshot([handlers]) != before


def test_a_routes_folder_that_is_gone_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "coprocess.toml").write_text('[routes.next]\nhandlers = ["next"]\nweight_percent = 5\n')
    places = Places(Settings(handlers=[tmp_path]), tmp_path / "coprocess.toml")
    places._base = tmp_path
    assert places.all_folders() == [tmp_path, tmp_path / "next"]
    waited: list[Path] = []

    def is_stopping() -> bool:
        if not waited:
            waited.append(write(tmp_path / "next", a=stamping("new")))
        return False

    SettledLoad(lambda: Loaded(HookTable()), places.all_folders, 0.01, is_stopping).wait()
    assert waited


def test_what_changed_while_it_was_loaded_is_loaded_again(tmp_path: Path) -> None:
    handlers = release(tmp_path / "handlers", "one")
    loads: list[int] = []

    def load() -> Loaded:
        loads.append(len(loads))
        if len(loads) == 1:
            write(handlers, c="")
        return Loaded(HookTable())

    SettledLoad(load, lambda: [handlers], 0.0, lambda: False)()
    assert loads == [0, 1]


def test_files_that_keep_changing_fail_the_reload_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled_files, "MAX_CODE_S", 0.2)
    handlers = release(tmp_path / "handlers", "one")
    stop = threading.Event()

    def keep_changing() -> None:
        number = 0
        while not stop.wait(0.01):
            number += 1
            write(handlers, a="#" * number)

    loads: list[bool] = []

    def load() -> Loaded:
        loads.append(True)
        return Loaded(HookTable())

    settled = SettledLoad(load, lambda: [handlers], PATIENCE_S, lambda: False)
    settled()
    thread = threading.Thread(target=keep_changing)
    thread.start()
    try:
        with pytest.raises(LoadError, match=r"a\.py: has kept changing"):
            settled()
    finally:
        stop.set()
        thread.join()
    assert len(loads) == 1


def test_data_that_handlers_write_fails_no_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled_files, "MAX_OTHER_S", 0.1)
    monkeypatch.setattr(settled_files, "MAX_CODE_S", PATIENCE_S)
    handlers = release(tmp_path / "handlers", "one")
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.wait(0.01):
            (handlers / "state.json").write_text(os.urandom(8).hex())

    settled = SettledLoad(lambda: Loaded(HookTable()), lambda: [handlers], 0.05, lambda: False)
    settled()
    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        settled()
    finally:
        stop.set()
        thread.join()


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    handlers = release(tmp_path / "handlers", "one")
    settled = SettledLoad(lambda: Loaded(HookTable()), lambda: [handlers], PATIENCE_S, lambda: True)
    settled()
    write(handlers, a="")
    with pytest.raises(LoadError, match="the service stops"):
        settled()


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    handlers = release(tmp_path / "handlers", "one")
    (handlers / "again").symlink_to(".")
    assert set(take_snapshot([handlers])) == {str(handlers), f"{handlers}/a.py", f"{handlers}/b.py"}
