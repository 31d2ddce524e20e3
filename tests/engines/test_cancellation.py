"""Deadlines and cancellation, on both engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from coprocess.gateways.tyk.wire import Object
from coprocess.transport.engines import EngineChoice
from tests.engines.hooks import Handlers, stamped
from tests.objects import make_object
from tests.server import (
    PATIENCE_S,
    Server,
    error_of,
    serving,
    until,
)

if TYPE_CHECKING:
    from grpc import _CallFuture as CallFuture


def begun_with_a_deadline(server: Server, handlers: Handlers, name: str) -> CallFuture[bytes]:
    for timeout_s in (1.0, 5.0, PATIENCE_S / 2):
        call = server.client.future(make_object(hook_name=name), timeout_s=timeout_s)
        while not call.done():  # Else the machine stood still for as long.
            if handlers.started.acquire(timeout=0.01):
                return call
    raise AssertionError("its handler does not begin")


@pytest.mark.parametrize("name", ["wait", "wait_async", "forever"])
def test_a_clients_deadline(server: Server, handlers: Handlers, name: str) -> None:
    assert stamped(server.client) == "7"  # It is connected.
    call = begun_with_a_deadline(server, handlers, name)
    assert error_of(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stamped(server.client) == "7"
    if name == "forever":
        assert handlers.cancelled.wait(PATIENCE_S)
    handlers.release.set()
    until(lambda: server.service.in_flight == 0)


def test_cancellation_reaches_an_async_handler(server: Server, handlers: Handlers) -> None:
    call = server.client.future(make_object(hook_name="forever"))
    handlers.wait_until_started(1)
    assert call.cancel()
    assert handlers.cancelled.wait(PATIENCE_S)
    until(lambda: server.service.in_flight == 0)
    assert stamped(server.client, "stamp_async") == "7"


def test_cancellation_of_many(server: Server, handlers: Handlers) -> None:
    """Also of those that have hardly begun: none is left, and none runs on."""
    for _ in range(20):
        calls = [server.client.future(make_object(hook_name="forever")) for _ in range(20)]
        for call in calls:
            call.cancel()
    # One connection keeps the order: once these are answered, all before have come.
    stamped(server.client)
    until(lambda: server.service.in_flight == 0)


def test_a_sync_handler_of_a_client_that_is_gone_ends(server: Server, handlers: Handlers) -> None:
    call = server.client.future(make_object(hook_name="wait"))
    handlers.wait_until_started(1)
    call.cancel()
    handlers.release.set()
    until(lambda: server.service.in_flight == 0)
    assert stamped(server.client) == "7"


def test_many_async_calls_wait_on_no_thread(engine: EngineChoice, handlers: Handlers) -> None:
    with serving(handlers.table(), engine=engine, max_threads=4) as server:
        calls = [server.client.future(make_object(hook_name="wait_async")) for _ in range(300)]
        handlers.wait_until_started(300)
        assert stamped(server.client) == "7"
        assert server.engine.thread_count <= 4
        handlers.release.set()
        replies = [Object.FromString(call.result(timeout=PATIENCE_S)) for call in calls]
        assert {reply.request.set_headers["X-Stamp"] for reply in replies} == {"waited"}
