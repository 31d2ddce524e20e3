"""The grpcio engine's two ways to answer."""

from __future__ import annotations

import grpc
import pytest

from coprocess.server import grpcio as grpcio_engine
from tests.engines.hooks import Handlers, stamped
from tests.objects import make_object
from tests.server import (
    PATIENCE_S,
    fails,
    serving,
)


def test_grpcio_offers_the_quick_way_to_answer() -> None:
    assert grpcio_engine._send_all is not None


def test_grpcios_public_way_to_answer_does_the_same(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpcio_engine, "_send_all", None)
    with serving(handlers.table(), engine="grpcio") as server:
        assert stamped(server.client) == stamped(server.client, "stamp_async") == "7"
        code, text = fails(lambda: server.client.dispatch(make_object(hook_name="fails")))
        assert (code, text) == (grpc.StatusCode.INTERNAL, 'Pre hook "fails" raised ValueError')
        call = server.client.future(make_object(hook_name="forever"))
        handlers.wait_until_started(1)
        call.cancel()
        assert handlers.cancelled.wait(PATIENCE_S)
