"""Stores on real servers, and what must hold of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from coprocess.errors import StoreError
from coprocess.store import Store

Action = Callable[[], object]


PASSWORD = "s3cret/pa:ss"


PASSWORD_IN_URL = "s3cret%2Fpa%3Ass"


DEADLINE_BOUND_S = 15.0  # Deadlines are of a second; without one, an operation would not end at all.


@contextmanager
def opened(url: str, *, timeout_s: float = 1.0, max_connections: int = 64) -> Iterator[Store]:
    store = Store()
    store.configure(url, timeout_s=timeout_s, max_connections=max_connections)
    try:
        yield store
    finally:
        store.close()


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
    assert store.set_if_absent("f", "first", ttl_s=5)
    assert not store.set_if_absent("f", "second")
    assert store.get("f") == b"first"
    assert store.expire("f", 10)
    assert store.expire("f", None)
    assert not store.expire("absent", None)
    with store.lock("l") as lock:
        lock.extend(20)
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
    assert await aio.set_if_absent("af", "first", ttl_s=5)
    assert not await aio.set_if_absent("af", "second")
    assert await aio.get("af") == b"first"
    assert await aio.expire("af", 10)
    assert await aio.expire("af", None)
    assert not await aio.expire("absent", 10)
    async with aio.lock("al") as lock:
        await lock.extend(20)
    await aio.ping()
