"""set_if_absent, expire and locks, against a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from coprocess.errors import StoreError
from coprocess.store import KEY_PREFIX, LockLost, LockNotAcquired, Store
from tests.server import PATIENCE_S
from tests.store.stores import opened, use_all_operations, use_all_operations_async
from tests.valkey import ValkeyProcess


def ttl_ms(server: ValkeyProcess, key: str) -> int:
    """-1: never; -2: there is no such key."""
    return int(server.command("PTTL", KEY_PREFIX + key)[1:])


def test_only_one_of_many_sets_what_is_absent(store: Store) -> None:
    won: list[int] = []

    def race(number: int) -> None:
        if store.set_if_absent("first", number, ttl_s=60):
            won.append(number)

    threads = [threading.Thread(target=race, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("first") == str(won[0]).encode()


def test_what_is_there_keeps_its_time(server: ValkeyProcess, store: Store) -> None:
    assert store.set_if_absent("k", "v")
    assert not store.set_if_absent("k", "w", ttl_s=1)
    assert ttl_ms(server, "k") == -1


def test_expire_sets_and_takes_away_the_time(server: ValkeyProcess, store: Store) -> None:
    store.set("k", "v")
    assert store.expire("k", 50.5)
    assert 0 < ttl_ms(server, "k") <= 50_500
    assert store.expire("k", 200)
    assert 50_500 < ttl_ms(server, "k") <= 200_000
    assert store.expire("k", None)
    assert ttl_ms(server, "k") == -1
    assert store.expire("k", None)
    assert not store.expire("absent", 60)
    assert ttl_ms(server, "absent") == -2


def test_a_lock_is_held_by_one_thread_at_a_time(store: Store) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with store.lock("work", wait_s=PATIENCE_S):
            inside += 1
            most = max(most, inside)
            store.increment("done")
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert store.get("done") == b"12"
    assert not store.exists("lock:work")


def test_a_lock_is_held_by_one_task_at_a_time(store: Store) -> None:
    inside: list[int] = []

    async def work(number: int) -> None:
        async with store.aio.lock("work", wait_s=PATIENCE_S):
            assert not inside
            inside.append(number)
            await store.aio.increment("done")
            inside.clear()

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(12)))

    asyncio.run(main())
    assert store.get("done") == b"12"


def test_a_lock_holds_off_other_services(server: ValkeyProcess, store: Store) -> None:
    async def wait(other: Store) -> None:
        async with other.aio.lock("l", wait_s=0.05):
            pytest.fail("two had it")

    with opened(server.url) as other, store.lock("l", ttl_s=60):
        with (
            pytest.raises(LockNotAcquired, match="lock 'l' was held by another for 0 s"),
            other.lock("l", wait_s=0),
        ):
            pytest.fail("two had it")
        with pytest.raises(LockNotAcquired):
            asyncio.run(wait(other))
        with other.lock("m", wait_s=0):
            pass


def test_a_lock_that_expired_is_told_and_left_to_its_next_owner(server: ValkeyProcess, store: Store) -> None:
    async def in_a_task() -> None:
        async with store.aio.lock("l") as mine:
            server.command("SET", KEY_PREFIX + "lock:l", "another's")
            with pytest.raises(LockLost):
                await mine.extend()

    attempts: list[Callable[[], None]] = [
        lambda: hold_and_lose(server, store),
        lambda: asyncio.run(in_a_task()),
    ]
    for lose in attempts:
        with pytest.raises(LockLost, match="lock 'l' expired while it was held, after 10 s"):
            lose()
        assert store.get("lock:l") == b"another's"
        store.delete("lock:l")


def hold_and_lose(server: ValkeyProcess, store: Store) -> None:
    with store.lock("l") as lock:
        server.command("SET", KEY_PREFIX + "lock:l", "another's")
        with pytest.raises(LockLost):
            lock.extend(60)


def test_a_lock_lives_as_long_as_it_is_said(server: ValkeyProcess, store: Store) -> None:
    with store.lock("l", ttl_s=50) as lock:
        assert 0 < ttl_ms(server, "lock:l") <= 50_000
        lock.extend(200)
        assert 50_000 < ttl_ms(server, "lock:l") <= 200_000
        lock.extend()
        assert 0 < ttl_ms(server, "lock:l") <= 50_000
    assert ttl_ms(server, "lock:l") == -2


def test_what_goes_wrong_inside_is_raised(server: ValkeyProcess, store: Store) -> None:
    async def in_a_task() -> None:
        async with store.aio.lock("l"):
            server.command("DEL", KEY_PREFIX + "lock:l")
            raise KeyError("inside")

    def in_a_thread() -> None:
        with store.lock("l"):
            server.command("DEL", KEY_PREFIX + "lock:l")
            raise KeyError("inside")

    attempts: list[Callable[[], None]] = [in_a_thread, lambda: asyncio.run(in_a_task())]
    for fail in attempts:
        with pytest.raises(KeyError, match="inside"):
            fail()


def test_a_lock_of_a_store_that_is_gone_is_an_error(server: ValkeyProcess, store: Store) -> None:
    server.kill()
    with pytest.raises(StoreError, match="store lock of key 'l' failed"), store.lock("l"):
        pytest.fail("nobody gave it")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda store: store.lock(7), "a lock's name must be str, not int"),
        (lambda store: store.lock(""), "a lock's name must not be empty"),
        (lambda store: store.lock("l", ttl_s=None), "ttl_s must be a number"),
        (lambda store: store.lock("l", wait_s=-1), "wait_s must be a number of seconds from 0 on"),
        (lambda store: store.lock("l", wait_s=float("nan")), "wait_s must be a number of seconds from 0 on"),
        (lambda store: store.aio.lock("l", ttl_s=0), "ttl_s must be greater than 0"),
        (lambda store: store.expire("k", 0), "ttl_s must be greater than 0"),
        (lambda store: store.expire(7, 1), "a store key must be str"),
        (lambda store: store.set_if_absent("k", None), "a store value must be"),
    ],
)
def test_wrong_arguments(store: Store, call: Callable[[Any], object], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        call(store)


def test_every_operation_has_its_name_in_traces(store: Store) -> None:
    from coprocess.process.tracing import _STORE_COMMANDS

    seen: set[str] = set()
    store.observers.append(lambda operation, duration_s, succeeded: seen.add(operation))
    use_all_operations(store)
    asyncio.run(use_all_operations_async(store))
    assert seen == set(_STORE_COMMANDS)
