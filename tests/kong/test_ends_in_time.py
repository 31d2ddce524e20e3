"""What Kong does not take, or sends bit by bit, holds nothing for ever; what is half sent is closed."""

from __future__ import annotations

import select
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import connection as connections
from coprocess.gateways.kong import late_steps, wire
from coprocess.gateways.kong.event import CLIENT_WAIT_S
from coprocess.gateways.kong.late_steps import LateSteps
from coprocess.runtime.service_options import ServiceOptions
from tests.kong.server import Kong, Served, serving
from tests.server import PATIENCE_S, until

LONG = ServiceOptions(timeout_s=100, concurrency=1024, owns_process=False)
SENDS_MUCH = """
class Plugin:
    def __init__(self, config): ...

    {kind}def access(self, kong):
        {waits}kong.service.request.set_raw_body("x" * 4_000_000)
"""
ASKS = """
class Plugin:
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        if self.config:
            kong.request.{name}()
"""


def end_all(served: Served) -> None:
    """As the watchdog does it when their time is over."""
    for calls in (served.service.running.values(), served.service.async_calls._calls):
        for call in list(calls):
            call.deadline_s = 0.0


def read_to_the_end(kong: Kong) -> int:
    """How many bytes came before the server closed the connection."""
    count = 0
    while data := kong.socket.recv(2**20):
        count += len(data)
    return count


@pytest.mark.parametrize("kind", ["", "async "])
def test_a_call_that_is_half_sent_ends_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Once, it was taken for one whose step is late: Kong waited for its end, and let the request by."""
    monkeypatch.setattr(connections, "_SEND_WAIT_S", 0.05)
    source = SENDS_MUCH.format(kind=kind, waits="await " if kind else "")
    with serving(tmp_path, source, service_options=LONG) as served:
        kong, other = served.connect(), served.connect()
        instance = kong.start()
        kong.begin(instance)
        until(lambda: bool(select.select([kong.socket], [], [], 0)[0]))
        until(lambda: len(served.engine._connections) == 1)
        assert 0 < read_to_the_end(kong) < 4_000_000
        assert len(other.run(instance)[0][1][0]) == 4_000_000
        served.wait_idle()


@pytest.mark.parametrize("kind", ["", "async "])
def test_a_call_that_is_half_sent_when_its_time_is_over_ends_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Once, that of an async phase was read on, with the rest of the call never sent."""
    monkeypatch.setattr(connections, "_SEND_WAIT_S", 1.0)
    source = SENDS_MUCH.format(kind=kind, waits="await " if kind else "")
    with serving(tmp_path, source, service_options=LONG) as served:
        kong = served.connect()
        instance = kong.start()
        kong.begin(instance)
        until(lambda: bool(select.select([kong.socket], [], [], 0)[0]))
        (event,) = served.engine.events.values()
        end_all(served)
        until(lambda: event.is_over)
        until(lambda: not served.engine._connections)
        assert 0 < read_to_the_end(kong) < 4_000_000
        served.wait_idle()


def test_an_event_that_ends_as_its_thread_turns_to_wait_waits_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, its thread waited as long as it may for a step that counts no more."""
    monkeypatch.setattr(late_steps, "_STEP_WAIT_S", 1000.0)
    wait = LateSteps.wait

    def ends_before(self: LateSteps, event: Any, *, may_wait: bool) -> Any:
        end_all(served)
        until(lambda: event.is_over)
        return wait(self, event, may_wait=may_wait)

    monkeypatch.setattr(LateSteps, "wait", ends_before)
    with serving(tmp_path, ASKS.format(name="get_method"), service_options=LONG) as served:
        kong = served.connect()
        asked = kong.event(kong.start('{"asks": true}'))
        served.wait_idle()
        until(lambda: not served.engine.abandoned_thread_count)
        # Its step comes all the same, and is answered: the request must not go on unguarded.
        assert kong.step(asked["EventId"], "GET")["Data"]["Args"][0] == 500


def test_values_that_come_bit_by_bit_keep_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, each kept one for as long as a byte came now and then."""
    monkeypatch.setattr(connections, "READ_WAIT_S", 1.0)
    monkeypatch.setattr(connections, "_PIECES_S", 0.05)
    with serving(tmp_path, ASKS.format(name="get_method"), max_threads=4) as served:
        served.engine._overdue.most_queued_s = 1000
        slow, kong = [served.connect() for _ in range(6)], served.connect()
        instance = kong.start('{"asks": true}')
        frame = wire.pack_request(1, wire.START_INSTANCE, {"Name": "p", "Config": " " * 3000 + "{}"})
        is_over = threading.Event()
        sent = [0] * len(slow)

        def trickle() -> None:
            while not is_over.wait(0.01):
                for number, each in enumerate(slow):
                    # One that nobody reads may be full.
                    with suppress(BlockingIOError):
                        sent[number] += each.socket.send(frame[sent[number] : sent[number] + 1])

        for each in slow:
            each.socket.setblocking(False)
        trickling = threading.Thread(target=trickle, daemon=True)
        trickling.start()
        try:
            until(lambda: min(sent) > 20)
            for _ in range(3):
                assert kong.step(kong.event(instance)["EventId"], "GET")["Data"] == "ret"
        finally:
            is_over.set()
            trickling.join()
        # Nothing of them is lost.
        for number, each in enumerate(slow):
            each.socket.settimeout(PATIENCE_S)
            each.socket.sendall(frame[sent[number] :])
            assert each.answer().result["Id"]
        served.wait_idle()


@pytest.mark.parametrize("name", ["get_method", "get_raw_body"])
def test_steps_that_come_while_all_threads_wait_for_steps_are_taken(tmp_path: Path, name: str) -> None:
    """Once, they waited for a thread behind those that waited for them."""
    with serving(tmp_path, ASKS.format(name=name), max_threads=4, service_options=LONG) as served:
        served.engine._overdue.most_queued_s = 1000
        kongs = [served.connect() for _ in range(40)]
        instance = kongs[0].start('{"asks": true}')
        for kong in kongs:
            kong.begin(instance)
        until(lambda: len(served.engine.late._inboxes) == 4)
        left = {kong.socket: kong for kong in kongs}
        while left:
            readable = select.select(list(left), [], [], PATIENCE_S)[0]
            assert readable
            for each in readable:
                kong = left.pop(each)
                assert kong.step(kong.answer().result["EventId"], b"GET")["Data"] == "ret"
        served.wait_idle()


def test_an_event_is_held_up_for_a_bounded_time(tmp_path: Path) -> None:
    """Once, one whose loop was blocked for good counted as held up for as long."""
    with serving(tmp_path, ASKS.format(name="get_raw_body"), service_options=LONG) as served:
        kong = served.connect()
        asked = kong.event(kong.start('{"asks": true}'))
        (event,) = served.engine.events.values()
        until(lambda: event.waits_since_s is not None)
        event.waits_since_s = time.monotonic() - 10_000
        assert event.held_up_s() <= CLIENT_WAIT_S
        kong.step(asked["EventId"], b"")
        served.wait_idle()
