"""Stopping, at rest and under load, on both engines."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coprocess import Pre
from coprocess.gateways.tyk.wire import Object
from coprocess.transport import awake, grpcio, http2_engine
from coprocess.transport.engines import EngineChoice, is_compiled, make_engine
from coprocess.transport.grpcio import GrpcioEngine
from tests.engines.hooks import Handlers, bare, stamped, tcp_connection
from tests.objects import make_object, table_of
from tests.server import (
    PATIENCE_S,
    Client,
    Server,
    engine_options,
    error_of,
    fails,
    serving,
    status_of,
    until,
)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_stopping_answers_every_call_in_flight(engine: EngineChoice, size: int) -> None:
    for _ in range(3):
        release = threading.Event()

        def declare(release: threading.Event = release) -> None:
            @Pre(name="sync")
            def sync(request: Any) -> None:
                release.wait(PATIENCE_S)
                request.body = b"x" * size

            @Pre(name="async")
            async def asynchronous(request: Any) -> None:
                while not release.is_set():  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.002)
                request.body = b"x" * size

        with serving(table_of(declare), engine=engine) as server:
            calls = [server.client.future(make_object(hook_name=name)) for name in ("sync", "async") * 16]
            until(lambda server=server: server.service.in_flight == 32)  # type: ignore[misc]  # as above
            timer = threading.Timer(0.03, release.set)
            timer.start()
            assert server.stop()
            timer.join()
            replies = [Object.FromString(call.result(timeout=PATIENCE_S)) for call in calls]
            assert {len(reply.request.raw_body) for reply in replies} == {size}


def test_new_calls_are_refused_while_it_stops(server: Server, handlers: Handlers) -> None:
    waiting = server.client.future(make_object(hook_name="wait"))
    handlers.wait_until_started(1)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: server.service.is_draining)
    code, text = fails(lambda: server.client.dispatch(make_object(hook_name="stamp")))
    assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "the service is shutting down")
    handlers.release.set()
    assert Object.FromString(waiting.result(timeout=PATIENCE_S)).request.set_headers["X-Stamp"] == "waited"
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    assert fails(lambda: stamped(server.client))[0] is grpc.StatusCode.UNAVAILABLE


def test_stopping_under_load_answers_whoever_was_accepted(server: Server, handlers: Handlers) -> None:
    """Whoever comes later is told that the service is away."""
    stop = threading.Event()
    outcomes: list[tuple[grpc.StatusCode, str] | str] = []

    def load() -> None:
        with Client(server.address) as client:
            while not stop.is_set():
                try:
                    outcomes.append(stamped(client))
                except grpc.RpcError as error:
                    outcomes.append(status_of(error))
                    return

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(outcomes) > 50)
    assert server.stop()
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert outcomes.count("7") == len(handlers.ran)
    # In the last moment, grpcio itself cancels what it has not accepted.
    away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert all(outcome == "7" or outcome[0] in away for outcome in outcomes)


def test_stopping_does_not_wait_for_what_hangs(server: Server, handlers: Handlers) -> None:
    call = server.client.future(make_object(hook_name="wait"))
    handlers.wait_until_started(1)
    began = time.monotonic()
    assert not server.stop(drain_s=0.05)
    assert time.monotonic() - began < PATIENCE_S
    assert error_of(call)[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_answers_of_grpcio_are_waited_for_though_the_machine_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, that time counted, and grpcio cancelled what was answered."""
    engine: Any = GrpcioEngine(engine_options())
    answered = object()
    engine._unsent.add(answered)
    now_s = 100.0

    def stands_still(seconds: float) -> None:
        nonlocal now_s
        if now_s > 100.0:
            engine._unsent.discard(answered)
        now_s += 10.0

    clock = SimpleNamespace(monotonic=lambda: now_s, sleep=stands_still)
    for module in (grpcio, awake):
        monkeypatch.setattr(module, "time", clock)
    engine._flush({answered})
    assert not engine._unsent
    monkeypatch.undo()
    engine.stop()


def test_stopping_closes_the_port(engine: EngineChoice) -> None:
    with bare(engine, lambda rpc: rpc.respond(b"")) as (client, made):
        client.raw(b"", timeout=PATIENCE_S)
        made.stop()
        with pytest.raises(OSError, match="refused"):
            tcp_connection(client.address)


def test_stopping_what_never_started(engine: EngineChoice) -> None:
    made, _ = make_engine(engine, engine_options())
    made.listen("127.0.0.1:0")
    made.stop()


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_a_message_that_still_comes_is_waited_for_as_long_as_more_of_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three seconds, here; and a second for one of which nothing more comes."""
    now_s = [100.0]

    class Clock:
        monotonic = staticmethod(lambda: now_s[0])

        @staticmethod
        def sleep(duration_s: float) -> None:
            now_s[0] += duration_s

    for module in (http2_engine, awake):
        monkeypatch.setattr(module, "time", Clock)
    engine = http2_engine.Http2Engine(engine_options())

    def unanswered() -> list[SimpleNamespace]:
        return [SimpleNamespace(call=None, held_bytes=int(10 * min(now_s[0] - 100.0, 3.0)))]

    monkeypatch.setattr(engine.server, "unanswered", unanswered)
    engine._wait_for_answers(200.0)
    assert 103.9 < now_s[0] < 104.2
    engine._wait_for_answers(104.5)
    assert now_s[0] < 104.6
