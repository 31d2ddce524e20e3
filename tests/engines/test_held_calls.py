"""Calls that come before handlers are loaded."""

from __future__ import annotations

import grpc

from coprocess.transport.engine import Rpc
from coprocess.transport.engines import EngineChoice
from coprocess.transport.held_calls import HeldCalls
from tests.engines.hooks import bare, methods
from tests.server import PATIENCE_S, fails, until


def test_no_handler_runs_for_a_client_that_gave_up_while_handlers_were_loaded(engine: EngineChoice) -> None:
    held, ran = HeldCalls(), []

    def handler(rpc: Rpc) -> None:
        ran.append(rpc.payload)
        rpc.respond(b"reply")

    with bare(engine, held.take) as (client, _):
        waiting = client.raw.future(b"waits", timeout=PATIENCE_S)
        code, _ = fails(lambda: client.raw(b"gave up", timeout=0.2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: len(held) == 1)
        held.pass_on(methods(handler))
        assert waiting.result(PATIENCE_S) == b"reply"
        assert client.raw(b"late") == b"reply"
    assert ran == [b"waits", b"late"]
