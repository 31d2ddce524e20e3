"""Events that handlers trigger."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from coprocess import Event, Pre, trigger_event
from coprocess.api.moments import HookType
from coprocess.transport.engines import EngineChoice
from tests.objects import hook_table, make_object, table_of
from tests.server import PATIENCE_S, serving, until
from tests.service.hooks import counts


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_event_that_a_handler_triggers(engine: EngineChoice, *, asynchronous: bool) -> None:
    seen: list[tuple[str, str, Any]] = []
    arrived = threading.Event()

    def take(event: Any) -> None:
        seen.append((event.type, event.api_id, event.meta["n"]))
        arrived.set()

    async def take_async(event: Any) -> None:
        await asyncio.sleep(0)
        take(event)

    def declare() -> None:
        @Pre(name="hook")
        def handler() -> None:
            trigger_event("tell", '{"n": 1}')

        Event(name="tell")(take_async if asynchronous else take)

    with serving(table_of(declare), engine=engine) as server:
        server.client.dispatch(make_object(api_id="a1"))
        assert arrived.wait(PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "tell")["ran"] == 1
    assert seen == [("tell", "a1", 1)]


def test_async_event_handlers_share_the_loop_with_the_others() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def declare() -> None:
        @Pre(name="hook")
        async def handler() -> None:
            loops.append(asyncio.get_running_loop())
            trigger_event("tell", "")

        @Event
        async def tell(event: Any) -> None:
            loops.append(asyncio.get_running_loop())

    with serving(table_of(declare)) as server:
        server.client.dispatch(make_object())
        until(lambda: len(loops) == 2)
    assert loops[0] is loops[1]


def test_an_event_that_nobody_takes_does_not_fail_the_handler() -> None:
    def handler() -> None:
        trigger_event("nobody", "{}")
        trigger_event("", "{}")

    with serving(hook_table(HookType.Pre, handler)) as server:
        server.client.dispatch(make_object())


def test_an_event_handler_that_fails_or_hangs_holds_up_no_other(release: threading.Event) -> None:
    arrived = threading.Semaphore(0)

    def declare() -> None:
        @Event(timeout=0.1)
        def hangs(event: Any) -> None:
            release.wait(PATIENCE_S)

        @Event
        def broken(event: Any) -> None:
            raise SystemExit(1)

        @Event
        def good(event: Any) -> None:
            arrived.release()

    with serving(table_of(declare)) as server:
        for _ in range(20):
            for name in ("hangs", "broken", "good"):
                trigger_event(name, "")
        for _ in range(20):
            assert arrived.acquire(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hangs")["timed_out"] == 20
        assert counts(server, "broken")["failed"] == 20


def test_stopping_waits_for_events_that_were_triggered() -> None:
    seen: list[int] = []

    def declare() -> None:
        @Event(concurrency=1)
        def tell(event: Any) -> None:
            time.sleep(0.002)
            seen.append(1)

    with serving(table_of(declare)) as server:
        for _ in range(20):
            trigger_event("tell", "")
        assert server.stop()
    assert len(seen) == 20


def test_without_a_service_an_event_is_an_error() -> None:
    with pytest.raises(RuntimeError, match='event "tell" was triggered, but no service runs'):
        trigger_event("tell", "{}")
