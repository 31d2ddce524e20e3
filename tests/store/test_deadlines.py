"""Servers that hang, drip, restart or break off: every operation ends in time."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.asyncio.connection import AbstractConnection

from coprocess.errors import StoreError
from coprocess.store import Store
from tests.server import PATIENCE_S
from tests.store.stores import (
    DEADLINE_BOUND_S,
    assert_fails_in_time,
    in_the_end,
    in_the_end_async,
    opened,
    run,
)
from tests.valkey import ValkeyProcess


@pytest.mark.parametrize("tcp", [False, True])
def test_a_frozen_server_fails_in_time_and_recovers(tmp_path: Path, tcp: bool) -> None:
    with ValkeyProcess(tmp_path / "server", tcp=tcp) as server, opened(server.url, timeout_s=1.0) as store:
        in_the_end(lambda: store.set("k", "v"))

        async def while_frozen() -> None:
            assert await in_the_end_async(lambda: store.aio.get("k")) == b"v"
            server.freeze()
            started = time.monotonic()
            for result in await asyncio.gather(
                store.aio.get("k"), store.aio.increment("n"), return_exceptions=True
            ):
                assert isinstance(result, StoreError)
            assert time.monotonic() - started < DEADLINE_BOUND_S
            error = assert_fails_in_time(lambda: store.get("k"))
            assert re.search(r"get of key 'k' failed at .*no answer within 1 s", str(error))
            server.thaw()
            assert await in_the_end_async(lambda: store.aio.get("k")) == b"v"

        asyncio.run(while_frozen())
        assert in_the_end(lambda: store.get("k")) == b"v"


@pytest.mark.parametrize("tcp", [False, True])
def test_a_restarted_server_is_used_at_once(tmp_path: Path, tcp: bool) -> None:
    with ValkeyProcess(tmp_path / "server", tcp=tcp, appendonly="yes") as server, opened(server.url) as store:
        assert store.increment("n") == 1

        async def across_a_restart() -> None:
            assert await store.aio.increment("n") == 2
            server.kill()
            assert_fails_in_time(lambda: store.get("n"))
            with pytest.raises(StoreError):
                await store.aio.get("n")
            server.start()
            assert await store.aio.increment("n") >= 1
            assert store.increment("n") >= 2
            server.kill()
            server.start()
            # Both have a connection of the server that was killed.
            assert store.increment("m") == 1
            assert await store.aio.increment("m") == 2

        asyncio.run(across_a_restart())


@contextmanager
def scripted_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A loopback server that does `serve` with every connection, in a thread; its port."""

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                serve(connection)
            except OSError:
                return  # The client has given up, as it should.

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


def test_a_dripping_server_cannot_stretch_the_deadline() -> None:
    def drip(connection: socket.socket) -> None:
        while connection.recv(4096):
            connection.sendall(b"$1000\r\n")
            while True:
                time.sleep(0.05)
                connection.sendall(b"x")

    with scripted_server(drip) as port, opened(f"redis://127.0.0.1:{port}", timeout_s=0.3) as store:
        assert_fails_in_time(lambda: store.get("k"))
        assert_fails_in_time(lambda: run(lambda: store.aio.get("k")))


def test_a_socket_that_accepts_no_more_connections_ends_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with opened(f"unix://{path}", timeout_s=0.3) as store:
            assert_fails_in_time(lambda: store.get("k"))
            assert_fails_in_time(lambda: run(lambda: store.aio.get("k")))


def test_a_tls_handshake_without_answer_ends_in_time() -> None:
    def swallow(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with scripted_server(swallow) as port, opened(f"rediss://localhost:{port}", timeout_s=0.3) as store:
        assert_fails_in_time(lambda: store.get("k"))
        assert_fails_in_time(lambda: run(lambda: store.aio.get("k")))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_closes_while_a_command_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    send = AbstractConnection.send_packed_command
    to_close = 0

    async def close_and_send(connection: Any, *arguments: Any, **options: Any) -> None:
        nonlocal to_close
        if to_close:
            to_close -= 1
            connection._writer.transport.abort()
            await asyncio.sleep(0)
        await send(connection, *arguments, **options)

    async def use() -> None:
        nonlocal to_close
        await store.aio.set("n", 1)
        to_close = 1
        assert await store.aio.get("n") == b"1"
        to_close = 1
        with pytest.raises(StoreError, match="increment of key 'n' failed"):
            await store.aio.increment("n")
        assert to_close == 0
        assert await store.aio.get("n") == b"1"

    monkeypatch.setattr(AbstractConnection, "send_packed_command", close_and_send)
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(use())


def test_an_increment_is_not_repeated_but_a_get_is() -> None:
    commands: list[bytes] = []

    def hang_up_on_data_commands(connection: socket.socket) -> None:
        while received := connection.recv(4096):
            if b"coprocess-data:" in received:
                commands.append(received.split(b"\r\n")[2])
                return
            # The handshake's commands, of which several may arrive at once.
            connection.sendall(b"+OK\r\n" * received.count(b"CLIENT"))

    with scripted_server(hang_up_on_data_commands) as port, opened(f"redis://127.0.0.1:{port}") as store:
        assert_fails_in_time(lambda: store.increment("k"))
        assert_fails_in_time(lambda: store.delete("k"))
        assert_fails_in_time(lambda: store.get("k"))
        assert commands == [b"INCRBY", b"DEL", b"GET", b"GET"]
        commands.clear()
        assert_fails_in_time(lambda: run(lambda: store.aio.increment("k")))
        assert_fails_in_time(lambda: run(lambda: store.aio.get("k")))
        assert commands == [b"INCRBY", b"GET", b"GET"]


def test_a_host_name_is_looked_up(tmp_path: Path) -> None:
    with ValkeyProcess(tmp_path / "server", tcp=True) as server:
        name = socket.gethostname()
        try:
            if socket.gethostbyname(name) != "127.0.0.1":
                name = "localhost"
        except OSError:
            name = "localhost"
        with opened(f"redis://{name}:{server.port}") as store:
            store.ping()
    with opened("redis://no-such-host.invalid:6379", timeout_s=1.0) as store:
        assert_fails_in_time(store.ping)
