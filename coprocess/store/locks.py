"""A lock that all processes with the same server share: `with store.lock("reports"):`.

It is a key with a time to live, which holds the owner's token: a process that dies blocks the others no
longer than that. Whoever waits asks again and again, in intervals that grow and differ.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from coprocess.errors import StoreError
from coprocess.store.commands import acquire_command, extend_command, release_command

if TYPE_CHECKING:
    from coprocess.store.stores import AsyncStore, Store

DEFAULT_LOCK_TTL_S = 10.0
DEFAULT_LOCK_WAIT_S = 5.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1


class LockNotAcquired(StoreError):
    """Somebody else held the lock as long as it was waited for."""


class LockLost(StoreError):
    """The lock expired while it was held: somebody else may have had it too."""


class _Claim:
    """What the lock of threads and that of event loops have in common."""

    def __init__(self, name: str, ttl_s: float, wait_s: float) -> None:
        if not isinstance(wait_s, int | float) or isinstance(wait_s, bool) or not wait_s >= 0:
            raise ValueError(f"wait_s must be a number of seconds from 0 on, not {wait_s!r}")
        self._name = name
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._token = secrets.token_hex(16)
        self._acquire = acquire_command(name, self._token, ttl_s)
        self._release = release_command(name, self._token)

    def _pauses(self) -> Iterator[float]:
        """How long to wait between tries, in seconds, until it is over."""
        end = time.monotonic() + self._wait_s
        longest = _SHORTEST_PAUSE_S
        while (left := end - time.monotonic()) > 0:
            yield min(left, longest * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            longest = min(longest * 2, _LONGEST_PAUSE_S)

    def _not_acquired(self) -> LockNotAcquired:
        return LockNotAcquired(f"lock {self._name[:100]!r} was held by another for {self._wait_s:g} s")

    def _lost(self) -> LockLost:
        return LockLost(
            f"lock {self._name[:100]!r} expired while it was held, after {self._ttl_s:g} s: take it with a "
            "longer ttl_s, or extend it"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name[:100]!r}>"


class Lock(_Claim):
    """One use of a lock, in `with`."""

    def __init__(self, store: Store, name: str, ttl_s: float, wait_s: float) -> None:
        super().__init__(name, ttl_s, wait_s)
        self._store = store

    def __enter__(self) -> Lock:
        if self._try():
            return self
        for pause_s in self._pauses():
            time.sleep(pause_s)
            if self._try():
                return self
        raise self._not_acquired()

    def extend(self, ttl_s: float | None = None) -> None:
        """Let it live for `ttl_s` seconds from now, by default as long as at first. Raises LockLost."""
        command = extend_command(self._name, self._token, self._ttl_s if ttl_s is None else ttl_s)
        if not self._store._run("lock", self._name, True, *command):
            raise self._lost()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            released = self._store._run("unlock", self._name, False, *self._release)
        except StoreError:
            if error is None:
                raise
            return  # What went wrong inside says more; the lock expires by itself.
        if not released and error is None:
            raise self._lost()

    def _try(self) -> bool:
        return bool(self._store._run("lock", self._name, True, *self._acquire))


class AsyncLock(_Claim):
    """As `Lock`, in `async with`. A task that is cancelled while it waits may leave it to expire."""

    def __init__(self, store: AsyncStore, name: str, ttl_s: float, wait_s: float) -> None:
        super().__init__(name, ttl_s, wait_s)
        self._store = store

    async def __aenter__(self) -> AsyncLock:
        if await self._try():
            return self
        for pause_s in self._pauses():
            await asyncio.sleep(pause_s)
            if await self._try():
                return self
        raise self._not_acquired()

    async def extend(self, ttl_s: float | None = None) -> None:
        """As `Lock.extend`."""
        command = extend_command(self._name, self._token, self._ttl_s if ttl_s is None else ttl_s)
        if not await self._store._run("lock", self._name, True, *command):
            raise self._lost()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            released = await self._store._run("unlock", self._name, False, *self._release)
        except StoreError:
            if error is None:
                raise
            return
        if not released and error is None:
            raise self._lost()

    async def _try(self) -> bool:
        return bool(await self._store._run("lock", self._name, True, *self._acquire))
