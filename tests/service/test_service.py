"""The service: its smaller parts."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from coprocess import Post, Pre, Response
from coprocess.api.moments import HookType
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.loading.hooks import HookTable
from coprocess.runtime.failures import safe_text
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engines import EngineChoice
from tests.objects import hook_table, make_object, table_of
from tests.server import fails, serving


@pytest.mark.parametrize("text", ["a", "é", "a\nb\0", "\ud800", "x" * 10_000, "é" * 10_000, "\u202e" * 5000])
def test_safe_text(text: str) -> None:
    safe = safe_text(ValueError(text))
    assert safe.isprintable()
    assert len(safe.encode()) <= 1500
    if len(text) < 5:
        assert safe == text or not text.isprintable()
        assert "\\" in safe or text.isprintable()
    else:
        assert safe.endswith("…")


def test_a_message_that_cannot_be_opened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(hook_table(HookType.Pre, lambda: None)) as server:
        monkeypatch.setattr(server.service.gateway, "table", None)
        code, text = fails(lambda: server.client.dispatch(make_object()))
        assert (code, text) == (grpc.StatusCode.INTERNAL, "internal error: AttributeError")
        monkeypatch.undo()
        server.client.dispatch(make_object())


def test_drain_with_nothing_to_wait_for() -> None:
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    assert service.drain(0)


def test_a_handler_may_serve_several_types(engine: EngineChoice) -> None:
    def declare() -> None:
        @Pre(name="hook")
        @Post(name="hook")
        @Response(name="hook")
        def handler(request: Any) -> None:
            seen.append(request.path)

    seen: list[str] = []
    with serving(table_of(declare), engine=engine) as server:
        for hook_type in (HookType.Pre, HookType.Post, HookType.Response):
            server.client.dispatch(make_object(hook_type))
    assert len(seen) == 3
