"""Streams with async handlers: their loop reads the messages, and each handler begins where it is read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coprocess import Post, Pre, Response
from coprocess.transport.http2.loop_turn import LoopTurn
from coprocess.transport.http2_engine import Http2Engine
from tests.envoy.call import Call
from tests.envoy.drive import GET
from tests.envoy.world import Running, serving
from tests.event_loops import KINDS, use_loops_of
from tests.server import PATIENCE_S, Client, until


@pytest.fixture(params=KINDS, autouse=True)
def each_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    use_loops_of(request.param, monkeypatch)


class Handlers:
    def __init__(self) -> None:
        self.blocked, self.release = threading.Event(), threading.Event()
        self.threads: dict[str, set[int]] = {}

    def ran(self, name: str) -> None:
        self.threads.setdefault(name, set()).add(threading.get_ident())

    def all(self) -> list[Any]:
        @Pre
        async def quick(request: Any) -> None:
            self.ran("quick")

        @Response
        async def after() -> None:
            self.ran("after")

        @Pre
        async def waits(state: Any) -> None:
            await asyncio.sleep(0.001)
            state.waited = True

        @Response
        async def waits_again(state: Any) -> None:
            await asyncio.sleep(0)
            assert state.waited

        @Post
        def plain(request: Any) -> None:
            # Where a loop runs in this thread, that raises.
            asyncio.run(asyncio.sleep(0))
            self.ran("plain")
            request.headers["X-Plain"] = "1"

        @Pre
        async def blocks() -> None:
            self.blocked.set()
            self.release.wait(PATIENCE_S)

        @Pre
        async def fails() -> None:
            raise SystemExit

        return [quick, after, waits, waits_again, plain, blocks, fails]


@contextmanager
def read_on_loop(handlers: Handlers) -> Iterator[tuple[Running, Client]]:
    with serving(*handlers.all()) as running, Client(running.address) as client:
        lend(running, client)
        yield running, client


def lend(running: Running, client: Client) -> None:
    engine = running.engine
    assert isinstance(engine, Http2Engine)

    def is_lent() -> bool:
        pass_through(client, pre="quick", response="after")
        return isinstance(engine._turns._turn, LoopTurn)

    until(is_lent)


def pass_through(client: Client, **says: str) -> None:
    call = Call(client.channel, **says)
    assert call.request().WhichOneof("response") == "request_headers"
    if "response" in says:
        assert call.response().WhichOneof("response") == "response_headers"
    assert call.end() == []


def test_they_run_on_the_loop_without_a_task_each() -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as (running, client):
        loop = running.service.async_calls.loop
        assert loop is not None

        def is_spare_left() -> bool:
            pass_through(client, pre="quick", response="after")
            return loop.spare is not None

        until(is_spare_left)
        spare = loop.spare
        for _ in range(20):
            pass_through(client, pre="quick", response="after")
        assert loop.spare is spare
        assert handlers.threads == {"quick": {loop.thread_id}, "after": {loop.thread_id}}
        until(lambda: running.gateway.open_streams == running.service.in_flight == 0)


def test_a_sync_handler_of_such_a_stream_runs_on_no_loop() -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as (running, client):
        loop = running.service.async_calls.loop
        assert loop is not None
        for _ in range(3):
            lend(running, client)
            for _ in range(5):
                pass_through(client, pre="quick", post="plain", response="after")
        assert loop.thread_id not in handlers.threads["plain"]
        # As large as a message that takes long to be read.
        large = [*GET, *((f"x-{number}", "x" * 10_000) for number in range(20))]
        lend(running, client)
        assert Call(client.channel, pre="quick").request(large).WhichOneof("response") == "request_headers"


def test_one_that_waits_goes_on_where_it_was() -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as (running, client):
        calls = [Call(client.channel, pre="waits,quick", response="waits_again,after") for _ in range(10)]
        for call in calls:
            assert call.request().WhichOneof("response") == "request_headers"
        for call in calls:
            assert call.response().WhichOneof("response") == "response_headers"
            assert call.end() == []
        until(lambda: running.gateway.open_streams == running.service.in_flight == 0)


def test_one_that_fails_closes_and_one_that_blocks_holds_up_no_other_hook() -> None:
    handlers = Handlers()
    with read_on_loop(handlers) as (running, client):
        assert Call(client.channel, pre="fails").request().immediate_response.status.code == 500
        lend(running, client)
        slow = threading.Thread(target=pass_through, args=(client,), kwargs={"pre": "blocks"})
        slow.start()
        assert handlers.blocked.wait(PATIENCE_S)
        for _ in range(5):
            pass_through(client, post="plain")
        assert slow.is_alive()
        handlers.release.set()
        slow.join(PATIENCE_S)
        assert not slow.is_alive()
        until(lambda: running.gateway.open_streams == running.service.in_flight == 0)
