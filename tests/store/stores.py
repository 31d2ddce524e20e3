"""Stores on real servers, and what must hold of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from coprocess.errors import StoreError
from coprocess.store import Store
from tests.server import PATIENCE_S

Action = Callable[[], object]
Result = TypeVar("Result")


PASSWORD = "s3cret/pa:ss"


PASSWORD_IN_URL = "s3cret%2Fpa%3Ass"


#: Deadlines are of a second; without one, an operation would not end at all.
DEADLINE_BOUND_S = PATIENCE_S


@contextmanager
def opened(url: str, *, timeout_s: float = PATIENCE_S, max_connections: int = 64) -> Iterator[Store]:
    """Its deadline is for a test to shorten whose server does not answer: a machine may stand still, too."""
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


def is_too_late(error: StoreError) -> bool:
    return "no answer within" in str(error)


def in_the_end(action: Callable[[], Result]) -> Result:
    """For a store with a short deadline, which passes also where the machine stands still: it asks again."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except StoreError as error:
            if not is_too_late(error) or time.monotonic() > until_s:
                raise


async def in_the_end_async(action: Callable[[], Awaitable[Result]]) -> Result:
    """As `in_the_end`."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await action()
        except StoreError as error:
            if not is_too_late(error) or time.monotonic() > until_s:
                raise


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
    assert store.increment("n", by=-10, ttl_s=60) == -4
    assert store.increment("m", 2, ttl_s=60) == 2
    assert store.set_if_absent("f", "first", ttl_s=60)
    assert not store.set_if_absent("f", "second")
    assert store.get("f") == b"first"
    assert store.expire("f", 10)
    assert store.expire("f", None)
    assert not store.expire("absent", None)
    with store.lock("l") as lock:
        lock.extend(60)
    store.ping()


async def use_all_operations_async(store: Store) -> None:
    aio = store.aio
    assert await aio.get("a") is None
    assert await aio.get_text("a") is None
    await aio.set("a", "grün", ttl_s=60)
    assert await aio.get("a") == "grün".encode()
    assert await aio.get_text("a") == "grün"
    assert await aio.exists("a")
    assert await aio.delete("a")
    assert not await aio.delete("a")
    assert await aio.increment("an") == 1
    assert await aio.increment("am", 5, ttl_s=60) == 5
    assert await aio.set_if_absent("af", "first", ttl_s=60)
    assert not await aio.set_if_absent("af", "second")
    assert await aio.get("af") == b"first"
    assert await aio.expire("af", 10)
    assert await aio.expire("af", None)
    assert not await aio.expire("absent", 10)
    async with aio.lock("al") as lock:
        await lock.extend(60)
    await aio.ping()
