"""Connections: addresses, strange clients, and abrupt ends, on both engines."""

from __future__ import annotations

import random
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest

from coprocess.gateways.tyk.wire import Object
from coprocess.transport.engine import ListenError
from coprocess.transport.engines import EngineChoice, make_engine
from tests.engines.hooks import Handlers, methods, stamped, tcp_connection
from tests.objects import make_object
from tests.serve_process import ServeProcess, write
from tests.server import (
    PATIENCE_S,
    Client,
    Server,
    engine_options,
    serving,
    status_of,
    until,
)

OK = grpc.StatusCode.OK


def test_unix_socket(engine: EngineChoice, handlers: Handlers, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'a.sock'}"
    with serving(handlers.table(), engine=engine, address=address) as server:
        assert server.address == address
        assert stamped(server.client) == "7"


def test_two_addresses(engine: EngineChoice) -> None:
    made, _ = make_engine(engine, engine_options())
    addresses = [made.listen("127.0.0.1:0"), made.listen("127.0.0.1:0")]
    assert len(set(addresses)) == 2
    made.start(methods(lambda rpc: rpc.respond(rpc.payload)))
    try:
        for address in addresses:
            with Client(address) as client:
                assert client.raw(b"a", timeout=PATIENCE_S) == b"a"
    finally:
        made.stop()


def test_a_port_that_is_in_use(engine: EngineChoice, server: Server) -> None:
    other, _ = make_engine(engine, engine_options())
    with pytest.raises(ListenError, match=f"^cannot listen on {server.address}: .*[Aa]ddress .*in use[^(]*$"):
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


HOLDS = """
import ctypes, pathlib
from coprocess import Pre

@Pre
def holds_the_interpreter(request):
    pathlib.Path("holds").touch()
    ctypes.PyDLL(None).sleep(3)

@Pre
def stamp(request):
    request.headers["X-Stamp"] = "one"
"""


def test_calls_that_wait_for_grpcio_are_answered_or_shed_and_never_cancelled(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", holds=HOLDS)
    with ServeProcess(handlers, "--engine=grpcio") as service, service.client() as flood:
        with service.client() as other:
            held = flood.future(make_object(hook_name="holds_the_interpreter"))
            until((tmp_path / "holds").exists)
            # Beyond 3,000 that wait, grpcio's own limit would end all further ones, of every connection.
            calls = [flood.future(make_object(hook_name="stamp")) for _ in range(4000)]
            others = [other.future(make_object(hook_name="stamp")) for _ in range(20)]
            ends = Counter(
                OK if (error := call.exception(timeout=PATIENCE_S)) is None else status_of(error)[0]
                for call in (*calls, *others)
            )
        assert set(ends) <= {OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, ends
        assert ends[OK] >= 20
        held.cancel()
        shed = ends[grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert f"coprocess_calls_refused_total {float(shed)}" in service.http("GET", "/metrics")[1]
        assert service.end() == 0
