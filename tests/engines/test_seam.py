"""What an engine tells of a call, and which of its answers counts."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from coprocess.errors import Status
from coprocess.gateways.tyk.wire import DISPATCH
from coprocess.transport.engine import Rpc
from coprocess.transport.engines import EngineChoice
from tests.engines.hooks import bare
from tests.server import (
    PATIENCE_S,
    fails,
)


def test_metadata_and_time_remaining(engine: EngineChoice) -> None:
    seen: list[Any] = []

    def handler(rpc: Rpc) -> None:
        seen.append((rpc.method, rpc.payload, dict(rpc.metadata()), rpc.time_allowed_s()))
        rpc.respond(b"reply")

    with bare(engine, handler) as (client, _):
        metadata = (("traceparent", "00-1-2-01"), ("x-raw-bin", b"\x00\xff"))
        assert client.raw(b"payload", timeout=100, metadata=metadata) == b"reply"
        assert client.raw(b"") == b"reply"
    (method, payload, received, remaining), (_, _, _, without) = seen
    assert (method, payload) == (DISPATCH, b"payload")
    assert received["traceparent"] == "00-1-2-01"
    assert received["x-raw-bin"] == b"\x00\xff"
    assert 0 < remaining < 110  # grpcio rounds up.
    assert without is None


def test_the_first_answer_counts(engine: EngineChoice) -> None:
    def handler(rpc: Rpc) -> None:
        if rpc.payload == b"respond":
            rpc.respond(b"first")
            rpc.respond(b"second")
            rpc.fail(Status.INTERNAL, "third")
        else:
            rpc.fail(Status.NOT_FOUND, "first")
            rpc.fail(Status.INTERNAL, "second")
            rpc.respond(b"third")

    with bare(engine, handler) as (client, _):
        for _ in range(20):
            assert client.raw(b"respond", timeout=PATIENCE_S) == b"first"
            failed = fails(lambda: client.raw(b"fail", timeout=PATIENCE_S))
            assert failed == (grpc.StatusCode.NOT_FOUND, "first")


def test_an_answer_may_come_from_another_thread(engine: EngineChoice) -> None:
    def handler(rpc: Rpc) -> None:
        threading.Timer(0.01, rpc.respond, (rpc.payload,)).start()

    with bare(engine, handler, min_threads=1, max_threads=1) as (client, _):
        calls = [client.raw.future(bytes([index]), timeout=PATIENCE_S) for index in range(50)]
        assert [call.result() for call in calls] == [bytes([index]) for index in range(50)]


@pytest.mark.parametrize("status", list(Status))
def test_every_status_arrives(engine: EngineChoice, status: Status) -> None:
    with bare(engine, lambda rpc: rpc.fail(status, "é %41 text")) as (client, _):
        code, text = fails(lambda: client.raw(b"", timeout=PATIENCE_S))
        assert (code.value[0], text) == (status, "é %41 text")


def test_a_cancellation_that_came_before_anybody_asked(engine: EngineChoice) -> None:
    told, gone, asked = threading.Event(), threading.Event(), threading.Event()

    def handler(rpc: Rpc) -> None:
        if rpc.payload == b"next":
            rpc.respond(b"")
            return
        asked.set()
        gone.wait(PATIENCE_S)
        rpc.on_cancel(told.set)
        told.wait(PATIENCE_S)
        rpc.respond(b"late")

    with bare(engine, handler) as (client, _):
        call = client.raw.future(b"first", timeout=PATIENCE_S)
        assert asked.wait(PATIENCE_S)
        call.cancel()
        # When later calls on the connection are answered, the cancellation has come.
        for _ in range(20):
            client.raw(b"next", timeout=PATIENCE_S)
        gone.set()
        assert told.wait(PATIENCE_S)


def test_who_is_answered_is_not_cancelled(engine: EngineChoice) -> None:
    told: list[int] = []

    def handler(rpc: Rpc) -> None:
        rpc.on_cancel(lambda: told.append(1))
        rpc.respond(b"")

    with bare(engine, handler) as (client, made):
        for _ in range(50):
            client.raw(b"", timeout=PATIENCE_S)
        client.close()
    assert told == []
    for endpoint in getattr(made, "_endpoints", []):
        assert endpoint.cancels == {}
