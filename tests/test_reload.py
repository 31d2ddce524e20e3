"""Reload: on a signal, on file changes and by command; under load, with broken files, and without leaks."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.home import HOME
from coprocess.gateways.tyk.wire import Object
from coprocess.loading import loader
from coprocess.loading.hooks import HookTable
from coprocess.loading.scoped_imports import NAMESPACE
from coprocess.process.reload import Reloader
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from tests import forked
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, Client, Server, serving, until

BROKEN = "this is no Python"


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=stamping("one"))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def reloader_of(service: Service, folder: Path, *, strict: bool = False) -> Reloader:
    return Reloader(lambda: loader.load([folder], HOME), service, strict=strict)


def stamp_of(client: Client, hook: str = "stamp") -> str:
    reply = client.dispatch(make_object(hook_name=hook))
    return reply.request.set_headers["X-Stamp"]


def swept(reloader: Reloader, old: weakref.ref[Any]) -> bool:
    """Whether the handlers are forgotten that `old` is of."""
    reloader.sweep()
    gc.collect()
    return old() is None


def our_modules() -> list[str]:
    return [name for name in sys.modules if name.startswith(f"{NAMESPACE}.")]


def test_new_code_takes_over_and_the_old_is_forgotten(server: Server, handlers: Path) -> None:
    reloader = reloader_of(server.service, handlers)
    assert reloader.first()
    before = set(our_modules())
    (hook,) = reloader.loaded.table
    old = weakref.ref(hook.function)
    del hook
    assert stamp_of(server.client) == "one"
    write(handlers, a=stamping("two"))
    assert reloader.reload("test").succeeded
    assert stamp_of(server.client) == "two"
    reloader.sweep()
    assert before <= set(our_modules()), "a rollback may want them"
    write(handlers, a=stamping("three"))
    assert reloader.reload("test").succeeded
    until(lambda: swept(reloader, old))
    assert before
    assert before <= set(our_modules()), "names stay"
    assert stamp_of(server.client) == "three"


@pytest.mark.parametrize("broken", [BROKEN, "import nothing_like_it", "raise SystemExit", "1/0"])
def test_a_broken_file_keeps_the_old_table(server: Server, handlers: Path, broken: str) -> None:
    reloader = reloader_of(server.service, handlers)
    reloader.first()
    kept = our_modules()
    write(handlers, a=broken, b=stamping("b").replace("stamp(", "other("))
    outcome = reloader.reload("test")
    assert not outcome.succeeded
    assert str(handlers / "a.py") in outcome.errors[0]
    assert (reloader.failed, reloader.succeeded, len(reloader.problems)) == (1, 0, 1)
    assert stamp_of(server.client) == "one"
    # Nothing of it is half there.
    assert [hook.name for hook in reloader.loaded.table] == ["stamp"]
    assert our_modules() == kept
    write(handlers, a=stamping("two"))
    assert reloader.reload("test").succeeded
    assert stamp_of(server.client) == "two"
    assert reloader.problems == ()


def test_what_was_broken_before_keeps_nobody_from_repairing_another_file(
    server: Server, handlers: Path
) -> None:
    write(handlers, b=BROKEN)
    reloader = reloader_of(server.service, handlers)
    assert reloader.first()
    write(handlers, a=stamping("two"))
    assert reloader.reload("test").succeeded
    assert stamp_of(server.client) == "two"


def test_strict_allows_nothing_broken(server: Server, handlers: Path) -> None:
    write(handlers, b=BROKEN)
    reloader = reloader_of(server.service, handlers, strict=True)
    assert not reloader.first()
    assert not reloader.reload("test").succeeded
    assert len(reloader.loaded.table) == 0
    (handlers / "b.py").unlink()
    assert reloader.reload("test").succeeded
    assert stamp_of(server.client) == "one"


def test_a_folder_that_is_gone_keeps_the_old_table(server: Server, handlers: Path) -> None:
    reloader = reloader_of(server.service, handlers)
    reloader.first()
    handlers.rename(handlers.with_name("elsewhere"))
    assert "no such folder" in reloader.reload("test").errors[0]
    assert stamp_of(server.client) == "one"


WAITING = """
import pathlib, threading
from coprocess import Pre

@Pre
def stamp(request):
    pathlib.Path({here!r}, "started").touch()
    while not pathlib.Path({here!r}, "go").exists():
        threading.Event().wait(0.005)
    import late
    import pickle
    request.headers["X-Stamp"] = late.VALUE + pickle.loads(pickle.dumps(late.Thing())).mark
"""


def test_a_call_in_flight_ends_on_its_own_code_and_can_still_import(
    server: Server, handlers: Path, tmp_path: Path
) -> None:
    late = "VALUE = 'late'\nclass Thing:\n    mark = '!'\n"
    write(handlers, a=WAITING.format(here=str(tmp_path)), late=late)
    # A module that is first imported while the call runs: not loaded at the start.
    package = write(tmp_path / "handlers", a=WAITING.format(here=str(tmp_path)), late=late)
    assert package == handlers
    reloader = reloader_of(server.service, handlers)
    reloader.first()
    (hook,) = reloader.loaded.table
    old = weakref.ref(hook.function)
    del hook
    call = server.client.future(make_object(hook_name="stamp"))
    while not (tmp_path / "started").exists():
        threading.Event().wait(0.005)
    time.sleep(0.15)  # So that the watchdog has seen it: what it has seen, it must not keep.
    write(handlers, a=stamping("two"), late="VALUE = 'wrong'\n")
    # Twice: the handlers from before the last reload are kept anyway.
    assert reloader.reload("test").succeeded
    assert reloader.reload("test").succeeded
    assert stamp_of(server.client) == "two"
    for _ in range(3):
        reloader.sweep()
    assert not swept(reloader, old), "its call still runs"
    (tmp_path / "go").touch()
    reply = Object.FromString(call.result(PATIENCE_S))
    assert reply.request.set_headers["X-Stamp"] == "late!"
    del call
    until(lambda: swept(reloader, old))


def test_counts_go_on_over_reloads(server: Server, handlers: Path) -> None:
    reloader = reloader_of(server.service, handlers)
    reloader.first()
    for _ in range(3):
        stamp_of(server.client)
        reloader.reload("test")
        reloader.sweep()
    stamp_of(server.client)
    while True:
        # The last call is counted just after its answer.
        totals = server.service.gates.totals()
        if sum(totals["Pre", "stamp", "", "api"].durations) == 4:
            break
    assert list(totals) == [("Pre", "stamp", "", "api")]


@pytest.mark.usefixtures("small_heap")
def test_200_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    code = "import logging, dataclasses\nimport helper\nlog = logging.getLogger(__name__)\n" + stamping("x")
    handlers = write(tmp_path / "handlers", a=code, helper="import logging\nlogging.getLogger(__name__)\n")
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    reloader = reloader_of(service, handlers)
    reloader.first()

    def reload(times: int) -> tuple[int, int, int]:
        for number in range(times):
            if number % 10 == 9:
                write(handlers, b=BROKEN)
            reloader.reload("test")
            (handlers / "b.py").unlink(missing_ok=True)
            reloader.sweep()
        gc.collect()
        return len(sys.modules), len(logging.root.manager.loggerDict), len(gc.get_objects())

    modules, loggers, objects = reload(20)
    later = reload(200)
    assert later[:2] == (modules, loggers)
    # An object or two for each reload would be hundreds.
    assert later[2] < objects + 150


def test_reload_under_load_loses_no_call_and_never_goes_back(handlers: Path) -> None:
    """Each stamp counts up; after a reload is confirmed, no older one may be seen."""
    with ServeProcess(handlers) as service:
        confirmed = [0]
        stop = threading.Event()
        wrong: list[object] = []
        calls = [0, 0]

        def load(worker: int) -> None:
            with service.client() as client:
                while not stop.is_set():
                    least = confirmed[0]
                    try:
                        seen = int(stamp_of(client))
                    except Exception as error:  # noqa: BLE001 - it is what the test looks for
                        wrong.append(error)
                        return
                    if seen < least:
                        wrong.append((seen, least))
                    calls[worker] += 1

        write(handlers, a=stamping("0"))
        assert service.http("POST", "/reload")[0] == 200
        threads = [threading.Thread(target=load, args=(worker,)) for worker in range(2)]
        for thread in threads:
            thread.start()
        for version in range(1, 31):
            broken = version % 10 == 0
            before = list(calls)
            write(handlers, a=BROKEN if broken else stamping(str(version)))
            assert service.http("POST", "/reload")[0] == (409 if broken else 200)
            if not broken:
                confirmed[0] = version
            while not wrong and any(now == then for now, then in zip(calls, before, strict=True)):
                stop.wait(0.001)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_sighup(handlers: Path) -> None:
    with ServeProcess(handlers) as service, service.client() as client:
        write(handlers, a=stamping("two"))
        service.process.send_signal(signal.SIGHUP)
        assert service.wait_for("reloaded")["because"] == "SIGHUP"
        assert stamp_of(client) == "two"
        write(handlers, a=BROKEN)
        service.process.send_signal(signal.SIGHUP)
        failed = service.wait_for("reload failed; the handlers from before serve on")
        assert str(handlers / "a.py") in failed["errors"][0]
        assert stamp_of(client) == "two"


def test_file_changes(handlers: Path) -> None:
    with ServeProcess(handlers, "--reload") as service, service.client() as client:
        write(handlers, a=stamping("two"))
        assert service.wait_for("reloaded")["because"] == "file change"
        assert stamp_of(client) == "two"
        (handlers / "data.txt").write_text("of no interest")
        write(handlers, b=stamping("b").replace("stamp(", "other("))
        service.wait_for("reloaded")
        assert stamp_of(client, "other") == "b"


def test_strict_with_reload_waits_for_the_repair(handlers: Path) -> None:
    write(handlers, a=BROKEN)
    with ServeProcess(handlers, "--reload", "--strict", wait=False) as service:
        service.wait_for("listening")
        assert service.http("GET", "/readyz")[0] == 503
        write(handlers, a=stamping("one"))
        service.wait_for("serving")
        assert service.http("GET", "/readyz")[0] == 200
        with service.client() as client:
            assert stamp_of(client) == "one"


def run_reload(*flags: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-m", "coprocess", "reload", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


def test_the_command(handlers: Path, tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin"
    with ServeProcess(handlers, f"--admin={admin}") as service, service.client() as client:
        write(handlers, a=stamping("two"))
        done = run_reload(f"--admin={admin}", folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, "reloaded: 1 hooks\n")
        assert stamp_of(client) == "two"
        write(handlers, a=BROKEN)
        done = run_reload(f"--admin={admin}", folder=tmp_path)
        assert done.returncode == 1
        assert "coprocess: reload failed; the handlers from before serve on" in done.stderr
        assert str(handlers / "a.py") in done.stderr


def test_the_command_without_a_service(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        done = run_reload(f"--admin={address}", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"coprocess: admin: no service answers at {address}: Connection refused\n"
