"""What the store's operations do, against a real server."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from coprocess.errors import StoreError
from coprocess.store import KEY_PREFIX, Store, Value, close, configure
from coprocess.store import store as process_store
from tests.server import PATIENCE_S
from tests.store.stores import (
    DEADLINE_BOUND_S,
    Action,
    in_the_end,
    opened,
    run,
    use_all_operations,
    use_all_operations_async,
)
from tests.valkey import ValkeyProcess


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
    deadline = time.monotonic() + PATIENCE_S
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
    with opened(server.url, max_connections=3) as store:

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
    with opened(server.url, max_connections=3) as store:

        async def main() -> None:
            await asyncio.gather(*(store.aio.increment("n") for _ in range(200)))

        asyncio.run(main())
        assert store.get("n") == b"200"


def test_waiting_for_a_connection_counts_for_the_deadline(server: ValkeyProcess) -> None:
    with opened(server.url, timeout_s=0.5, max_connections=1) as store:
        in_the_end(store.ping)
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
    configure(server.url, timeout_s=PATIENCE_S)
    try:
        process_store.set("k", "v")
        assert process_store.get("k") == b"v"
        assert process_store.describe() == f"unix://{server.socket_path}"
    finally:
        close()


def test_observer_sees_each_operation(store: Store) -> None:
    seen: list[tuple[str, float, bool]] = []
    store.observers.append(lambda *what: seen.append(what))
    started_s = time.monotonic()
    store.set("k", "text")
    run(lambda: store.aio.get("k"))
    with pytest.raises(StoreError):
        store.increment("k")
    assert [(operation, ok) for operation, _, ok in seen] == [
        ("set", True),
        ("get", True),
        ("increment", False),
    ]
    took_s = time.monotonic() - started_s
    assert all(0 <= seconds <= took_s for _, seconds, _ in seen)
