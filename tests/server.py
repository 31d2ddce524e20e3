"""A service in this process, behind a real engine on a free port, and a gRPC client of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import DISPATCH, DISPATCH_EVENT, Event, Object
from coprocess.loading.hooks import HookTable
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engine import Engine, EngineOptions
from coprocess.transport.engines import EngineChoice, make_engine

if TYPE_CHECKING:
    from grpc import _CallFuture as CallFuture

ENGINES: tuple[EngineChoice, ...] = ("http2", "grpcio")

#: In seconds; passed only where something hangs. On a busy machine, three processes took 15 s to start.
PATIENCE_S = 50.0


def engine_options(**changes: Any) -> EngineOptions:
    options: dict[str, Any] = {
        "max_message_bytes": 4 * 1024 * 1024,
        "min_threads": 2,
        "max_threads": 64,
        "max_concurrent_streams": 65_536,
        "max_metadata_bytes": 16_384,
    }
    return EngineOptions(**{**options, **changes})


class Client:
    """What a gateway is: one channel, plaintext."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # Else channels of one process to one address share a connection.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        # Raw bytes in and out: what is no message must be sendable, too.
        self.raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(DISPATCH)
        self.raw_event: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(DISPATCH_EVENT)

    def dispatch(self, message: Object, *, timeout_s: float = PATIENCE_S) -> Object:
        """Raises grpc.RpcError."""
        return Object.FromString(self.raw(message.SerializeToString(), timeout=timeout_s))

    def future(
        self,
        message: Object,
        *,
        timeout_s: float = PATIENCE_S,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> CallFuture[bytes]:
        return self.raw.future(message.SerializeToString(), timeout=timeout_s, metadata=tuple(metadata))

    def send_event(self, payload: str) -> None:
        """Raises grpc.RpcError."""
        self.raw_event(Event(payload=payload).SerializeToString(), timeout=PATIENCE_S)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Server:
    """A running service. `client` is a connection of its own."""

    def __init__(self, service: Service, engine: Engine, address: str) -> None:
        self.service = service
        self.engine = engine
        self.address = address
        self.client = Client(address)
        self._stopped = False

    def stop(self, *, drain_s: float = PATIENCE_S) -> bool:
        """As the service ends on a signal. False where calls were still running."""
        if self._stopped:
            return True
        self._stopped = True
        drained = self.service.drain(drain_s)
        self.engine.stop()
        self.service.stop(5.0)
        return drained


@contextmanager
def serving(
    table: HookTable | None = None,
    *,
    engine: EngineChoice = "auto",
    address: str = "127.0.0.1:0",
    full_reply: bool = False,
    max_headers: int = 1000,
    options: ServiceOptions | None = None,
    drain_s: float = 5.0,
    **engine_changes: Any,
) -> Iterator[Server]:
    """Serve `table` within."""
    running, _ = make_engine(engine, engine_options(**engine_changes))
    dispatcher = Dispatcher(table or HookTable(), full_reply=full_reply, max_headers=max_headers)
    service = Service(dispatcher, options or ServiceOptions())
    service.replace_thread = running.replace_thread
    bound = running.listen(address)
    service.start()
    running.start(service.methods)
    server = Server(service, running, bound)
    try:
        yield server
    finally:
        server.client.close()
        with suppress(RuntimeError):
            server.stop(drain_s=drain_s)


def error_of(call: CallFuture[Any]) -> tuple[grpc.StatusCode, str]:
    """How a call ended that must end badly."""
    error = call.exception(timeout=PATIENCE_S)
    assert error is not None, "the call succeeded"
    return status_of(error)


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


def fails(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """How a call ends that must end badly."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return status_of(failed.value)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)
