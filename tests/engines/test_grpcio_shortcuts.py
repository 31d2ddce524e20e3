"""The grpcio engine's ways around grpcio's own: they are taken, and do the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Never

import grpc
import pytest

from coprocess.gateways.tyk.wire import DISPATCH, Object
from coprocess.transport import grpcio as grpcio_engine
from coprocess.transport import grpcio_shortcuts
from tests.engines.hooks import Handlers
from tests.objects import make_object
from tests.server import PATIENCE_S, Client, Server, error_of, fails, serving

SHORTCUTS = ("_send_all", "_receive_first")


@pytest.fixture(
    params=[(), *((each,) for each in SHORTCUTS), SHORTCUTS], ids=lambda names: f"no{'+'.join(names)}"
)
def shortcuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are there, or some of them, or none."""
    for name in request.param:
        monkeypatch.setattr(grpcio_engine, name, None)


@pytest.fixture
def server(shortcuts: None, handlers: Handlers) -> Iterator[Server]:
    with serving(handlers.table(), engine="grpcio", max_threads=4) as running:
        yield running


def measured(client: Client, name: str = "measure") -> str:
    message = make_object(hook_name=name)
    message.request.raw_body = b"x" * 100_000
    return client.dispatch(message).request.set_headers["X-Stamp"]


def call_without_message(client: Client, wait: threading.Event) -> Any:
    """A call whose client sends headers, and, once `wait` is set, the end; never a message."""

    def nothing() -> Iterator[Never]:
        wait.wait(2 * PATIENCE_S)
        yield from ()

    return client.channel.stream_unary(DISPATCH).future(nothing(), timeout=2 * PATIENCE_S)


@pytest.mark.parametrize("name", SHORTCUTS)
def test_with_the_locked_grpcio_both_are_taken(name: str) -> None:
    assert getattr(grpcio_engine, name) is not None


def _other(state: object, call: object) -> None:
    pass


@pytest.mark.parametrize("other", [_other, 5, None, getattr])
def test_with_other_internals_neither_is(monkeypatch: pytest.MonkeyPatch, other: object) -> None:
    for name in ("_status", "_receive_message"):
        monkeypatch.setattr(f"grpc._server.{name}", other)
    assert grpcio_shortcuts.find_send_all() is None
    assert grpcio_shortcuts.find_receive_first() is None


def test_calls_are_answered(server: Server) -> None:
    assert measured(server.client) == measured(server.client, "measure_async") == "100000"
    failed = server.client.future(make_object(hook_name="fails"))
    assert error_of(failed) == (grpc.StatusCode.INTERNAL, 'Pre hook "fails" raised ValueError')
    calls = [server.client.future(make_object(hook_name="measure")) for _ in range(200)]
    for call in calls:
        assert Object.FromString(call.result(timeout=PATIENCE_S)).request.set_headers["X-Stamp"] == "0"


def test_a_client_that_gives_up_is_noticed(server: Server, handlers: Handlers) -> None:
    call = server.client.future(make_object(hook_name="forever"))
    handlers.wait_until_started(1)
    call.cancel()
    assert handlers.cancelled.wait(PATIENCE_S)
    assert measured(server.client) == "100000"


def test_a_call_that_ends_without_a_message_is_refused(server: Server) -> None:
    at_once = threading.Event()
    at_once.set()
    code, text = error_of(call_without_message(server.client, at_once))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "exactly one request message" in text
    assert measured(server.client) == "100000"


def test_a_message_that_is_too_large_is_refused(server: Server) -> None:
    message = make_object(hook_name="measure")
    message.request.raw_body = bytes(5 * 1024 * 1024)
    assert error_of(server.client.future(message))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert measured(server.client) == "100000"


def test_calls_whose_message_never_comes_keep_no_thread(handlers: Handlers) -> None:
    never = threading.Event()
    with serving(handlers.table(), engine="grpcio", max_threads=4) as server, ExitStack() as stack:
        calls = []
        for _ in range(2):
            client = stack.enter_context(Client(server.address))
            calls += [call_without_message(client, never) for _ in range(10)]
        # They come while these do.
        assert {measured(server.client) for _ in range(50)} == {"100000"}
        # Their clients give up.
        for call in calls:
            call.cancel()
        never.set()
        assert measured(server.client) == "100000"


def test_no_handler_runs_for_calls_that_were_given_up_while_they_waited_for_a_thread(
    handlers: Handlers,
) -> None:
    with serving(handlers.table(), engine="grpcio", min_threads=4, max_threads=4) as server:
        running = [server.client.future(make_object(hook_name="wait")) for _ in range(4)]
        handlers.wait_until_started(4)
        given_up = [server.client.future(make_object(hook_name="wait")) for _ in range(20)]
        # What comes behind them on the connection has been answered, so they have come; then, their ends.
        unknown: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.client.channel.unary_unary("/no/method")
        fails(lambda: unknown(b"", timeout=PATIENCE_S))
        for call in given_up:
            call.cancel()
        fails(lambda: unknown(b"", timeout=PATIENCE_S))
        handlers.release.set()
        for call in running:
            call.result(timeout=PATIENCE_S)
        server.client.dispatch(make_object(hook_name="measure_async"))
        assert not handlers.started.acquire(blocking=False), "a handler ran for nobody"
