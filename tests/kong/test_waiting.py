"""What waits for a place, a thread or another worker waits for a bounded time, and is answered."""

from __future__ import annotations

import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coprocess.api.context import current_call
from coprocess.errors import BadMessage
from coprocess.gateways.kong import sharing, wire
from coprocess.gateways.kong.call import PluginCall
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.gateway import KongGateway
from coprocess.gateways.kong.native import NativePlugin
from coprocess.gateways.kong.overdue import Overdue, Task
from coprocess.gateways.kong.sharing import Share
from coprocess.runtime.service_options import ServiceOptions
from tests.kong.server import serving
from tests.server import PATIENCE_S, until

REFUSED = {"Method": "kong.response.exit", "Args": [500, {"message": "An unexpected error occurred"}]}


@pytest.mark.parametrize("kind", ["", "async "])
def test_what_waits_for_a_place_behind_uploads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Once, it waited without end: Kong let it by."""
    monkeypatch.setattr(KongGateway, "most_queued_s", 0.05)
    source = f"""
class Plugin:
    def __init__(self, config): ...

    {kind}def access(self, kong):
        {"await " if kind else ""}kong.request.get_raw_body()
"""
    options = ServiceOptions(timeout_s=100, concurrency=1, async_concurrency=1, owns_process=False)
    with serving(tmp_path, source, service_options=options) as served:
        uploads, other = served.connect(), served.connect()
        instance = uploads.start()
        upload = uploads.event(instance)
        for _ in range(2):
            assert other.event(instance)["Data"] == REFUSED
        assert uploads.step(upload["EventId"], b"x")["Data"] == "ret"
        assert other.step(other.event(instance)["EventId"], b"x")["Data"] == "ret"
        served.wait_idle()
        assert sum(counts.shed for counts in served.service.gates.totals().values()) == 2


def test_busy_connections_leave_a_thread_to_others(tmp_path: Path) -> None:
    """Once, each thread stayed with its connection: those beyond the threads were never read."""
    source = """
class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        kong.request.get_header("a")
"""
    with serving(tmp_path, source, max_threads=4) as served:
        served.engine._overdue.most_queued_s = 1000
        instance = served.connect().start()
        busy = [served.connect() for _ in range(6)]
        is_over = threading.Event()
        served_each = [0] * 6

        def run(number: int) -> None:
            while not is_over.is_set():
                assert busy[number].run(instance) == [("kong.request.get_header", ["a"])]
                served_each[number] += 1

        with ThreadPoolExecutor(6) as pool:
            runs = [pool.submit(run, number) for number in range(6)]
            try:
                until(lambda: min(served_each) >= 2)
            finally:
                is_over.set()
            for each in runs:
                each.result()
        served.wait_idle()


def test_a_connection_is_read_on_while_its_thread_runs_those_that_waited_for_its_place(
    tmp_path: Path,
) -> None:
    """Once, it was read again only when nobody waited any more."""
    source = f"""
import time
from pathlib import Path

class Plugin:
    def __init__(self, config):
        self.path = Path({str(tmp_path)!r}) / config.get("until", "")

    def access(self, kong):
        while not self.path.exists():
            time.sleep(0.001)
"""
    options = ServiceOptions(timeout_s=100, concurrency=1, owns_process=False)
    with serving(tmp_path, source, service_options=options) as served:
        first, second = served.connect(), served.connect()
        one, two = first.start('{"until": "one"}'), second.start('{"until": "two"}')
        served.wait_idle()  # Of the starts, too: they are answered before they end.
        first.begin(one)
        until(lambda: served.service.in_flight == 1)
        second.begin(two)
        until(lambda: served.service.in_flight == 2)
        (tmp_path / "one").touch()
        assert first.answer().result["Data"] == "ret"
        first.start()
        (tmp_path / "two").touch()
        assert second.answer().result["Data"] == "ret"
        served.wait_idle()


def test_a_reader_leaves_a_connection_on_which_another_thread_waits_for_the_events_step() -> None:
    """Once, after the time limit, both read it."""
    late = SimpleNamespace(wake=lambda event_id: None)
    engine: Any = SimpleNamespace(events={}, late=late)
    connection: Any = object()
    me = threading.get_ident()
    event = Event(engine, connection, wire.HANDLE_EVENT, wire.pack_head(1), {}, me, 70_000)
    event.thread = me
    event._owed.clear()  # Another thread asks.
    event.is_over = True
    event.respond(b"")
    assert event.release() is None


def test_who_looks_for_overdue_events_ends_with_the_server() -> None:
    """Once, it looked without pause, and for ever, where what was overdue had been taken."""
    looked = threading.Event()

    def are_all_taken() -> bool:
        looked.set()
        return True

    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    overdue = Overdue(tasks, tasks.put, are_all_taken, lambda connection, value: None)
    overdue.most_queued_s = 0.0
    connection: Any = object()
    overdue.since_s[connection] = time.monotonic() - 1
    looking = threading.Thread(target=overdue._run, daemon=True)
    looking.start()
    assert looked.wait(PATIENCE_S)
    overdue.stop()
    looking.join(PATIENCE_S)
    assert not looking.is_alive()


@pytest.mark.parametrize("came", [b"\xc1", b"\x91"])
def test_a_connection_with_what_is_no_value_stays_with_who_gives_it(tmp_path: Path, came: bytes) -> None:
    """Once, the taker said that it had taken it, and closed it then."""
    path = tmp_path / "kong-1.sock"
    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor(1) as pool:
        listening.bind(str(path))
        listening.listen()
        kong, given = socket.socketpair()
        with kong, given:
            is_given = pool.submit(sharing._give, path, given, came)
            with listening.accept()[0] as other:
                assert sharing.take(other) is None
            assert is_given.result(PATIENCE_S) is False
            given.sendall(b"answer")
            assert kong.recv(10) == b"answer"


def test_a_number_of_a_worker_that_is_too_long_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    """Once, it was a ValueError of Python's."""
    plugin: Any = SimpleNamespace(share=Share(tmp_path, 0, 2), _key="coprocess_x")
    token = current_call.set(PluginCall.__new__(PluginCall))
    try:
        with pytest.raises(BadMessage, match=r"coprocess_x in kong\.ctx\.shared.*Expected"):
            NativePlugin._is_run_elsewhere(plugin, "x-" + "9" * 5000)
    finally:
        current_call.reset(token)
