"""Whatever goes wrong with a stream, it is answered: an error passes where `failure_mode_allow` is set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coprocess import Post, Pre, Response
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.check_reply import failed_reply
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.stream import refusal
from coprocess.transport.engine import Engine, Methods
from coprocess.transport.engines import EngineChoice, make_engine
from coprocess.transport.held_calls import Held
from coprocess.transport.http2.limits import Limits
from tests.envoy.call import Call
from tests.envoy.drive import OK, POST, check_request, header_map
from tests.envoy.world import serving
from tests.serve_process import ServeProcess, write
from tests.server import ENGINES, PATIENCE_S, Client, engine_options, until

Message = wire.ProcessingRequest
on_both = pytest.mark.parametrize("engine", ENGINES)


@Pre
def sets(request: Any) -> None:
    request.headers["X-Seen"] = "1"


@Response
def looks() -> None: ...


@Post
def doubles(request: Any) -> None:
    request.body = request.raw_body * 2


@Response
def reads_late(response: Any) -> None:
    response.body = response.raw_body.upper()


def status_of(reply: wire.ProcessingResponse) -> int:
    return reply.immediate_response.status.code


# The service stops, or starts.


@on_both
def test_a_stream_that_comes_during_a_stop_is_answered(engine: EngineChoice) -> None:
    with serving(sets, engine=engine) as running, Client(running.address) as client:
        running.service.drain(0.0)
        call = Call(client.channel)
        assert status_of(call.request()) == 503
        assert call.end() == []


@on_both
def test_a_stop_of_the_engine_answers_the_streams_that_are_left(engine: EngineChoice) -> None:
    """Of a service that hangs: on grpcio its client got CANCELLED."""
    with serving(sets, looks, engine=engine) as running, Client(running.address) as client:
        call = Call(client.channel)
        call.request()
        running.engine.stop()
        assert status_of(next(call.replies)) == 503


FAILED = Methods(failed={wire.PROCESS: refusal, wire.CHECK: failed_reply})


@contextmanager
def starting(held: Held, engine: EngineChoice) -> Iterator[Client]:
    """A service that has no handlers yet."""
    running: Engine = make_engine(engine, engine_options())[0]
    address = running.listen("127.0.0.1:0")
    running.start(held.methods | FAILED)
    try:
        with Client(address) as client:
            yield client
    finally:
        running.stop()


@on_both
def test_where_nothing_is_let_in_a_stream_is_answered_and_not_kept_waiting(engine: EngineChoice) -> None:
    held = Held([wire.CHECK], [wire.PROCESS])
    with starting(held, engine) as client:
        before = Call(client.channel)
        asks = threading.Thread(target=lambda: statuses.append(status_of(before.request())))
        statuses: list[int] = []
        asks.start()
        until(lambda: len(held._streams._held) == 1)
        held.refuse()
        asks.join(PATIENCE_S)
        assert statuses == [503]
        assert status_of(Call(client.channel).request()) == 503
        check: Any = client.channel.unary_unary(
            wire.CHECK, wire.CheckRequest.SerializeToString, wire.CheckResponse.FromString
        )
        assert check(check_request(), timeout=PATIENCE_S).denied_response.status.code == 503


@on_both
def test_more_streams_than_are_held_are_answered(
    engine: EngineChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coprocess.transport.held_calls._MAX_HELD", 0)
    with starting(Held([], [wire.PROCESS]), engine) as client:
        assert status_of(Call(client.channel).request()) == 503


@on_both
def test_more_bytes_than_are_held_are_answered(engine: EngineChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body in FULL_DUPLEX_STREAMED mode waits for no reply: it was kept, however long the start took."""
    monkeypatch.setattr("coprocess.transport.held_calls._MAX_HELD_BYTES", 1000)
    held = Held([], [wire.PROCESS])
    with starting(held, engine) as client:
        call = Call(client.channel)
        body = Message(request_body=wire.HttpBody(body=bytes(2000)))
        assert status_of(call.ask(body)) == 503
        assert held._streams._held_bytes == 0


@on_both
def test_more_empty_messages_than_are_held_are_answered(
    engine: EngineChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They counted as nothing: a stream kept as many as came, however long the start took."""
    monkeypatch.setattr("coprocess.transport.held_calls._MAX_HELD_BYTES", 1000)
    held = Held([], [wire.PROCESS])
    with starting(held, engine) as client:
        call = Call(client.channel)
        for _ in range(20):
            call.tell(Message())
        assert status_of(next(call.replies)) == 503
        assert held._streams._held_bytes == 0


def test_a_strict_start_that_fails_answers_streams_until_it_is_mended(tmp_path: Path) -> None:
    good = "from coprocess import Pre\n@Pre\ndef sets(request): request.headers['X-Seen'] = '1'\n"
    handlers = write(tmp_path / "handlers", one=good, two="1 / 0\n")
    with (
        ServeProcess(handlers, "--envoy", "--reload", "--strict", wait=False) as served,
        Client(served.wait_for("listening")["listen"][0]) as client,
    ):
        assert status_of(Call(client.channel).request()) == 503
        (handlers / "two.py").unlink()
        served.wait_for("serving")
        call = Call(client.channel)
        assert call.request().WhichOneof("response") == "request_headers"
        call.end()


# The engine.


def test_a_connection_that_is_too_old_answers_the_streams_that_it_gives_up() -> None:
    limits = Limits(max_age_s=0.01, age_grace_s=0.01)
    with serving(sets, looks, limits=limits) as running, Client(running.address) as client:
        call = Call(client.channel)
        call.request()
        assert status_of(next(call.replies)) == 503


def test_more_streams_than_grpcio_may_have_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coprocess.transport.grpcio._MAX_BIDIS", 0)
    with serving(sets, engine="grpcio") as running, Client(running.address) as client:
        assert status_of(Call(client.channel).request()) == 503


@on_both
def test_what_breaks_as_a_stream_begins_is_answered(
    engine: EngineChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*given: Any) -> None:
        raise ArithmeticError

    monkeypatch.setattr(EnvoyGateway, "process", breaks)
    with serving(sets, engine=engine) as running, Client(running.address) as client:
        assert status_of(Call(client.channel).request()) == 500


@on_both
@pytest.mark.parametrize("is_response", [False, True])
def test_a_stream_that_ends_within_a_body_does_not_end_well(
    engine: EngineChoice, *, is_response: bool
) -> None:
    """In FULL_DUPLEX_STREAMED mode, the headers wait for their reply as long as the body comes."""
    handler = reads_late if is_response else doubles
    with serving(handler, engine=engine) as running, Client(running.address) as client:
        call = Call(client.channel)
        if is_response:
            first = Message(response_headers=wire.HttpHeaders(headers=header_map(OK)))
            first.protocol_config.response_body_mode = wire.ProcessingMode.FULL_DUPLEX_STREAMED
        else:
            first = Message(request_headers=wire.HttpHeaders(headers=header_map(POST)))
            first.protocol_config.request_body_mode = wire.ProcessingMode.FULL_DUPLEX_STREAMED
        call._asks.put(first)
        assert [status_of(reply) for reply in call.end()] == [500]


# Replies that no engine sends.


@Post
def writes_more(request: Any) -> None:
    body = request.stream(replace=True)
    for _ in body:
        body.write(bytes(17 << 20))


@Post
def fills(request: Any) -> None:
    request.body = bytes((16 << 20) - 5)


@pytest.mark.parametrize(("handler", "status"), [(doubles, 500), (writes_more, 503), (fills, 503)])
@on_both
def test_a_body_that_is_too_large_once_it_is_replaced_is_answered(
    engine: EngineChoice, handler: Any, status: int
) -> None:
    """A client chose how large it was: the one that came reached the upstream, with no handler's edit."""
    size = (9 << 20) if handler is doubles else 5
    with (
        serving(handler, looks, engine=engine, max_body_bytes=16 << 20) as running,
        Client(running.address) as client,
    ):
        call = Call(client.channel)
        call.request([*POST[:-1], ("content-length", str(size))], end=False)
        body = wire.HttpBody(body=bytes(size), end_of_stream=True)
        assert status_of(call.ask(Message(request_body=body))) == status
        assert call.end() == []


def test_a_body_that_is_too_large_is_its_handlers_failure() -> None:
    with serving(doubles, max_body_bytes=100) as running, Client(running.address) as client:
        call = Call(client.channel)
        call.request([*POST[:-1], ("content-length", "60")], end=False)
        reply = call.request_body(bytes(60))
        assert status_of(reply) == 500
        assert reply.immediate_response.details == "left a body of 120 bytes: the limit is 100"
        (hook,) = running.gateway.table
        ((_, counts),) = running.service.gates[hook].counts.items()
        assert counts.failed == 1
        assert call.end() == []
