"""Streams at work: time limits, clients that leave, handlers that wait, full hooks, and a stop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from coprocess import CustomKeyCheck, Post, Pre, Response
from coprocess.gateways.envoy import wire
from coprocess.runtime import failures
from coprocess.runtime.service_options import ServiceOptions
from tests.envoy.call import Call
from tests.envoy.drive import GET, POST, check_request
from tests.envoy.world import serving
from tests.server import PATIENCE_S, Client, until


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_a_handler_that_overruns_is_answered_for_and_what_follows_runs_elsewhere(engine: Any) -> None:
    ran: list[str] = []
    go_on = threading.Event()

    @Pre(timeout=0.1, on_error="open")
    def slow(request: Any) -> None:
        request.headers["X-Slow"] = "1"
        go_on.wait(PATIENCE_S)

    @Post
    def after(request: Any) -> None:
        ran.append(threading.current_thread().name)

    with serving(slow, after, engine=engine) as running, Client(running.address) as client:
        reply = Call(client.channel).request()
        go_on.set()
        assert reply.SerializeToString() == b"\x0a\x00"
        assert len(ran) == 1
        assert ran != ["watchdog"]


def test_a_quick_handler_that_overruns_or_fails_at_last_is_answered_for_as_the_first_call_is() -> None:
    """Calls of a hook that is known to be quick are run without an Rpc, which is made when they end badly."""
    ran: list[str] = []
    go_on = threading.Event()

    @Pre(timeout=0.5, on_error="open")
    def sometimes(request: Any) -> None:
        if "X-Slow" in request.headers:
            go_on.wait(PATIENCE_S)
            request.headers["X-Late"] = "1"
        if "X-Broken" in request.headers:
            raise ValueError("broken")

    @Post
    def after(request: Any) -> None:
        ran.append(threading.current_thread().name)

    with serving(sometimes, after) as running, Client(running.address) as client:
        for _ in range(3):
            assert Call(client.channel).request().SerializeToString() == b"\x0a\x00"
        for name in ("x-slow", "x-broken"):
            ran.clear()
            assert Call(client.channel).request([*GET, (name, "1")]).SerializeToString() == b"\x0a\x00"
            assert len(ran) == 1
            assert ran != ["watchdog"]
        go_on.set()
        gates = {gate.hook.name: gate for gate in running.service.gates.states}
        until(lambda: not gates["sometimes"].in_flight)
        (_, counts), *others = gates["sometimes"].counted
        assert not others
        assert counts.timed_out + counts.failed >= 2
        assert sum(counts.durations) == 5
        assert Call(client.channel).request().SerializeToString() == b"\x0a\x00"


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_sync_and_async_handlers_in_one_stream(engine: Any) -> None:
    order: list[str] = []

    @Pre
    async def one(state: Any) -> None:
        await asyncio.sleep(0.01)
        order.append("one")

    @Pre
    def two() -> None:
        order.append("two")

    @CustomKeyCheck
    async def three(session: Any) -> None:
        session.allow("token", quota_max=10)

    @Response
    async def four() -> None:
        await asyncio.sleep(0.01)
        order.append("four")

    with serving(one, two, three, four, engine=engine) as running, Client(running.address) as client:
        call = Call(client.channel)
        assert call.request().WhichOneof("response") == "request_headers"
        assert call.response().WhichOneof("response") == "response_headers"
        assert call.end() == []
        assert order == ["one", "two", "four"]
        until(lambda: running.gateway.open_streams == 0)


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_a_client_that_leaves_cancels_an_async_handler(engine: Any) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    @Pre
    async def waits() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serving(waits, engine=engine) as running, Client(running.address) as client:
        call = Call(client.channel)

        def ask() -> None:
            with pytest.raises(grpc.RpcError):
                call.request()

        threading.Thread(target=ask, daemon=True).start()
        assert begun.wait(PATIENCE_S)
        call.replies.cancel()
        assert cancelled.wait(PATIENCE_S)
        until(lambda: running.gateway.open_streams == 0 and running.service.in_flight == 0)


def test_a_full_hook_sheds_and_its_queue_goes_on() -> None:
    gate = threading.Event()

    @Pre(concurrency=1)
    def one_by_one() -> None:
        gate.wait(PATIENCE_S)

    options = ServiceOptions(queue_size=1)
    with serving(one_by_one, options=options) as running, Client(running.address) as client:
        replies: list[Any] = []

        def ask() -> None:
            replies.append(Call(client.channel).request())

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(replies) == 1)
        assert replies[0].immediate_response.status.code == 503
        gate.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert [each.WhichOneof("response") for each in replies[1:]] == ["request_headers"] * 2


def test_many_streams_that_wait_hold_no_thread() -> None:
    @Response
    def handler() -> None:
        pass

    with serving(handler) as running, Client(running.address) as client:
        calls = [Call(client.channel) for _ in range(50)]
        for call in calls:
            call.request()
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("http2")]
        assert len(names) < 20
        assert running.gateway.open_streams == 50
        for call in calls:
            call.response()
            call.end()
        until(lambda: running.gateway.open_streams == 0)


def test_a_service_that_stops_takes_no_stream_and_ends_what_it_has() -> None:
    @Response
    def handler() -> None:
        pass

    with serving(handler) as running, Client(running.address) as client:
        open_call = Call(client.channel)
        open_call.request()
        stopping = threading.Thread(target=running.service.drain, args=(PATIENCE_S,))
        stopping.start()
        until(lambda: running.service.is_draining)
        assert Call(client.channel).request().immediate_response.status.code == 503
        assert stopping.is_alive()
        assert open_call.response().WhichOneof("response") == "response_headers"
        open_call.end()
        stopping.join(PATIENCE_S)
        assert not stopping.is_alive()


def test_a_quick_handler_runs_where_messages_are_read_and_a_slow_one_apart() -> None:
    threads: list[int] = []

    @Pre
    def hook(request: Any) -> None:
        threads.append(threading.get_ident())
        if request.path == "/slow":
            time.sleep(0.02)

    with serving(hook) as running, Client(running.address) as client:

        def is_read_and_run_by_one() -> bool:
            # The first call is tried apart, and so is what the machine had no time for.
            Call(client.channel).request()
            (state,) = running.service.gates.states
            return len(threads) > 7 and len(set(threads[-6:])) == 1 and state.pace.apart == 0

        until(is_read_and_run_by_one)


def test_a_handler_that_blocks_holds_up_no_other_stream() -> None:
    gate = threading.Event()

    @Pre
    def waits() -> None:
        assert gate.wait(PATIENCE_S)

    @Post
    def quick() -> None:
        pass

    with serving(waits, quick) as running, Client(running.address) as client:
        for _ in range(8):
            Call(client.channel, post="quick").request()
        slow = [Call(client.channel, pre="waits") for _ in range(4)]
        replies: list[Any] = []
        threads = [threading.Thread(target=lambda each=each: replies.append(each.request())) for each in slow]
        for thread in threads:
            thread.start()
        until(lambda: running.service.in_flight == 4)
        for _ in range(8):
            assert Call(client.channel, post="quick").request().WhichOneof("response") == "request_headers"
        assert not replies
        gate.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(replies) == 4


@pytest.mark.parametrize("is_async", [False, True])
def test_what_has_ended_is_no_work_for_the_garbage_collector(*, is_async: bool) -> None:
    """Cycles took half of a stream's time. Calls of async handlers, and of slow ones, have an Rpc."""

    def allow(session: Any) -> None:
        session.allow("token")

    async def allow_async(session: Any) -> None:
        session.allow("token")

    def nothing() -> None:
        pass

    async def nothing_async() -> None:
        pass

    check = CustomKeyCheck(allow_async if is_async else allow)
    look = Response(nothing_async if is_async else nothing)

    def left() -> int:
        kinds = ("Exchange", "Traffic", "HeldRequest", "UnreadRequest", "EnvoyStream", "CheckCall")
        return sum(type(each).__name__ in kinds for each in gc.get_objects())

    with serving(check, look) as running, Client(running.address) as client:
        ask = client.channel.unary_unary(
            wire.CHECK, wire.CheckRequest.SerializeToString, wire.CheckResponse.FromString
        )
        gc.collect()
        gc.disable()
        try:
            before = left()
            for _ in range(20):
                call = Call(client.channel)
                call.request()
                call.response()
                call.end()
                ask(check_request(), timeout=PATIENCE_S)
            # A thread may hold what it ran last.
            until(lambda: left() < before + 20)
        finally:
            gc.enable()


def _whole_body(client: Client) -> None:
    call = Call(client.channel, post="whole")
    call.request(POST, end=False)
    call.request_body(b"hello")
    call.end()


def _body_in_pieces(client: Client) -> None:
    call = Call(client.channel, post="pieces")
    call.request(POST, end=False)
    call.request_body(b"hello")
    call.end()


def _two_headers(client: Client) -> None:
    call = Call(client.channel, post="two_headers")
    call.request()
    call.end()


def _unknown_handler(client: Client) -> None:
    call = Call(client.channel, post="unknown")
    call.request()
    call.end()


def _client_that_leaves(client: Client) -> None:
    call = Call(client.channel, post="nothing", response="nothing")
    call.request()
    call.replies.cancel()


@pytest.mark.parametrize(
    "once", [_whole_body, _body_in_pieces, _two_headers, _unknown_handler, _client_that_leaves]
)
def test_a_stream_that_an_exchange_took_over_or_a_client_left_was_work_for_the_garbage_collector(
    once: Callable[[Client], None],
) -> None:
    @Post
    def whole(request: Any) -> None:
        request.body = request.body.upper()

    @Post
    async def pieces(request: Any) -> None:
        body = request.stream(replace=True)
        async for piece in body:
            body.write(piece.upper())

    @Post
    def two_headers(request: Any) -> None:
        request.headers["X-First"] = request.headers["X-Second"] = "1"

    def nothing() -> None:
        pass

    kinds = ("EnvoyStream", "Exchange", "HeadersOnly", "Pieces")

    def left() -> int:
        return sum(type(each).__name__ in kinds for each in gc.get_objects())

    handlers = whole, pieces, two_headers, Post(name="nothing")(nothing), Response(name="nothing")(nothing)
    with serving(*handlers) as running, Client(running.address) as client:
        once(client)
        gc.collect()
        gc.disable()
        try:
            before = left()
            for _ in range(20):
                once(client)
            # As above.
            until(lambda: left() < before + 10)
        finally:
            gc.enable()


def test_what_fails_while_a_failure_is_answered_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    @Post
    def handler() -> None:
        raise ValueError

    place_of = failures._place_of

    def no_memory(error: BaseException) -> object:
        if isinstance(error, ValueError):
            raise MemoryError
        return place_of(error)

    with serving(handler) as running, Client(running.address) as client:
        monkeypatch.setattr(failures, "_place_of", no_memory)
        for _ in range(3):
            call = Call(client.channel)
            assert call.request().immediate_response.status.code == 500
            call.end()
        until(lambda: [len(state.inside) for state in running.service.gates.states] == [0])
        assert running.service.running == {}
