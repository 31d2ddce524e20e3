"""Handlers that tests of the engines call, and an engine without a service."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coprocess import Event, Pre
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.loading.hooks import HookTable
from coprocess.transport.engine import Engine, Handler, Methods
from coprocess.transport.engines import EngineChoice, make_engine
from tests.objects import make_object, table_of
from tests.server import (
    PATIENCE_S,
    Client,
    engine_options,
)

LIMIT = 4 * 1024 * 1024


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
            def measure(request: Any) -> None:
                request.headers["X-Stamp"] = str(len(request.body))

            @Pre
            async def measure_async(request: Any) -> None:
                request.headers["X-Stamp"] = str(len(request.body))

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


def stamped(client: Client, name: str = "stamp", call_id: str = "7") -> str:
    message = make_object(hook_name=name)
    message.request.headers["X-Id"] = call_id
    return client.dispatch(message).request.set_headers["X-Stamp"]


def methods(handler: Handler) -> Methods:
    """Tyk's, with one handler."""
    return Methods(unary=dict.fromkeys(Dispatcher.METHODS, handler))


@contextmanager
def bare(choice: EngineChoice, served: Handler | Methods, **options: Any) -> Iterator[tuple[Client, Engine]]:
    """An engine with methods of its own, or one handler for Tyk's, and no service."""
    engine, _ = make_engine(choice, engine_options(**options))
    address = engine.listen("127.0.0.1:0")
    engine.start(served if isinstance(served, Methods) else methods(served))
    try:
        with Client(address) as client:
            yield client, engine
    finally:
        engine.stop()


def tcp_connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)
