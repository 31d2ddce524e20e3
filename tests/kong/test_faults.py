"""A fault of ours, or of the system, lets no request by, and ends no thread of the engine."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import async_steps, sharing, wire
from coprocess.gateways.kong.connection import Connection
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.instances import Instance, Instances
from coprocess.gateways.kong.late_steps import LateSteps
from coprocess.gateways.kong.left_behind import LeftBehind
from coprocess.gateways.kong.methods import Method
from coprocess.gateways.kong.poller import Poller
from coprocess.gateways.kong.sharing import Front, Share
from coprocess.gateways.kong.telling import _Telling
from coprocess.gateways.kong.turns import EventEnded
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engine import Methods
from tests.event_loops import KINDS, use_loops_of
from tests.kong.server import Served, blocking, serving
from tests.server import PATIENCE_S, until

LONG = ServiceOptions(timeout_s=100, concurrency=1024, owns_process=False)
REFUSED = {"Method": "kong.response.exit", "Args": [500, {"message": "An unexpected error occurred"}]}
PLUGIN = """
class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        kong.request.get_method()
"""


def fault(*arguments: Any) -> Any:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize("where", ["as it is found ready", "as it is served"])
def test_a_fault_beside_a_connection_refuses_its_request_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Once, nobody read it any more: Kong waited for 60 s, and let the request by."""
    with serving(tmp_path, PLUGIN, service_options=LONG) as served:
        instance = served.connect().start()
        kong = served.connect()
        with monkeypatch.context() as patched:
            patched.setattr(served.engine, "resume_at_once" if "ready" in where else "_serve_next", fault)
            kong.begin(instance)
            assert kong.answer().error == {"error": "not a message of Kong"}
            with pytest.raises((EOFError, ConnectionResetError)):
                kong.receive()
        assert len(served.connect().run(instance)) == 1


def test_connections_that_are_given_as_the_poller_fails_are_watched() -> None:
    """Once, they were looked at when something else woke it."""
    ready: list[Connection] = []
    is_ready = threading.Event()

    def on_ready(connection: Connection) -> None:
        ready.append(connection)
        is_ready.set()

    def on_accept(connected: socket.socket) -> Connection:
        connected.close()
        raise RuntimeError("a fault of ours")

    poller = Poller(on_ready, on_accept, Connection.close)
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as comes, theirs:
        listening.bind(b"\0" + os.urandom(8).hex().encode())
        listening.listen()
        poller.listen(listening)
        given = Connection(ours, 2**20)
        theirs.sendall(b"x")
        # One look finds both: it is woken, and then it fails.
        poller.add(given)
        comes.connect(listening.getsockname())
        poller.start()
        try:
            assert is_ready.wait(PATIENCE_S)
            assert ready == [given]
        finally:
            poller.stop()
            given.close()


@contextmanager
def no_file_for_the_first_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made, number = socket.socket, itertools.count()

    def make(*arguments: Any, **named: Any) -> socket.socket:
        if arguments == (socket.AF_UNIX,) and not named and next(number) == 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return made(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", make)
        yield


def test_a_front_without_a_free_file_goes_on_taking_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, its thread ended: what connected later waited for 60 s, and each request was let by."""
    share = Share(tmp_path, 0, 1)
    front = Front(tmp_path, 1, lambda: [True], list)
    path = tmp_path / "front.socket"
    front.listen(f"unix:{path}")
    with share.listen() as worker, socket.socket(socket.AF_UNIX) as kong:
        worker.settimeout(PATIENCE_S)
        with no_file_for_the_first_socket(monkeypatch):
            front.start(Methods())
            try:
                kong.connect(str(path))
                with worker.accept()[0] as other:
                    taken = sharing.take(other)
            finally:
                front.stop()
        assert taken is not None
        with taken[0] as connection:
            connection.sendall(b"greeting")
            assert kong.recv(10) == b"greeting"


def test_a_connection_that_no_worker_takes_is_refused_in_time(tmp_path: Path) -> None:
    """Once, it waited for as long as no worker came, and Kong let the request by after 60 s."""
    front = Front(tmp_path, 1, lambda: [False], list)
    front.most_queued_s = 0.1
    path = tmp_path / "front.socket"
    front.listen(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as kong:
        front.start(Methods())
        try:
            kong.settimeout(PATIENCE_S)
            kong.connect(str(path))
            kong.sendall(b"a request")
            assert kong.recv(10) == b"\xc1"  # No value of msgpack begins so.
        finally:
            front.stop()


def test_what_cannot_be_packed_is_given_to_no_other_worker(tmp_path: Path) -> None:
    """What some releases of msgpack read, they do not write: once, its connection was left unread."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not Share(tmp_path, 0, 2).give(1, ours, object())


def test_lines_that_two_threads_of_a_phase_tell_at_one_time_fail_neither() -> None:
    class Lines(list[Any]):
        """Another thread takes the last one just before."""

        def pop(self, index: Any = -1) -> Any:
            super().pop(index)
            return super().pop(index)

    told: list[Any] = []

    class Asked:
        def ask(self, method: Any, arguments: Any) -> None:
            told.append(arguments)

    asked: Any = Asked()
    telling = _Telling(asked, str)
    telling.lines = Lines([(Method("kong.log.err"), "the other's")])
    telling.tell()
    assert told == []


# Async phases.


def overdue(served: Served) -> None:
    """Let the time of the one event be over."""
    for call in list(served.service.async_calls._calls):
        call.deadline_s = 0.0
    until(lambda: not served.service.async_calls._calls)


def test_a_large_call_goes_out_while_the_plugins_code_has_all_threads_of_its_loop(tmp_path: Path) -> None:
    """Once, it waited for one of them; after 60 s, Kong let the request by."""
    access = """
        for _ in range(64):
            loop.run_in_executor(None, block)
        await kong.service.request.set_raw_body("x" * 100_000)
    """
    source, _, go_on = blocking(tmp_path, access)
    with serving(tmp_path, source, service_options=LONG) as served:
        kong = served.connect()
        try:
            asked = kong.event(kong.start())
            assert asked["Data"]["Args"] == ["x" * 100_000]
            assert kong.step(asked["EventId"])["Data"] == "ret"
        finally:
            go_on.touch()
        served.wait_idle()


@pytest.mark.parametrize("call", ["service.request.set_raw_body(", "response.exit(413, "])
def test_a_connection_by_which_a_large_call_went_out_is_read_though_the_loop_is_blocked(
    tmp_path: Path, call: str
) -> None:
    """Once, nobody read it while the loop was blocked; after 60 s, Kong let the next request by."""
    access = f"""
        loop.call_soon(block)
        await kong.{call}"x" * 1_000_000)
    """
    source, blocks, go_on = blocking(tmp_path, access)
    with serving(tmp_path, source, service_options=LONG) as served:
        kong = served.connect()
        instance = kong.start()
        kong.begin(instance)
        until(blocks.exists)
        try:
            # It is blocked before all is sent.
            asked = kong.answer().result
            overdue(served)
            if asked["Data"]["Method"] != "kong.response.exit":
                assert kong.step(asked["EventId"])["Data"] == REFUSED
            assert kong.start() != instance
        finally:
            go_on.touch()
        served.wait_idle()


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_is_taken_from_a_blocked_loop_waits_as_threads_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """uvloop makes what it reads non-blocking: a large answer that Kong is slow to read failed."""
    use_loops_of(kind, monkeypatch)
    access = """
        loop.call_later(0.05, block)
        await kong.request.get_method()
    """
    source, blocks, go_on = blocking(tmp_path, access)
    with serving(tmp_path, source, service_options=LONG) as served:
        kong = served.connect()
        asked = kong.event(kong.start())
        (event,) = served.engine.events.values()
        until(blocks.exists)
        try:
            overdue(served)
            assert kong.step(asked["EventId"])["Data"] == REFUSED
            assert os.get_blocking(event.connection.socket.fileno())
        finally:
            go_on.touch()
        served.wait_idle()


def test_a_connection_that_cannot_be_watched_is_left_to_who_has_ended_the_event() -> None:
    """Once, the loop closed it, though another had it by then."""
    ours, theirs = socket.socketpair()
    closed: list[Connection] = []

    class Engine:
        def __init__(self) -> None:
            self.events: dict[int, Event] = {}
            hands: Any = self
            self.late = LateSteps(self.events, hands)

        def close(self, connection: Connection) -> None:
            closed.append(connection)

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        engine: Any = Engine()
        event = Event(engine, Connection(ours, 2**20), wire.HANDLE_EVENT, wire.pack_head(1), {}, 1, 70_000)

        def add_reader(*arguments: Any) -> None:
            event.is_over = True
            assert event.reading
            event.reading.pop()
            raise ValueError("it is closed")

        setattr(loop, "add_reader", add_reader)  # noqa: B010 - a method, to mypy
        asking = asyncio.ensure_future(async_steps._ask(event, Method("kong.request.get_method"), ()))
        await asyncio.sleep(0)
        assert closed == []
        engine.late.wake(event.id)
        with pytest.raises(EventEnded):
            await asking

    with ours, theirs, asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(ask())


class _Crowded(OrderedDict[Any, Any]):
    """Another thread adds an instance as soon as somebody has begun to look through."""

    def __iter__(self) -> Iterator[Any]:
        found = super().__iter__()
        self[object()] = None
        return found


def test_instances_beyond_the_bound_go_while_other_threads_start_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coprocess.gateways.kong.instances.MOST_INSTANCES", 2)
    instances = Instances()
    instances._by_id = _Crowded()
    started = [instances.add(Instance("p", {})) for _ in range(5)]
    assert [instances.find(each.id) is each for each in started] == [False, False, False, True, True]


def test_a_connection_that_ends_is_kept_no_longer_for_the_case_that_its_worker_dies() -> None:
    left_behind = LeftBehind(list)
    left_behind.start()
    try:
        for ends_here in (True, False):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                left_behind.keep(ours)
                assert len(left_behind._kept) == 1
                if ends_here:
                    ours.shutdown(socket.SHUT_RDWR)
                else:
                    theirs.close()
                until(lambda: not left_behind._kept)
    finally:
        left_behind.stop()
