"""Rollback: routes off, or back to the handlers from before; by page and by command, also with workers."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.loaded import Loaded
from coprocess.process.reload import Reloader, RollbackTo
from coprocess.process.route_settings import load_routes
from tests import forked
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import Client, Server, serving


def stamp_of(client: Client) -> str:
    return client.dispatch(make_object(hook_name="stamp")).request.set_headers["X-Stamp"]


class Project:
    """Handlers, and a canary of them, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.handlers = write(folder / "handlers", a=stamping("one"))
        write(folder / "next", a=stamping("canary"))
        self.settings = folder / "coprocess.toml"
        self.weigh(0)

    def weigh(self, percent: float) -> None:
        routes = f"[routes.canary]\nhandlers = ['{self.folder}/next']\nweight_percent = {percent}\n"
        self.settings.write_text(routes)

    def reloader(self, server: Server) -> Reloader:
        def load() -> Loaded:
            return loader.load([self.handlers], HOME, load_routes(self.settings))

        return Reloader(load, server.service, strict=False)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return forked.run(
            [sys.executable, "-m", "coprocess", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ),
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def test_routes_off_first_then_the_handlers_from_before(project: Project, server: Server) -> None:
    reloader = project.reloader(server)
    reloader.first()
    project.weigh(100)
    write(project.handlers, a=stamping("two"))
    reloader.reload("test")
    assert stamp_of(server.client) == "canary"

    rollback = reloader.roll_back()
    assert rollback.done is RollbackTo.ROUTES_OFF
    assert rollback.text == "all calls go to the default version; switched off: canary"
    assert stamp_of(server.client) == "two"
    rollback = reloader.roll_back()
    assert rollback.done is RollbackTo.PREVIOUS
    assert stamp_of(server.client) == "one"
    rollback = reloader.roll_back()
    assert rollback.done is None
    assert rollback.text.startswith("nothing to roll back to: no route has a share")
    assert stamp_of(server.client) == "one"
    assert reloader.rollbacks == {RollbackTo.ROUTES_OFF: 1, RollbackTo.PREVIOUS: 1}


def test_it_holds_until_a_reload_succeeds(project: Project, server: Server) -> None:
    reloader = project.reloader(server)
    project.weigh(100)
    reloader.first()
    reloader.roll_back()
    write(project.handlers, a="broken it is")
    assert not reloader.reload("test").succeeded
    assert (stamp_of(server.client), reloader.rolled_back) == ("one", RollbackTo.ROUTES_OFF)
    write(project.handlers, a=stamping("one"))
    assert reloader.reload("test").succeeded
    assert (stamp_of(server.client), reloader.rolled_back) == ("canary", None)


def test_nobody_goes_back_to_handlers_that_were_none(project: Project, server: Server) -> None:
    """What was broken at the start, and repaired by a reload, went back to no hook at all."""
    write(project.handlers, a="broken(")
    reloader = Reloader(lambda: loader.load([project.handlers], HOME), server.service, strict=False)
    reloader.first()
    write(project.handlers, a=stamping("repaired"))
    assert reloader.reload("test").succeeded
    rollback = reloader.roll_back()
    assert rollback.done is None
    assert rollback.text.startswith("nothing to roll back to")
    assert stamp_of(server.client) == "repaired"


def test_going_back_brings_no_route_back(project: Project, server: Server) -> None:
    """The operator had taken the route's share away: handlers from then must not give it back."""
    reloader = project.reloader(server)
    project.weigh(100)
    reloader.first()
    project.weigh(0)
    write(project.handlers, a=stamping("two"))
    reloader.reload("test")
    assert reloader.roll_back().done is RollbackTo.PREVIOUS
    assert stamp_of(server.client) == "one"


def test_what_was_asked_for_is_done_or_nothing(project: Project, server: Server) -> None:
    reloader = project.reloader(server)
    reloader.first()
    assert reloader.roll_back(RollbackTo.ROUTES_OFF).done is None
    assert reloader.roll_back(RollbackTo.PREVIOUS).done is None
    project.weigh(100)
    write(project.handlers, a=stamping("two"))
    reloader.reload("test")
    assert reloader.roll_back(RollbackTo.PREVIOUS).done is RollbackTo.PREVIOUS
    assert stamp_of(server.client) == "one"


def test_a_failed_start_is_nothing_to_go_back_to(project: Project, server: Server) -> None:
    def load() -> Loaded:
        return loader.load([project.handlers], HOME)

    write(project.handlers, a="broken it is")
    reloader = Reloader(load, server.service, strict=True)
    assert not reloader.first()
    write(project.handlers, a=stamping("two"))
    assert reloader.reload("repaired").succeeded
    assert reloader.roll_back().done is None
    assert stamp_of(server.client) == "two"


@pytest.mark.usefixtures("small_heap")
def test_reloads_and_rollbacks_leave_nothing_behind(project: Project, server: Server) -> None:
    reloader = project.reloader(server)
    reloader.first()

    def go_round(times: int) -> tuple[int, int]:
        for number in range(times):
            project.weigh(50 * (number % 2))
            reloader.reload("test")
            for _ in range(number % 3):
                reloader.roll_back()
            reloader.sweep()
        reloader.reload("test")
        reloader.reload("test")
        reloader.sweep()
        gc.collect()
        return len(sys.modules), len(gc.get_objects())

    modules, objects = go_round(12)
    later = go_round(40)
    assert later[0] == modules
    # An object or two for each would be more; others' threads make some.
    assert later[1] < objects + 70


@contextmanager
def load_on(service: ServeProcess, allowed: set[str]) -> Iterator[list[object]]:
    """Calls from two threads within; the list has what went wrong, and is empty at the end."""
    stop, wrong = threading.Event(), list[object]()

    def run() -> None:
        with service.client() as client:
            while not stop.is_set():
                try:
                    if (seen := stamp_of(client)) not in allowed:
                        wrong.append(seen)
                except Exception as error:  # noqa: BLE001 - it is what the test looks for
                    wrong.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield wrong
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("flags", [(), ("--workers=2",)], ids=["alone", "workers"])
def test_the_command_under_load(project: Project, flags: tuple[str, ...]) -> None:
    admin = f"--admin=unix:{project.folder}/admin"
    with ServeProcess(project.handlers, admin, *flags) as service, service.client() as client:
        done = project.command("rollback", admin)
        assert done.returncode == 1
        assert "coprocess: rollback failed; all is as it was\n" in done.stderr
        assert "nothing to roll back to" in done.stderr

        with load_on(service, {"one", "two", "canary"}):
            project.weigh(100)
            write(project.handlers, a=stamping("two"))
            assert project.command("reload", admin).returncode == 0
            assert {stamp_of(client) for _ in range(10)} == {"canary"}
            done = project.command("rollback", admin)
            assert done.stdout == "rolled back: all calls go to the default version; switched off: canary\n"
            assert {stamp_of(client) for _ in range(10)} == {"two"}
            done = project.command("rollback", "--to=previous", admin)
            assert done.stdout == "rolled back: the 2 hooks from before the last reload serve again\n"
            assert {stamp_of(client) for _ in range(10)} == {"one"}


def test_pages_and_metrics_tell(project: Project) -> None:
    project.weigh(100)
    with ServeProcess(project.handlers) as service, service.client() as client:
        status, text = service.http("POST", "/rollback?to=elsewhere")
        assert (status, json.loads(text)) == (400, {"error": "to: expected one of routes-off, previous"})
        assert service.http("GET", "/rollback")[0] == 405
        assert service.http("POST", "/rollback?to=previous")[0] == 409
        assert stamp_of(client) == "canary"
        status, text = service.http("POST", "/rollback")
        assert (status, json.loads(text)["to"]) == (200, "routes-off")
        assert service.wait_for("rolled back")["to"] == "routes-off"
        page = service.page("/hooks")
        assert (page["rolled_back"], page["routes"][0]["weight_percent"]) == ("routes-off", 0)
        metrics = service.http("GET", "/metrics")[1]
        assert 'coprocess_rollbacks_total{to="routes-off"} 1.0' in metrics
        assert 'coprocess_route_weight_percent{version="canary"} 0.0' in metrics
        assert "coprocess_rolled_back 1.0" in metrics
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("reloaded")
        assert stamp_of(client) == "canary"
        assert service.page("/hooks")["rolled_back"] is None
