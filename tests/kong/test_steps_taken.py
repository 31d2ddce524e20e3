"""A step that Kong has sent is taken, and answered, whatever its event does at that moment."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coprocess.gateways.kong import event as events
from coprocess.gateways.kong import late_steps, wire
from coprocess.gateways.kong.late_steps import LateSteps
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport import awake
from tests.kong.server import serving
from tests.server import PATIENCE_S, until

LONG = ServiceOptions(timeout_s=100, concurrency=1024, owns_process=False)
EXIT = {"Method": "kong.response.exit", "Args": [413, "slow"]}


def async_plugin(access: str) -> str:
    return f"""
import asyncio
import time
from pathlib import Path

class Plugin:
    def __init__(self, config): ...

    async def access(self, kong):
        {access}
"""


def test_a_step_is_not_refused_as_the_machine_stood_still_while_its_event_was_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, that time counted: the event had had a second to turn to its inbox, and had not run."""
    inside: Any = LateSteps({1: SimpleNamespace(id=1)}, SimpleNamespace())  # type: ignore[dict-item]  # what is asked of
    now_s, got, came = 100.0, list[Any](), ("its connection", "its step")

    def stands_still(seconds: float) -> None:
        nonlocal now_s
        if now_s > 100.0:
            inside.expect(SimpleNamespace(id=1), got.append, may_wait=False)
        now_s += 10.0

    clock = SimpleNamespace(monotonic=lambda: now_s, sleep=stands_still)
    for module in (late_steps, awake):
        monkeypatch.setattr(module, "time", clock)
    assert inside.deliver(1, came)
    assert got == [came]


def test_after_a_call_that_the_plugin_has_given_up_the_next_goes_out_with_its_step(tmp_path: Path) -> None:
    """Once, it waited until the time limit, and the request was refused with 500."""
    given_up = tmp_path / "given_up"
    body = f"""
        try:
            async with asyncio.timeout(0.01):
                await kong.request.get_raw_body()
        except TimeoutError:
            Path({str(given_up)!r}).touch()
        await kong.response.exit(413, "slow")
    """
    with serving(tmp_path, async_plugin(body), service_options=LONG) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(2):
            asked = kong.event(instance)
            until(given_up.exists)
            given_up.unlink()
            assert kong.step(asked["EventId"], b"body")["Data"] == EXIT
        served.wait_idle()


@pytest.mark.parametrize("by", ["its connection", "another connection"])
def test_a_step_that_comes_as_its_task_is_cancelled_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Once, nobody took it: Kong waited for 60 s, and let the request by."""
    go_on, delivered = tmp_path / "go_on", threading.Event()
    body = f"""
        asking = asyncio.create_task(kong.request.get_raw_body())
        await asyncio.sleep(0.001)
        while not Path({str(go_on)!r}).exists():
            time.sleep(0.001)
        asking.cancel()
        await kong.response.exit(413, "slow")
    """
    deliver = LateSteps.deliver

    def tells(self: LateSteps, event_id: int, came: Any) -> bool:
        taken = deliver(self, event_id, came)
        delivered.set()
        return taken

    monkeypatch.setattr(LateSteps, "deliver", tells)
    with serving(tmp_path, async_plugin(body), service_options=LONG) as served:
        one, other = served.connect(), served.connect()
        instance = one.start()
        asked = one.event(instance)
        by_one = one if by == "its connection" else other
        by_one.send(wire.STEP, {"EventId": asked["EventId"], "Data": b"body"})
        if by_one is other:
            assert delivered.wait(PATIENCE_S)
        go_on.touch()
        assert by_one.answer().result["Data"] == EXIT
        # Both are served on: once, the first was read by nobody any more.
        for kong in (one, other):
            assert kong.step(kong.event(instance)["EventId"], b"body")["Data"] == EXIT
        served.wait_idle()


def test_a_step_that_is_taken_as_the_time_is_over_is_answered_though_the_phase_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, nobody answered: who ended the event found nothing owed, and then the phase hung."""
    go_on = tmp_path / "go_on"
    source = f"""
import time
from pathlib import Path

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        try:
            kong.request.get_header("a")
        finally:
            while not Path({str(go_on)!r}).exists():
                time.sleep(0.001)
"""
    with serving(tmp_path, source, service_options=LONG) as served:
        kong = served.connect()
        asked = kong.event(kong.start())
        (event,) = served.engine.events.values()

        def packs_late(head: Any, message_id: int) -> bytes:
            for call in list(served.service.running.values()):
                call.deadline_s = 0.0
            until(lambda: event.is_over)
            return wire.pack_head(message_id)

        monkeypatch.setattr(events, "PACK_HEAD", packs_late)
        monkeypatch.setattr(events, "pack_head", lambda message_id: packs_late(None, message_id))
        assert kong.step(asked["EventId"], "v")["Data"]["Args"][0] == 500
        go_on.touch()
        served.wait_idle()


def test_a_stall_of_kong_refuses_no_event_that_waits_for_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, those beyond so many were given up, as are uploads."""
    monkeypatch.setattr(late_steps, "_MOST_WAITING", 3)
    source = """
class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        kong.request.get_header("a")
"""
    with serving(tmp_path, source) as served:
        kongs = [served.connect() for _ in range(6)]
        instance = kongs[0].start()
        asked = [kong.event(instance)["EventId"] for kong in kongs]
        until(lambda: set(asked) <= set(served.engine.late._inboxes))
        steps = [kong.step(event_id, "v")["Data"] for kong, event_id in zip(kongs, asked, strict=True)]
        assert steps == ["ret"] * 6
        served.wait_idle()


def test_uploads_of_async_phases_that_break_off_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, they held the places of the phase for 120 s."""
    monkeypatch.setattr(late_steps, "_MOST_TASKS_WAITING", 10)
    with serving(tmp_path, async_plugin("await kong.request.get_raw_body()")) as served:
        kong = served.connect()
        instance = kong.start()
        asked = [kong.event(instance)["EventId"] for _ in range(30)]
        until(lambda: len(served.engine.events) <= 10)
        assert asked[-1] in served.engine.events
        assert kong.step(asked[0], b"x")["Data"]["Args"][0] == 500
        for event_id in list(served.engine.events):
            assert kong.step(event_id, b"x")["Data"] == "ret"
        served.wait_idle()


def test_an_event_that_has_gone_on_by_another_connection_is_not_given_up_for_what_comes_on_its_first(
    tmp_path: Path,
) -> None:
    """Once, the first was taken to wait for the event's step still."""
    source = """
class Plugin:
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        if self.config:
            return
        kong.request.get_header("a")
        kong.request.get_raw_body()
        kong.response.set_header("done", "1")
"""
    with serving(tmp_path, source) as served:
        one, other = served.connect(), served.connect()
        asks, passes = one.start(), one.start('{"passes": true}')
        event_id = one.event(asks)["EventId"]
        until(lambda: event_id in served.engine.late._inboxes)
        assert other.step(event_id, "v")["Data"]["Method"] == "kong.request.get_raw_body"
        until(lambda: event_id in served.engine.late._in_threads)
        assert one.event(passes)["Data"] == "ret"
        assert other.step(event_id, b"body")["Data"]["Method"] == "kong.response.set_header"
        assert other.step(event_id)["Data"] == "ret"
        served.wait_idle()
