"""Calls that come before handlers are loaded."""

from __future__ import annotations

import threading
from typing import Any

import grpc

from coprocess.transport.engine import BidiRpc, Methods, Rpc
from coprocess.transport.engines import EngineChoice
from coprocess.transport.held_calls import HeldCalls, HeldStreams
from tests.engines.hooks import bare, methods
from tests.server import PATIENCE_S, error_of, until


def test_no_handler_runs_for_a_client_that_gave_up_while_handlers_were_loaded(engine: EngineChoice) -> None:
    held, ran = HeldCalls(), []

    def handler(rpc: Rpc) -> None:
        ran.append(rpc.payload)
        rpc.respond(b"reply")

    with bare(engine, held.take) as (client, _):
        waiting = client.raw.future(b"waits", timeout=PATIENCE_S)
        until(lambda: len(held) == 1)
        for timeout_s in (0.2, 2.0, PATIENCE_S / 2):
            call = client.raw.future(b"gave up", timeout=timeout_s)
            until(lambda call=call: call.done() or len(held) == 2)  # type: ignore[misc]  # a default is no parameter
            if not call.done():  # Else it may come only now, where the machine stood still.
                break
        assert error_of(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: len(held) == 1)
        held.pass_on(methods(handler))
        assert waiting.result(PATIENCE_S) == b"reply"
        assert client.raw(b"late") == b"reply"
    assert ran == [b"waits", b"late"]


def test_a_stream_that_is_over_before_it_is_held_holds_up_no_other() -> None:
    """grpcio tells of that at once, while the lock was held that is needed to forget the stream."""
    held, done = HeldStreams(), threading.Event()

    def take_late(rpc: BidiRpc) -> None:
        over = threading.Event()
        rpc.on_cancel(over.set)
        begun.set()
        assert over.wait(PATIENCE_S)
        held.take(rpc)
        done.set()

    begun = threading.Event()
    with bare("grpcio", Methods(bidi={"/test.Held/Bidi": take_late})) as (client, _):
        method: Any = client.channel.stream_stream("/test.Held/Bidi")
        replies = method(iter([b"message"]), timeout=PATIENCE_S)
        assert begun.wait(PATIENCE_S)
        replies.cancel()
        assert done.wait(PATIENCE_S)
        held.pass_on(Methods())
