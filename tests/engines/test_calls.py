"""Both engines do the same for the same calls, good and bad, over a real connection."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.engines.hooks import Handlers, stamped
from tests.objects import event_json, make_object
from tests.server import (
    PATIENCE_S,
    Server,
    fails,
    until,
)


@pytest.mark.parametrize("name", ["stamp", "stamp_async"])
def test_a_call(server: Server, name: str) -> None:
    assert stamped(server.client, name) == "7"


def test_an_event(server: Server, handlers: Handlers) -> None:
    server.client.send_event(event_json())
    assert handlers.events == ["AuthFailure"]


def test_unknown_hook(server: Server) -> None:
    code, text = fails(lambda: server.client.dispatch(make_object(hook_name="stmp", api_id="a1")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert text.startswith('no Pre hook "stmp" for API "a1"; loaded, nearest first: Pre "stamp"')


def test_unknown_event_handler(server: Server) -> None:
    code, text = fails(lambda: server.client.send_event(event_json(handler="nobody")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert '"nobody"' in text


@pytest.mark.parametrize("payload", ["", "nonsense", "[]", "{}", '{"handler_name": 5}', "[" * 50_000])
def test_a_broken_event(server: Server, payload: str) -> None:
    code, text = fails(lambda: server.client.send_event(payload))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("the event's payload")
    assert stamped(server.client) == "7"


@pytest.mark.parametrize("payload", [b"\xff" * 20, b"garbage", b"\x0a\xff\xff\xff\xff\x0f"])
def test_garbage_as_an_object(server: Server, payload: bytes) -> None:
    for method in (server.client.raw, server.client.raw_event):
        code, text = fails(lambda method=method: method(payload, timeout=PATIENCE_S))  # type: ignore[misc]  # a default is no parameter
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith("not a coprocess.")
    assert stamped(server.client) == "7"


@pytest.mark.parametrize("name", ["fails", "fails_async"])
def test_an_exception_in_a_handler(server: Server, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, text = fails(lambda: server.client.dispatch(make_object(hook_name=name)))
    assert code is grpc.StatusCode.INTERNAL
    assert text == f'Pre hook "{name}" raised ValueError'
    until(lambda: server.service.in_flight == 0)  # The answer goes first.
    logged = "".join(capfd.readouterr())
    assert logged.count("raised ValueError") == 1
    assert "secret detail" in logged
    assert stamped(server.client) == "7"


@pytest.mark.parametrize("name", ["a\0b\nc", "é" * 100, "\u202e", "x" * 1_000_000, "%41\r\n"])
def test_a_strange_name_gives_a_readable_error(server: Server, name: str) -> None:
    code, text = fails(lambda: server.client.dispatch(make_object(hook_name=name, api_id=name)))
    assert code is grpc.StatusCode.NOT_FOUND
    assert text.isprintable()
    assert 10 < len(text) <= 1500


def test_an_unknown_method(server: Server) -> None:
    call: Any = server.client.channel.unary_unary("/coprocess.Dispatcher/Nothing")
    code, _ = fails(lambda: call(b"", timeout=PATIENCE_S))
    assert code is grpc.StatusCode.UNIMPLEMENTED
