"""The key-value store that handlers use: `from coprocess.store import store`.

One `Store` per process over redis-py, for Valkey and Redis servers, alone, as a cluster or behind sentinels.
Importing this package is cheap: the client library is imported when the store is configured.

**Deadline.** Every operation ends within `timeout_s` in total: waiting for a free connection, name look-up,
connecting, sending, receiving and the one retry. Synchronous sockets get the time left before each blocking
call (a timeout per call, as redis-py has, would add up); asynchronous operations run in `asyncio.timeout`.

**Retries.** A pooled connection that the server has closed is noticed before use and replaced: no operation
fails because the server was restarted. If a connection breaks after a command may have been sent, get, set,
exists, expire and ping are sent once more, as doing them twice is the same, and so is taking a lock. delete,
increment, set_if_absent and giving a lock back are never repeated: they fail with StoreError, and may or may
not have been done.
"""

from coprocess.store.address import Address, parse_url
from coprocess.store.commands import INCREMENT_SCRIPT, KEY_PREFIX, MAX_TTL_S, Value
from coprocess.store.locks import AsyncLock, Lock, LockLost, LockNotAcquired
from coprocess.store.stores import DEFAULT_TIMEOUT_S, MAX_CONNECTIONS, AsyncStore, Observer, Store

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "INCREMENT_SCRIPT",
    "KEY_PREFIX",
    "MAX_CONNECTIONS",
    "MAX_TTL_S",
    "Address",
    "AsyncLock",
    "AsyncStore",
    "Lock",
    "LockLost",
    "LockNotAcquired",
    "Observer",
    "Store",
    "Value",
    "close",
    "configure",
    "parse_url",
    "store",
]

store = Store()
"""The process's store."""

configure = store.configure
close = store.close
