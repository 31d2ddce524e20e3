"""A Check never ends as an RPC error, which lets in where the filter's failure mode allows it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from coprocess import CustomKeyCheck, respond
from coprocess.gateways.envoy import check_steps, wire
from coprocess.loading.hooks import HookTable
from coprocess.transport import grpcio, http2_engine
from coprocess.transport.engines import EngineChoice, is_compiled
from tests.envoy.drive import GET
from tests.envoy.test_check import Asked, asking, code_of, in_steps, reply_to, request_of
from tests.envoy.test_check_closes import Cancelled
from tests.envoy.world import serving
from tests.server import ENGINES, PATIENCE_S, Client, until


@CustomKeyCheck
def allows(session: Any) -> None:
    session.allow("token")


@CustomKeyCheck(name="first")
async def first_async(session: Any) -> None:
    session.allow("token")


@contextmanager
def no_threads(asked: Asked) -> Iterator[list[Callable[[], None]]]:
    """What asks for a thread gets none, but is in the list; and calls are read on the handlers' loop."""
    asked_for: list[Callable[[], None]] = []
    asked.service.in_thread = asked_for.append  # type: ignore[method-assign,assignment]  # in its place
    asked.service.async_calls.is_read_here = lambda: True  # type: ignore[method-assign]  # as above
    yield asked_for


def begin(asked: Asked) -> Cancelled:
    rpc = Cancelled()
    rpc.method, rpc.payload = wire.CHECK, request_of().SerializeToString()
    asked.service.methods.unary[wire.CHECK](rpc)
    return rpc


def two_handlers() -> tuple[list[str], Callable[..., None], Callable[..., None]]:
    ran: list[str] = []

    @CustomKeyCheck
    def first(session: Any) -> None:
        ran.append("first")
        session.allow("token")

    @CustomKeyCheck
    def second() -> None:
        ran.append("second")

    return ran, first, second


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_several_that_wait_for_a_thread_are_in_flight() -> None:
    """A drain ended before them."""
    ran, *handlers = two_handlers()
    with asking(*handlers) as asked, no_threads(asked) as tasks:
        rpc = begin(asked)
        assert asked.service.in_flight == 1
        assert not asked.service.drain(0)
        tasks.pop()()
        assert code_of(reply_to(rpc)) == 0
        assert ran == ["first", "second"]
        assert asked.service.drain(PATIENCE_S)


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_one_that_waits_for_a_thread_behind_an_async_one_is_in_flight() -> None:
    ran, _, second = two_handlers()
    with asking(first_async, second) as asked:
        tasks: list[Callable[[], None]] = []
        asked.service.in_thread = tasks.append  # type: ignore[method-assign,assignment]  # in its place
        rpc = begin(asked)
        until(lambda: bool(tasks))
        until(lambda: not any(state.in_flight for state in asked.service.gates.states))
        assert asked.service.in_flight == 1
        tasks.pop()()
        assert code_of(reply_to(rpc)) == 0
        assert ran == ["second"]


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_several_that_wait_for_a_thread_too_long_are_denied() -> None:
    ran, *handlers = two_handlers()
    with asking(*handlers, timeout_s=0.1) as asked, no_threads(asked) as tasks:
        rpc = begin(asked)
        assert code_of(reply_to(rpc)) == 500
        until(lambda: not asked.service.in_flight)
        tasks.pop()()
        assert not ran


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_more_than_may_wait_for_a_thread_are_shed_and_who_gave_up_leaves_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_steps, "MAX_WAITING", 2)
    ran, *handlers = two_handlers()
    with asking(*handlers) as asked, no_threads(asked) as tasks:
        gone, stays, shed = begin(asked), begin(asked), begin(asked)
        assert code_of(reply_to(shed)) == 503
        gone.cancel()
        assert asked.service.in_flight == 1
        comes = begin(asked)
        assert len(tasks) == 2
        for task in tasks:
            task()
        assert [code_of(reply_to(rpc)) for rpc in (stays, comes)] == [0, 0]
        assert ran == ["first", "second"] * 2
        assert not asked.service.in_flight


def test_a_handler_whose_turn_is_to_come_is_not_let_go_by_a_reload() -> None:
    """It was closed, with what its app had opened, while the one before it ran."""
    goes_on, is_in = threading.Event(), threading.Event()

    @CustomKeyCheck(name="first")
    def first(session: Any) -> None:
        is_in.set()
        goes_on.wait(PATIENCE_S)
        session.allow("token")

    with asking(first, allows) as asked:
        later = next(hook for hook in asked.gateway.table if hook.name == "allows")
        rpcs: list[Cancelled] = []
        asked.service.in_thread(lambda: rpcs.append(begin(asked)))
        assert is_in.wait(PATIENCE_S)
        asked.service.use(HookTable([]))
        assert asked.service.has_calls(later)
        goes_on.set()
        until(lambda: bool(rpcs))
        assert code_of(reply_to(rpcs[0])) == 0
        until(lambda: not asked.service.has_calls(later))


def test_what_the_service_raises_is_a_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise RuntimeError("a secret")

    for is_in_steps in (False, True):
        with asking(allows) as asked, monkeypatch.context() as patch:
            if is_in_steps:
                in_steps(asked)
            place = "runtime.chained.Chain.run" if is_in_steps else "runtime.service.Service.take"
            patch.setattr(f"coprocess.{place}", fails)
            raw = asked.ask(request_of())
            assert code_of(raw) == 500
            assert b"a secret" not in raw
            assert asked.service.refused_calls == 1


def test_what_is_refused_in_steps_is_counted() -> None:
    @CustomKeyCheck(name="reads")
    def reads(request: Any) -> None:
        assert request.raw_body

    with asking(allows, reads) as asked:
        request = request_of([*GET, ("content-length", "5")], "POST", "/")
        assert code_of(asked.ask(request)) == 500
        assert asked.service.refused_calls == 1


def ask(client: Client, **more: Any) -> int:
    call: Any = client.channel.unary_unary(wire.CHECK)
    metadata = more.pop("metadata", ())
    return code_of(call(request_of(**more).SerializeToString(), timeout=PATIENCE_S, metadata=metadata))


@pytest.mark.parametrize("engine", ENGINES)
def test_while_the_service_stops_a_check_is_denied(engine: EngineChoice) -> None:
    with serving(allows, engine=engine) as running, Client(running.address) as client:
        assert ask(client) == 0
        running.service.drain(0)
        assert ask(client) == 503


@pytest.mark.parametrize("engine", ENGINES)
def test_a_denial_that_is_too_large_is_a_smaller_one(engine: EngineChoice) -> None:
    @CustomKeyCheck
    def denies() -> Any:
        return respond(403, "x" * (17 << 20))

    with serving(denies, engine=engine) as running, Client(running.address) as client:
        assert ask(client) == 503


def test_what_the_engine_refuses_is_a_denial() -> None:
    with serving(allows) as running, Client(running.address) as client:
        assert ask(client, body=b"x" * (17 << 20)) == 503
        assert ask(client, metadata=[("x", "x" * 20_000)]) == 503
        assert ask(client) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_given_up_at_a_stop_is_denied(engine: EngineChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcio ended it with an error."""
    monkeypatch.setattr(http2_engine if engine == "http2" else grpcio, "_FLUSH_S", 0.1)
    is_in, goes_on = threading.Event(), threading.Event()

    @CustomKeyCheck
    def hangs(session: Any) -> None:
        is_in.set()
        goes_on.wait(PATIENCE_S)
        session.allow("token")

    with serving(hangs, engine=engine) as running, Client(running.address) as client:
        call: Any = client.channel.unary_unary(wire.CHECK)
        future = call.future(request_of().SerializeToString(), timeout=PATIENCE_S)
        assert is_in.wait(PATIENCE_S)
        running.engine.stop()
        assert code_of(future.result()) == 503
        goes_on.set()


def test_an_unknown_method_is_an_error_still() -> None:
    with serving(allows) as running, Client(running.address) as client:
        call: Any = client.channel.unary_unary(f"{wire.CHECK}s")
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=PATIENCE_S)
