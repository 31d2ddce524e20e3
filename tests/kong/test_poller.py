"""The poller gives steps to the events that wait for them, and nothing that it does waits for Kong."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import current_thread

import pytest

from coprocess.gateways.kong import connection as connections
from coprocess.gateways.kong import wire
from coprocess.gateways.kong.event import Event
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.workers import WorkerThreads
from tests.kong.server import Kong, Served, blocking, serving
from tests.server import PATIENCE_S, until

LONG = ServiceOptions(timeout_s=100, concurrency=1024, owns_process=False)
REFUSED = {"Method": "kong.response.exit", "Args": [500, {"message": "An unexpected error occurred"}]}
READS_BODY = """
class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        kong.request.get_raw_body()
"""


def hanging_until_told(folder: Path) -> tuple[str, Path]:
    """A plugin whose sync phase hangs until the file is there."""
    go_on = folder / "go_on"
    source = f"""
import time
from pathlib import Path

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        while not Path({str(go_on)!r}).exists():
            time.sleep(0.01)
"""
    return source, go_on


def waiting(served: Served, instance: object, count: int) -> list[tuple[Kong, int]]:
    """Events that wait for their step away from their connection, each with its id."""
    before = len(served.engine.late._inboxes)
    found = []
    for _ in range(count):
        kong = served.connect()
        found.append((kong, kong.event(instance)["EventId"]))
    until(lambda: len(served.engine.late._inboxes) == before + count)
    return found


def test_a_step_of_an_event_that_is_over_waits_for_no_room_on_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, who refused it held all other late steps up until Kong read."""
    monkeypatch.setattr(connections, "_SEND_WAIT_S", 1000.0)
    source, blocks, go_on = blocking(
        tmp_path,
        """loop.call_later(0.01, block)
        await kong.request.get_method()

    def response(self, kong):
        kong.request.get_raw_body()""",
    )
    with serving(tmp_path, source, service_options=LONG) as served:
        kong, third = served.connect(), served.connect()
        instance = kong.start()
        before = set(served.engine._connections)
        other = served.connect()
        (full,) = served.engine._connections - before
        asked = kong.event(instance)
        until(blocks.exists)
        try:
            for calls in (served.service.running.values(), served.service.async_calls._calls):
                for call in list(calls):
                    call.deadline_s = 0.0
            (event,) = served.engine.events.values()
            until(lambda: event.is_over)
            with suppress(BlockingIOError):
                while True:
                    full.socket.send(b"x" * 4096, socket.MSG_DONTWAIT)
            # As one that an event had waited on, so that the poller itself reads.
            full.awaits = 1
            other.send(wire.STEP, {"EventId": asked["EventId"]})
            until(lambda: full not in served.engine._connections)
            upload = third.event(instance, "response")
            until(lambda: upload["EventId"] in served.engine.late._inboxes)
            assert third.step(upload["EventId"], b"x")["Data"] == "ret"
        finally:
            go_on.touch()
        served.wait_idle()


def test_who_ends_an_event_gives_back_its_connection_though_its_step_comes_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, it gave back the other one, twice; and nobody read the event's own any more."""
    source, blocks, go_on = blocking(
        tmp_path,
        """loop.call_later(0.01, block)
        await kong.request.get_method()""",
    )
    with serving(tmp_path, source, service_options=LONG) as served:
        kong, other = served.connect(), served.connect()
        asked = kong.event(kong.start())
        until(blocks.exists)
        owed: Callable[[Event], list[bool]] = vars(Event)["_all_owed"].fget
        refusals: list[object] = []

        def step_comes(event: Event) -> list[bool]:
            """As the watchdog has said that the event is over, and done no more."""
            if event.is_over and current_thread().name == "watchdog" and not refusals:
                refusals.append(other.ask(wire.STEP, {"EventId": asked["EventId"]})["Data"])
            return owed(event)

        monkeypatch.setattr(Event, "_all_owed", property(step_comes))
        try:
            for call in list(served.service.async_calls._calls):
                call.deadline_s = 0.0
            # The event is gone before who asked has the answer.
            until(lambda: not served.engine.events and bool(refusals))
        finally:
            go_on.touch()
        assert refusals == [REFUSED]
        for each in (kong, other):
            assert each.ask(wire.STEP, {"EventId": 12345})["Data"] == REFUSED
        served.wait_idle()


def test_a_step_that_comes_in_pieces_while_all_threads_wait_is_taken(tmp_path: Path) -> None:
    """Once, its second piece waited for a thread behind those that waited for it."""
    with serving(tmp_path, READS_BODY, max_threads=4, service_options=LONG) as served:
        served.engine._overdue.most_queued_s = 1000
        instance = served.connect().start()
        uploads = waiting(served, instance, 4)
        with ThreadPoolExecutor(4) as pool:
            taken = [pool.submit(kong.step, event_id, b"x" * 1_000_000) for kong, event_id in uploads]
            assert [each.result()["Data"] for each in taken] == ["ret"] * 4
        served.wait_idle()


def test_a_step_that_comes_as_the_last_thread_is_taken_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, it stood behind the events that came before it, and none of them ended."""
    with serving(tmp_path, READS_BODY, max_threads=4, service_options=LONG) as served:
        served.engine._overdue.most_queued_s = 1000
        instance = served.connect().start()
        uploads = waiting(served, instance, 4)
        # As it is told to who asks before one of those that are queued has taken the last.
        monkeypatch.setattr(WorkerThreads, "are_all_taken", False)
        queued = served.connect()
        queued.begin(instance)
        until(lambda: bool(served.engine._overdue.since_s))
        assert [kong.step(event_id, b"x")["Data"] for kong, event_id in uploads] == ["ret"] * 4
        assert queued.step(queued.answer().result["EventId"], b"x")["Data"] == "ret"
        served.wait_idle()


def test_who_refuses_what_is_overdue_waits_for_no_rest_of_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, each connection with half a message held up those behind it by as long as a read waits."""
    source, go_on = hanging_until_told(tmp_path)
    with serving(tmp_path, source, max_threads=4, service_options=LONG) as served:
        with monkeypatch.context() as patched:
            patched.setattr(connections, "READ_WAIT_S", 1000.0)
            slow = served.connect()
        *hanging, kong = [served.connect() for _ in range(5)]
        instance = kong.start()
        try:
            event = {"InstanceId": instance, "EventName": "access"}
            for each in hanging:
                each.send(wire.HANDLE_EVENT, event)
            until(lambda: served.service.in_flight == 4)
            frame = wire.pack_request(1, wire.HANDLE_EVENT, event)
            slow.socket.sendall(frame[:-5])
            until(lambda: len(served.engine._overdue.since_s) == 1)
            served.engine._overdue.most_queued_s = 0.1
            assert kong.event(instance)["Data"] == REFUSED
            slow.socket.sendall(frame[-5:])
            assert slow.answer().result["Data"] == REFUSED
        finally:
            served.engine._overdue.most_queued_s = 1000
            go_on.touch()
        assert [each.answer().result["Data"] for each in hanging] == ["ret"] * 4
        served.wait_idle()


def fill(full: socket.socket) -> None:
    """Leave no room for what is sent next."""
    for size in (2**16, 1):
        with suppress(BlockingIOError):
            while True:
                full.send(b"x" * size, socket.MSG_DONTWAIT)


def test_a_time_limit_is_kept_beside_one_whose_client_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the watchdog waited until there was room for its answer."""
    monkeypatch.setattr(connections, "_SEND_WAIT_S", 1000.0)
    source, go_on = hanging_until_told(tmp_path)
    short = ServiceOptions(timeout_s=0.5, concurrency=1024, owns_process=False)
    with serving(tmp_path, source, service_options=short) as served:
        deaf, other = served.connect(), served.connect()
        instance = deaf.start()
        deaf.begin(instance)
        until(lambda: len(served.engine.events) == 1)
        (event,) = served.engine.events.values()
        fill(event.connection.socket)
        other.begin(instance)
        assert other.answer().result["Data"] == REFUSED
        go_on.touch()
        served.wait_idle()


def test_what_is_refused_as_no_thread_takes_it_waits_for_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the others that were to be refused waited with it."""
    monkeypatch.setattr(connections, "_SEND_WAIT_S", 1000.0)
    with serving(tmp_path, READS_BODY, service_options=LONG) as served, ThreadPoolExecutor(1) as pool:
        instance = served.connect().start()
        for method, argument in (
            (wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "access"}),
            (wire.START_INSTANCE, {"Name": "p", "Config": "{}"}),
            ("plugin.Unknown", {}),
            (wire.STEP, {"EventId": 1}),
        ):
            ours, theirs = socket.socketpair()
            with theirs:
                full = connections.Connection(ours, 2**20)
                fill(ours)
                value = [wire.REQUEST, 1, method, [argument]]
                pool.submit(served.engine._refuse_overdue, full, value).result(PATIENCE_S)


def test_a_connection_that_cannot_be_watched_is_kept_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: object) -> None:
        raise OSError

    with serving(tmp_path, READS_BODY, service_options=LONG) as served:
        served.connect()
        watched = served.engine._poller._selector.get_map()
        until(lambda: len(watched) == 3)  # It, what listens, and what wakes.
        with monkeypatch.context() as patched:
            patched.setattr(served.engine._poller._selector, "register", refuses)
            kong = served.connect()
            with pytest.raises(EOFError):
                kong.receive()
        until(lambda: len(served.engine._connections) == 1)
