"""The operations that handlers use, as methods and, for event loops, as coroutines."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coprocess.errors import ConfigError, StoreError
from coprocess.store.address import Address, library_url, parse_url
from coprocess.store.commands import (
    Value,
    decode_text,
    encode_key,
    expire_command,
    increment_command,
    set_command,
    set_if_absent_command,
)
from coprocess.store.locks import DEFAULT_LOCK_TTL_S, DEFAULT_LOCK_WAIT_S, AsyncLock, Lock

if TYPE_CHECKING:
    from coprocess.store.failures import Failure
    from coprocess.store.link import Link

DEFAULT_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 64

Observer = Callable[[str, float, bool], None]


class Store:
    """Keys and values shared by all handlers, and by all services with the same server.

    Not usable before `configure()`: then every operation raises StoreError. Every operation raises StoreError
    when it fails or does not end within the configured time, TypeError or ValueError for wrong arguments.
    Values come back as bytes, whatever type they were set with. Safe to use from any thread, and in forked
    workers; on an event loop, use `aio`.
    """

    def __init__(self) -> None:
        self._link: Link | None = None
        self.observers: list[Observer] = []
        """Called after each operation, where it was asked for, with its name, its duration in seconds, and
        whether it succeeded."""
        self.aio = AsyncStore(self)
        _stores.add(self)

    def configure(
        self,
        url: str | None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        data_dir: Path = Path(".coprocess"),
        fsync: Literal["everysec", "always"] = "everysec",
        max_connections: int = MAX_CONNECTIONS,
        watched: bool = False,
    ) -> None:
        """Say where the data is; see `parse_url` for URLs. Replaces an earlier configuration.

        Without a URL an embedded server is started, or joined, that keeps its data in `data_dir`; `fsync` is
        its alone, and so is `watched` (see `EmbeddedValkey`). A server of a URL is not contacted here: see
        `ping`. `max_connections` is per process for synchronous use, and per event loop (and node of a
        cluster). ConfigError for a bad URL or number.
        """
        if not timeout_s > 0 or not math.isfinite(timeout_s):
            raise ConfigError(f"the store's timeout_s must be greater than 0, not {timeout_s!r}")
        if max_connections < 1:
            raise ConfigError(f"the store's max_connections must be at least 1, not {max_connections!r}")
        address = None if url is None else parse_url(url)
        self.close()
        # Imported late, as importing the client library takes long.
        from coprocess.store.embedded import EmbeddedValkey
        from coprocess.store.link import Link

        embedded = None
        if address is None:
            embedded = EmbeddedValkey(data_dir, fsync=fsync, watched=watched)
            embedded.start()
            label = f"embedded Valkey {'.'.join(embedded.version.split('.')[:2])} in {data_dir} (unix socket)"
            address = Address(mode="single", label=label, unix_path=str(embedded.socket_path))
        self._link = Link(address, timeout_s, max_connections, embedded)

    def close(self) -> None:
        """Close all connections and let go of an embedded server. The store can be configured again."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def describe(self) -> str:
        """Where the data is, for people; without credentials."""
        return self._configured().address.label

    def library_url(self) -> str:
        """Where the data is, with credentials, as libraries that make their own connections take it."""
        return library_url(self._configured().address)

    def ping(self) -> None:
        """StoreError when the server does not answer."""
        self._run("ping", None, True, "PING")

    def why_unreachable(self) -> str | None:
        """Why the server does not answer, without credentials; None: it does. Observers are not told."""
        link = self._configured()
        failure: Failure | None = link.run(("PING",), True)[1]
        return None if failure is None else failure.reason

    def get(self, key: str) -> bytes | None:
        """The value, or None when there is no such key."""
        value: bytes | None = self._run("get", key, True, "GET", encode_key(key))
        return value

    def get_text(self, key: str) -> str | None:
        """As `get`, decoded from UTF-8. StoreError when the value is not UTF-8."""
        return decode_text(key, self.get(key))

    def set(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        """Set the value. It expires after `ttl_s` seconds, fractions allowed; None: never, also if it did."""
        self._run("set", key, True, *set_command(key, value, ttl_s))

    def set_if_absent(self, key: str, value: Value, *, ttl_s: float | None = None) -> bool:
        """Set the value where there is no such key yet, atomically. Whether it was set."""
        command = set_if_absent_command(key, value, ttl_s)
        return bool(self._run("set_if_absent", key, False, *command))

    def expire(self, key: str, ttl_s: float | None) -> bool:
        """Let the key expire after `ttl_s` seconds from now; None: never. Whether there is such a key."""
        return bool(self._run("expire", key, True, *expire_command(key, ttl_s)))

    def lock(
        self, name: str, *, ttl_s: float = DEFAULT_LOCK_TTL_S, wait_s: float = DEFAULT_LOCK_WAIT_S
    ) -> Lock:
        """A lock that one process, thread or task holds at a time: `with store.lock("reports"):`.

        It is waited for up to `wait_s` seconds: then LockNotAcquired. It ends by itself after `ttl_s`, so
        that a process that dies blocks nobody: give it more than the work needs, or `extend()` it on the way.
        Where it has expired when the block ends, that raises LockLost. Its owner cannot take it twice.
        """
        return Lock(self, name, ttl_s, wait_s)

    def delete(self, key: str) -> bool:
        """Whether there was such a key."""
        return bool(self._run("delete", key, False, "DEL", encode_key(key)))

    def exists(self, key: str) -> bool:
        return bool(self._run("exists", key, True, "EXISTS", encode_key(key)))

    def increment(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        """Add to a whole number, atomically; the new total. A missing key counts as 0.

        `ttl_s` (seconds) is given to a new key only, so it measures from the first increment. StoreError also
        when the value is no whole number, or the total exceeds 64 bits.
        """
        return int(self._run("increment", key, False, *increment_command(key, by, ttl_s)))

    def _configured(self) -> Link:
        if self._link is None:
            raise StoreError("the store is not configured: call coprocess.store.configure() first")
        return self._link

    def _run(self, operation: str, key: str | None, repeatable: bool, *command: Any) -> Any:
        link = self._configured()
        started = time.monotonic()
        result, failure = link.run(command, repeatable)
        self._conclude(link, operation, key, started, failure)
        return result

    def _conclude(
        self, link: Link, operation: str, key: str | None, started: float, failure: Failure | None
    ) -> None:
        """Tell the observers; raise StoreError for a failure."""
        if self.observers:
            duration_s = time.monotonic() - started
            for observe in self.observers:
                observe(operation, duration_s, failure is None)
        # Raised outside of any handler, so that no library text, which may have credentials, hangs on it.
        if failure is not None:
            subject = "" if key is None else f" of key {key[:100]!r}"
            raise StoreError(f"store {operation}{subject} failed at {link.address.label}: {failure.reason}")


class AsyncStore:
    """The operations of `Store` as coroutines, for any event loop. Same arguments, results and errors.

    Each loop has its own connections, closed when the loop ends.
    """

    def __init__(self, owner: Store) -> None:
        self._owner = owner

    async def ping(self) -> None:
        await self._run("ping", None, True, "PING")

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._run("get", key, True, "GET", encode_key(key))
        return value

    async def get_text(self, key: str) -> str | None:
        return decode_text(key, await self.get(key))

    async def set(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        await self._run("set", key, True, *set_command(key, value, ttl_s))

    async def set_if_absent(self, key: str, value: Value, *, ttl_s: float | None = None) -> bool:
        command = set_if_absent_command(key, value, ttl_s)
        return bool(await self._run("set_if_absent", key, False, *command))

    async def expire(self, key: str, ttl_s: float | None) -> bool:
        return bool(await self._run("expire", key, True, *expire_command(key, ttl_s)))

    def lock(
        self, name: str, *, ttl_s: float = DEFAULT_LOCK_TTL_S, wait_s: float = DEFAULT_LOCK_WAIT_S
    ) -> AsyncLock:
        return AsyncLock(self, name, ttl_s, wait_s)

    async def delete(self, key: str) -> bool:
        return bool(await self._run("delete", key, False, "DEL", encode_key(key)))

    async def exists(self, key: str) -> bool:
        return bool(await self._run("exists", key, True, "EXISTS", encode_key(key)))

    async def increment(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        return int(await self._run("increment", key, False, *increment_command(key, by, ttl_s)))

    async def aclose(self) -> None:
        """Close the running loop's connections. The next operation opens new ones."""
        link = self._owner._link
        if link is not None:
            await link.close_running_loop()

    async def _run(self, operation: str, key: str | None, repeatable: bool, *command: Any) -> Any:
        owner = self._owner
        link = owner._configured()
        started = time.monotonic()
        result, failure = await link.run_async(command, repeatable)
        owner._conclude(link, operation, key, started, failure)
        return result


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_stores):
        if each._link is not None:
            each._link = each._link.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
