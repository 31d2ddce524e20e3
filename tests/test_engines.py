"""Both engines do the same for the same calls, over a real connection."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from coprocess import Event, Pre
from coprocess.errors import Status
from coprocess.hooks import HookTable
from coprocess.server import grpcio as grpcio_engine
from coprocess.server.engine import Engine, ListenError, Rpc
from coprocess.server.engines import EngineChoice, make_engine
from coprocess.tyk.wire import DISPATCH, Object
from tests.objects import event_json, make_object, table_of
from tests.server import ENGINES, PATIENCE_S, Client, Server, engine_options, error_of, serving, status_of
from tests.test_workers import until

LIMIT = 4 * 1024 * 1024


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineChoice:
    choice: EngineChoice = request.param
    return choice


class Handlers:
    """A table, and what its handlers saw."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.started = threading.Semaphore(0)
        self.release = threading.Event()
        self.events: list[str] = []
        self.ran: list[int] = []

    def table(self) -> HookTable:
        def declare() -> None:
            @Pre
            def stamp(request: Any) -> None:
                self.ran.append(1)
                request.headers["X-Stamp"] = request.headers.get("X-Id", "none")

            @Pre
            async def stamp_async(request: Any) -> None:
                await asyncio.sleep(0)
                request.headers["X-Stamp"] = request.headers.get("X-Id", "none")

            @Pre
            def wait(request: Any) -> None:
                self.started.release()
                self.release.wait(PATIENCE_S)
                request.headers["X-Stamp"] = "waited"

            @Pre
            async def wait_async(request: Any) -> None:
                self.started.release()
                while not self.release.is_set():  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.002)
                request.headers["X-Stamp"] = "waited"

            @Pre
            async def forever(request: Any) -> None:
                self.started.release()
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise

            @Pre
            def fails(request: Any) -> None:
                raise ValueError("secret detail")

            @Pre
            async def fails_async(request: Any) -> None:
                raise ValueError("secret detail")

            @Pre
            def grow(request: Any) -> None:
                request.body = b"x" * int(request.headers["X-Size"])

            @Event(name="my_handler")
            def on_event(event: Any) -> None:
                self.events.append(event.type)

        return table_of(declare)

    def wait_until_started(self, count: int) -> None:
        for _ in range(count):
            assert self.started.acquire(timeout=PATIENCE_S)


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    made = Handlers()
    yield made
    made.release.set()


@pytest.fixture
def server(engine: EngineChoice, handlers: Handlers) -> Iterator[Server]:
    with serving(handlers.table(), engine=engine) as running:
        yield running
        handlers.release.set()


def stamped(client: Client, name: str = "stamp", call_id: str = "7") -> str:
    message = make_object(hook_name=name)
    message.request.headers["X-Id"] = call_id
    return client.dispatch(message).request.set_headers["X-Stamp"]


def fails(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return status_of(failed.value)


# Calls, good and bad.


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


# Deadlines and cancellation.


@pytest.mark.parametrize("name", ["wait", "wait_async", "forever"])
def test_a_clients_deadline(server: Server, handlers: Handlers, name: str) -> None:
    call = server.client.future(make_object(hook_name=name), timeout_s=0.2)
    handlers.wait_until_started(1)
    assert error_of(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stamped(server.client) == "7"
    if name == "forever":
        assert handlers.cancelled.wait(PATIENCE_S)
    handlers.release.set()
    until(lambda: server.service.in_flight == 0)


def test_cancellation_reaches_an_async_handler(server: Server, handlers: Handlers) -> None:
    call = server.client.future(make_object(hook_name="forever"))
    handlers.wait_until_started(1)
    assert call.cancel()
    assert handlers.cancelled.wait(PATIENCE_S)
    until(lambda: server.service.in_flight == 0)
    assert stamped(server.client, "stamp_async") == "7"


def test_cancellation_of_many(server: Server, handlers: Handlers) -> None:
    """Also of those that have hardly begun: none is left, and none runs on."""
    for _ in range(20):
        calls = [server.client.future(make_object(hook_name="forever")) for _ in range(20)]
        for call in calls:
            call.cancel()
    # One connection keeps the order: once these are answered, all before have come.
    stamped(server.client)
    until(lambda: server.service.in_flight == 0)


def test_a_sync_handler_of_a_client_that_is_gone_ends(server: Server, handlers: Handlers) -> None:
    call = server.client.future(make_object(hook_name="wait"))
    handlers.wait_until_started(1)
    call.cancel()
    handlers.release.set()
    until(lambda: server.service.in_flight == 0)
    assert stamped(server.client) == "7"


def test_many_async_calls_wait_on_no_thread(engine: EngineChoice, handlers: Handlers) -> None:
    with serving(handlers.table(), engine=engine, max_threads=4) as server:
        calls = [server.client.future(make_object(hook_name="wait_async")) for _ in range(300)]
        handlers.wait_until_started(300)
        assert stamped(server.client) == "7"
        assert server.engine.thread_count <= 4
        handlers.release.set()
        replies = [Object.FromString(call.result(timeout=PATIENCE_S)) for call in calls]
        assert {reply.request.set_headers["X-Stamp"] for reply in replies} == {"waited"}


# Sizes.


def test_a_message_that_is_too_large(server: Server) -> None:
    message = make_object(hook_name="stamp")
    message.request.raw_body = b"x" * (LIMIT + 1)
    code, _ = fails(lambda: server.client.dispatch(message))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stamped(server.client) == "7"
    # grpcio tells nobody.
    assert server.engine.refused_calls == (server.engine.name == "native")


@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT])
def test_a_reply_that_is_too_large(server: Server, size: int) -> None:
    message = make_object(hook_name="grow")
    message.request.headers["X-Size"] = str(size)
    code, text = fails(lambda: server.client.dispatch(message))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text.startswith("the reply is larger than the limit: ")
    assert stamped(server.client) == "7"


def test_messages_just_below_the_limit(server: Server) -> None:
    message = make_object(hook_name="grow")
    message.request.headers["X-Size"] = str(LIMIT - 1000)
    message.request.raw_body = b"x" * (LIMIT - 1000)
    reply = server.client.dispatch(message)
    assert len(reply.request.raw_body) == LIMIT - 1000


@pytest.mark.parametrize("size", [1000, LIMIT - 1000])
def test_a_compressed_message(server: Server, size: int) -> None:
    message = make_object(hook_name="stamp")
    message.request.raw_body = b"x" * size
    reply = server.client.raw(
        message.SerializeToString(), timeout=PATIENCE_S, compression=grpc.Compression.Gzip
    )
    assert Object.FromString(reply).request.raw_body == message.request.raw_body


def test_a_compressed_message_that_unpacks_to_more_than_the_limit(server: Server) -> None:
    zeros = bytes(2 * LIMIT)
    code, _ = fails(lambda: server.client.raw(zeros, timeout=PATIENCE_S, compression=grpc.Compression.Gzip))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stamped(server.client) == "7"


@pytest.mark.parametrize("size", [30_000, 200_000])
def test_metadata_beyond_the_limit_ends_the_call(server: Server, size: int) -> None:
    payload = make_object(hook_name="stamp").SerializeToString()
    code, _ = fails(
        lambda: server.client.raw(payload, timeout=PATIENCE_S, metadata=(("x-large", "x" * size),))
    )
    # The native engine refuses as HTTP does, with 431, and closes the connection where it is much too large.
    refusals = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
    assert code in refusals
    assert stamped(server.client) == "7"


# What an engine tells of a call.


@contextmanager
def bare(
    choice: EngineChoice, handler: Callable[[Rpc], None], **options: Any
) -> Iterator[tuple[Client, Engine]]:
    """An engine with a handler of its own, and no service."""
    engine, _ = make_engine(choice, engine_options(**options))
    address = engine.listen("127.0.0.1:0")
    engine.start(handler)
    try:
        with Client(address) as client:
            yield client, engine
    finally:
        engine.stop()


def test_metadata_and_time_remaining(engine: EngineChoice) -> None:
    seen: list[Any] = []

    def handler(rpc: Rpc) -> None:
        seen.append((rpc.method, rpc.payload, dict(rpc.metadata()), rpc.time_remaining_s()))
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


# Connections.


def test_unix_socket(engine: EngineChoice, handlers: Handlers, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'a.sock'}"
    with serving(handlers.table(), engine=engine, address=address) as server:
        assert server.address == address
        assert stamped(server.client) == "7"


def test_two_addresses(engine: EngineChoice) -> None:
    made, _ = make_engine(engine, engine_options())
    addresses = [made.listen("127.0.0.1:0"), made.listen("127.0.0.1:0")]
    assert len(set(addresses)) == 2
    made.start(lambda rpc: rpc.respond(rpc.payload))
    try:
        for address in addresses:
            with Client(address) as client:
                assert client.raw(b"a", timeout=PATIENCE_S) == b"a"
    finally:
        made.stop()


def test_a_port_that_is_in_use(engine: EngineChoice, server: Server) -> None:
    other, _ = make_engine(engine, engine_options())
    with pytest.raises(ListenError, match=f"^cannot listen on {server.address}: .*[Aa]ddress .*in use"):
        other.listen(server.address)
    other.stop()


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "no-such-host.invalid:1", "nonsense"])
def test_an_address_that_cannot_be(engine: EngineChoice, address: str) -> None:
    made, _ = make_engine(engine, engine_options())
    with pytest.raises(ListenError, match=f"^cannot listen on {address}: ."):
        made.listen(address)
    made.stop()


def test_abrupt_disconnects(server: Server, handlers: Handlers) -> None:
    clients = [Client(server.address) for _ in range(5)]
    calls = [
        client.future(make_object(hook_name=name))
        for client in clients
        for name in ("wait", "wait_async", "forever")
    ]
    handlers.wait_until_started(15)
    for client in clients:
        client.close()
    assert handlers.cancelled.wait(PATIENCE_S)
    handlers.release.set()
    until(lambda: server.service.in_flight == 0)
    assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
    assert stamped(server.client) == "7"


def test_many_connections(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.address)) for _ in range(40)]
        with ThreadPoolExecutor(8) as threads:
            stamps = list(threads.map(lambda client: stamped(client, call_id="9"), clients * 3))
    assert stamps == ["9"] * 120


def tcp_connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def test_garbage_on_the_port_does_not_hurt_good_calls(server: Server) -> None:
    source = random.Random(7)  # noqa: S311 - the same garbage each time
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for index in range(30):
        with tcp_connection(server.address) as connection, suppress(OSError):
            connection.sendall(preface * (index % 2) + source.randbytes(200))
            if index % 3 == 0:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert stamped(server.client, call_id=str(index)) == str(index)


def test_a_client_that_pings_often_keeps_its_connection(server: Server) -> None:
    """As load balancers do that look after their connections."""
    ping, ping_acknowledged, go_away, pings = 6, (6, 1), 7, 20
    frame = struct.Struct(">BHBBI")  # Length, in two parts, type, flags, stream.
    with tcp_connection(server.address) as connection, connection.makefile("rb") as answers:
        settings = frame.pack(0, 0, 4, 0, 0)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        for _ in range(pings):
            connection.sendall(frame.pack(0, 8, ping, 0, 0) + bytes(8))
            kind, flags = 0, 0
            while (kind, flags) != ping_acknowledged:
                high, low, kind, flags, _ = frame.unpack(answers.read(frame.size))
                said = answers.read(high << 16 | low)
                assert kind != go_away, said


def test_idle_and_half_open_connections(server: Server) -> None:
    with ExitStack() as stack:
        for index in range(100):
            connection = stack.enter_context(tcp_connection(server.address))
            connection.sendall(b"PRI * HT"[: index % 9])
        assert stamped(server.client) == "7"


def test_calls_at_the_same_time_are_not_mixed_up(server: Server) -> None:
    calls = {}
    for index in range(400):
        message = make_object(hook_name=("stamp", "stamp_async")[index % 2])
        message.request.headers["X-Id"] = str(index)
        calls[str(index)] = server.client.future(message)
    for call_id, call in calls.items():
        reply = Object.FromString(call.result(timeout=PATIENCE_S))
        assert reply.request.set_headers["X-Stamp"] == call_id


# The end.


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_stopping_answers_every_call_in_flight(engine: EngineChoice, size: int) -> None:
    for _ in range(3):
        release = threading.Event()

        def declare(release: threading.Event = release) -> None:
            @Pre(name="sync")
            def sync(request: Any) -> None:
                release.wait(PATIENCE_S)
                request.body = b"x" * size

            @Pre(name="async")
            async def asynchronous(request: Any) -> None:
                while not release.is_set():  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.002)
                request.body = b"x" * size

        with serving(table_of(declare), engine=engine) as server:
            calls = [server.client.future(make_object(hook_name=name)) for name in ("sync", "async") * 16]
            until(lambda server=server: server.service.in_flight == 32)  # type: ignore[misc]  # as above
            timer = threading.Timer(0.03, release.set)
            timer.start()
            assert server.stop()
            timer.join()
            replies = [Object.FromString(call.result(timeout=PATIENCE_S)) for call in calls]
            assert {len(reply.request.raw_body) for reply in replies} == {size}


def test_new_calls_are_refused_while_it_stops(server: Server, handlers: Handlers) -> None:
    waiting = server.client.future(make_object(hook_name="wait"))
    handlers.wait_until_started(1)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: server.service._draining)
    code, text = fails(lambda: server.client.dispatch(make_object(hook_name="stamp")))
    assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "the service is shutting down")
    handlers.release.set()
    assert Object.FromString(waiting.result(timeout=PATIENCE_S)).request.set_headers["X-Stamp"] == "waited"
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    assert fails(lambda: stamped(server.client))[0] is grpc.StatusCode.UNAVAILABLE


def test_stopping_under_load_answers_whoever_was_accepted(server: Server, handlers: Handlers) -> None:
    """Whoever comes later is told that the service is away."""
    stop = threading.Event()
    outcomes: list[tuple[grpc.StatusCode, str] | str] = []

    def load() -> None:
        with Client(server.address) as client:
            while not stop.is_set():
                try:
                    outcomes.append(stamped(client))
                except grpc.RpcError as error:
                    outcomes.append(status_of(error))
                    return

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(outcomes) > 50)
    assert server.stop()
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert outcomes.count("7") == len(handlers.ran)
    # In the last moment, grpcio itself cancels what it has not accepted.
    away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert all(outcome == "7" or outcome[0] in away for outcome in outcomes)


def test_stopping_does_not_wait_for_what_hangs(server: Server, handlers: Handlers) -> None:
    call = server.client.future(make_object(hook_name="wait"))
    handlers.wait_until_started(1)
    began = time.monotonic()
    assert not server.stop(drain_s=0.05)
    assert time.monotonic() - began < PATIENCE_S
    assert error_of(call)[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_stopping_closes_the_port(engine: EngineChoice) -> None:
    with bare(engine, lambda rpc: rpc.respond(b"")) as (client, made):
        client.raw(b"", timeout=PATIENCE_S)
        made.stop()
        with pytest.raises(OSError, match="refused"):
            tcp_connection(client.address)


def test_stopping_what_never_started(engine: EngineChoice) -> None:
    made, _ = make_engine(engine, engine_options())
    made.listen("127.0.0.1:0")
    made.stop()


# The grpcio engine's two ways to answer.


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
