"""`coprocess kong serve --workers N`: several processes as one plugin server."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.balance import Gift, Loads
from tests.kong.server import Kong
from tests.kong.test_commands import KONG, connect, open_kongs, wait_for_worker
from tests.server import PATIENCE_S

PLUGIN = """
import os

class Plugin:
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        kong.response.set_header("x-from", f"{self.config['message']} {os.getpid()}")

    def rewrite(self, kong):
        body = kong.request.get_raw_body()[0]
        kong.response.set_header("x-body", f"{body} {os.getpid()}")

    def certificate(self, kong):
        os._exit(3)
"""


class Server:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "p.socket"
        plugin = folder / "p.py"
        plugin.write_text(PLUGIN)
        words = [*KONG, "serve", str(plugin), "-p", str(folder), "--workers", "2"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def connect(self) -> Kong:
        return connect(self.path, self.process)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("workers"))
    try:
        wait_for_worker(server.path, server.process)
        wait_for_both(server, started(server)[1])
        yield server
    finally:
        while open_kongs:
            open_kongs.pop().close()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(PATIENCE_S)
    assert status == 0
    assert not server.path.exists()


def started(server: Server) -> tuple[Kong, int]:
    kong = server.connect()
    kong.send(wire.START_INSTANCE, {"Name": "p", "Config": '{"message": "hi"}'})
    assert wire.message_of(kong.receive()) == wire.Notification(wire.SERVER_PID, server.process.pid)
    result = kong.answer().result
    assert isinstance(result, dict)
    return kong, result["Id"]


def process_that_runs(kong: Kong, instance: int) -> int:
    ((method, (name, value)),) = kong.run(instance)
    assert (method, name) == ("kong.response.set_header", "x-from")
    message, pid = value.split()
    assert message == "hi"
    return int(pid)


def wait_for_both(server: Server, instance: int) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while len({process_that_runs(greeted(server), instance) for _ in range(2)}) < 2:
        assert time.monotonic() < until_s
        time.sleep(0.1)


def greeted(server: Server) -> Kong:
    kong = server.connect()
    assert isinstance(wire.message_of(kong.receive()), wire.Notification)
    return kong


def test_an_instance_is_known_in_every_worker_until_it_is_closed(server: Server) -> None:
    kong, instance = started(server)
    kongs = [kong, *(greeted(server) for _ in range(3))]
    assert len({process_that_runs(each, instance) for each in kongs}) == 2
    kongs[1].ask(wire.CLOSE_INSTANCE, instance)
    kongs[1].send(wire.CLOSE_INSTANCE, instance)
    assert "no plugin instance" in str(kongs[1].answer().error)


def test_a_step_on_a_connection_of_another_worker_finds_its_event(server: Server) -> None:
    first, instance = started(server)
    others = [greeted(server) for _ in range(3)]
    other = next(
        each for each in others if process_that_runs(each, instance) != process_that_runs(first, instance)
    )
    asked = first.event(instance, "rewrite")
    assert asked["Data"]["Method"] == "kong.request.get_raw_body"
    answered = other.step(asked["EventId"], b"late")
    ours = process_that_runs(first, instance)
    assert answered["Data"]["Args"] == ["x-body", f"b'late' {ours}"]
    assert other.step(answered["EventId"])["Data"] == "ret"
    # That connection is the worker's now.
    assert process_that_runs(other, instance) == ours
    # Of an event that is nobody's, a step is refused by whoever gets it.
    for event_id in (10**6, 10**6 + 1):
        assert other.step(event_id)["Data"]["Method"] == "kong.response.exit"


def test_connections_that_one_worker_has_are_spread_and_no_event_is_lost(server: Server) -> None:
    kong, instance = started(server)
    ours = process_that_runs(kong, instance)
    kongs = [kong]
    while len(kongs) < 8:
        if process_that_runs(another := greeted(server), instance) == ours:
            kongs.append(another)
    # Each has an event at all times, which waits for Kong.
    asked = [each.event(instance, "rewrite") for each in kongs]
    until_s = time.monotonic() + 60
    processes: Counter[str] = Counter()
    while sorted(processes.values()) not in ([3, 5], [4, 4]):
        assert time.monotonic() < until_s, processes
        processes.clear()
        for number, each in enumerate(kongs):
            answered = each.step(asked[number]["EventId"], b"x")
            name, value = answered["Data"]["Args"]
            assert (name, value.split()[0]) == ("x-body", "b'x'")
            processes[value.split()[1]] += 1
            assert each.step(answered["EventId"])["Data"] == "ret"
            asked[number] = each.event(instance, "rewrite")
    for each, event in zip(kongs, asked, strict=True):
        answered = each.step(event["EventId"], b"x")
        assert each.step(answered["EventId"])["Data"] == "ret"


def test_what_is_given_depends_on_who_has_how_many_and_tells_of_it(tmp_path: Path) -> None:
    loads = [Loads(tmp_path / "loads", number, 3) for number in range(3)]
    assert loads[0].gift(100.0) is None

    def gifts(*events: float, now_s: float = 100.0) -> list[Gift | None]:
        for each, has in zip(loads, events, strict=True):
            each.tell(100.0, has)
        return [each.gift(now_s) for each in loads]

    assert gifts(5, 5, 5) == [None] * 3
    assert gifts(5, 4, 4) == [None] * 3
    assert gifts(1, 0, 0) == [None] * 3
    assert gifts(12, 0, 12) == [Gift(1, 4), None, Gift(1, 4)]
    assert gifts(100, 90, 90) == [None] * 3
    # Who has told nothing for long hangs, or is gone.
    assert gifts(9, 0, 9, now_s=102.0) == [None] * 3


def expect_refused(kong: Kong) -> None:
    """It gets bytes that are no answer: to Kong, a reason to refuse the request, as an end alone is not."""
    with pytest.raises(wire.FrameError):
        kong.receive()
    kong.send(wire.CLOSE_INSTANCE, 0)  # What is sent meanwhile meets no closed connection, as that is let by.
    kong.close()


@pytest.mark.parametrize("how", ["it ends", "it is killed"])
def test_a_worker_that_dies_lets_no_request_by(server: Server, how: str) -> None:
    """Once, Kong found the connection closed, and let the request by."""
    first, instance = started(server)
    others = [greeted(server) for _ in range(3)]
    victim = process_that_runs(first, instance)
    processes = [process_that_runs(each, instance) for each in others]
    asked = first.event(instance, "rewrite")  # It waits for Kong.
    if how == "it ends":
        dying = others[processes.index(victim)]
        dying.begin(instance, "certificate")
        expect_refused(dying)
    else:
        os.kill(victim, signal.SIGKILL)
    expect_refused(first)
    assert asked["Data"]["Method"] == "kong.request.get_raw_body"
    # What others have stays.
    for each, process in zip(others, processes, strict=True):
        if process != victim:
            assert process_that_runs(each, instance) == process
    wait_for_both(server, instance)


def test_what_a_killed_worker_had_goes_on_in_others(server: Server) -> None:
    kong, instance = started(server)
    pid = process_that_runs(kong, instance)
    os.kill(pid, signal.SIGKILL)
    expect_refused(kong)
    for _ in range(4):
        assert process_that_runs(greeted(server), instance) != pid
    wait_for_both(server, instance)


def test_sighup_reloads_every_worker_and_instances_stay(server: Server) -> None:
    kong, instance = started(server)
    plugin = server.path.with_suffix(".py")
    plugin.write_text(PLUGIN.replace("x-from", "x-new"))
    server.process.send_signal(signal.SIGHUP)
    kongs = [kong, greeted(server)]
    names: list[str] = []
    until_s = time.monotonic() + PATIENCE_S
    while names != ["x-new", "x-new"]:
        names = [each.run(instance)[0][1][0] for each in kongs]
        assert time.monotonic() < until_s
    plugin.write_text(PLUGIN)
    server.process.send_signal(signal.SIGHUP)
    while names != ["x-from", "x-from"]:
        names = [each.run(instance)[0][1][0] for each in kongs]
        assert time.monotonic() < until_s


def test_a_front_that_is_killed_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_folder: Path
) -> None:
    """Configurations of plugins stayed among the temporary files."""
    monkeypatch.setenv("TMPDIR", str(short_folder))
    server = Server(tmp_path)
    try:
        wait_for_worker(server.path, server.process)
        wait_for_both(server, started(server)[1])
        (folder,) = short_folder.iterdir()
        assert list(folder.glob("instance-*.json"))
    finally:
        server.process.kill()
        server.process.wait()
        while open_kongs:
            open_kongs.pop().close()
    until_s = time.monotonic() + PATIENCE_S
    while folder.exists():
        assert time.monotonic() < until_s, list(folder.iterdir())
        time.sleep(0.05)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """One whose path is short enough for the sockets in folders in it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
