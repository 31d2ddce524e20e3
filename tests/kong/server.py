"""A plugin server in this process, on a socket of its own, and Kong's side of the protocol to it."""

from __future__ import annotations

import itertools
import os
import socket
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.engine import KongEngine
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.registration import plugin_server
from coprocess.runtime.registration import GatewayOptions, Registration
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport import listeners
from coprocess.transport.engine import EngineOptions
from tests.server import PATIENCE_S

_numbers = itertools.count()


class Served:
    """A plugin server at work."""

    def __init__(self, path: Path, service: Service, engine: KongEngine) -> None:
        self.path = path
        self.service = service
        self.engine = engine
        self.kongs: list[Kong] = []

    def connect(self) -> Kong:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(self.path))
        connected.settimeout(PATIENCE_S)
        self.kongs.append(Kong(connected))
        self.kongs[-1].take_greeting()
        return self.kongs[-1]

    def wait_idle(self) -> None:
        """Until no event is left."""
        until_s = time.monotonic() + PATIENCE_S
        while (self.engine.events or self.service.in_flight) and time.monotonic() < until_s:
            time.sleep(0.005)
        assert not self.engine.events
        assert not self.service.in_flight


@contextmanager
def serving(
    folder: Path,
    source: str,
    options: PluginOptions | None = None,
    service_options: ServiceOptions | None = None,
    *,
    max_message_bytes: int = 2**24,
    max_threads: int = 256,
) -> Iterator[Served]:
    """Serve the plugin `source`, written to a file of its own in `folder`; it loads without a problem."""
    path = folder / f"plugin_{next(_numbers)}.py"
    path.write_text(textwrap.dedent(source))
    options = options or PluginOptions(name="p")
    gateway = plugin_server([path], options)
    socket_path = path.with_suffix(".socket")
    with serving_gateway(gateway, socket_path, service_options, max_message_bytes, max_threads) as served:
        yield served


@contextmanager
def serving_gateway(
    gateway: Registration,
    path: Path,
    service_options: ServiceOptions | None = None,
    max_message_bytes: int = 2**24,
    max_threads: int = 256,
) -> Iterator[Served]:
    assert gateway.load is not None
    assert gateway.engine is not None
    loaded = gateway.load()
    assert not loaded.problems, loaded.problems
    loaded.serve()
    service = Service(
        gateway.make(loaded.table, GatewayOptions()),
        service_options or ServiceOptions(concurrency=1024, owns_process=False),
    )
    engine = gateway.engine(
        EngineOptions(
            max_message_bytes=max_message_bytes,
            min_threads=4,
            max_threads=max_threads,
            max_concurrent_streams=1,
            max_metadata_bytes=1,
        )
    )
    assert isinstance(engine, KongEngine)
    service.replace_thread = engine.replace_thread
    address = f"unix:{path}"
    listeners.listen(address, engine.listen, listeners.SocketAccess(), take_over=True)
    service.start()
    engine.start(service.methods)
    served = Served(path, service, engine)
    try:
        yield served
    finally:
        for kong in served.kongs:
            kong.close()
        engine.stop()
        service.stop(1)
        listeners.remove_socket(address)
        loaded.forget()


class Kong:
    """One connection of Kong's. Its requests are in Kong's bytes."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.reader = wire.Reader()
        self.values: list[Any] = []
        self.message_id = 0

    def close(self) -> None:
        self.socket.close()

    def send(self, method: str, argument: Any) -> int:
        self.message_id += 1
        self.socket.sendall(wire.pack_request(self.message_id, method, argument))
        return self.message_id

    def receive(self) -> Any:
        """The next value. Raises EOFError where there will be none."""
        while not self.values:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.values += self.reader.feed(data)
        return self.values.pop(0)

    def take_greeting(self) -> None:
        """The server says who it is on each new connection, before all else."""
        assert wire.message_of(self.receive()) == wire.Notification(wire.SERVER_PID, os.getpid())

    def answer(self) -> wire.Answer:
        message = wire.message_of(self.receive())
        if isinstance(message, wire.Notification):  # Of a server in another process, who it is.
            message = wire.message_of(self.receive())
        assert isinstance(message, wire.Answer)
        return message

    def ask(self, method: str, argument: Any) -> Any:
        """The result. An error is an AssertionError with its text."""
        number = self.send(method, argument)
        answer = self.answer()
        assert answer.id == number
        assert answer.error is None, answer.error
        return answer.result

    def start(self, config: str = "{}", name: str = "p") -> Any:
        return self.ask(wire.START_INSTANCE, {"Name": name, "Config": config})["Id"]

    def begin(self, instance: Any, phase: str = "access") -> None:
        """Begin an event, and wait for nothing."""
        self.send(wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": phase})

    def event(self, instance: Any, phase: str = "access") -> Any:
        return self.ask(wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": phase})

    def step(self, event_id: Any, data: Any = None, kind: str = wire.STEP) -> Any:
        return self.ask(kind, {"EventId": event_id} if data is None else {"EventId": event_id, "Data": data})

    def run(self, instance: Any, phase: str = "access", **gives: Any) -> list[tuple[str, list[Any]]]:
        """Run an event to its end: the calls that it made. `gives` are their results, by the last word."""
        calls = []
        result = self.event(instance, phase)
        while result["Data"] != "ret":
            method, arguments = result["Data"]["Method"], result["Data"]["Args"]
            calls.append((method, arguments))
            if method in ("kong.response.exit", "kong.response.error"):
                break
            result = self.step(result["EventId"], gives.get(method.rpartition(".")[2]))
        return calls


def blocking(folder: Path, access: str) -> tuple[str, Path, Path]:
    """A plugin, whose `block` blocks until the second file is there, after it has made the first."""
    blocks, go_on = folder / "blocks", folder / "go_on"
    source = f"""
import asyncio
import time
from pathlib import Path

def block():
    Path({str(blocks)!r}).touch()
    while not Path({str(go_on)!r}).exists():
        time.sleep(0.01)

class Plugin:
    def __init__(self, config): ...

    async def access(self, kong):
        loop = asyncio.get_running_loop()
        {access}
"""
    return source, blocks, go_on
