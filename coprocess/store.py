"""The key-value store that handlers use: `from coprocess.store import store`.

One `Store` per process over redis-py, for Valkey and Redis servers, alone, as a cluster or behind sentinels.
Importing this module is cheap: the client library is imported when the store is configured.

**Deadline.** Every operation ends within `timeout_s` in total: waiting for a free connection, name look-up,
connecting, sending, receiving and the one retry. Synchronous sockets get the time left before each blocking
call (a timeout per call, as redis-py has, would add up); asynchronous operations run in `asyncio.timeout`.

**Retries.** A pooled connection that the server has closed is noticed before use and replaced: no operation
fails because the server was restarted. If a connection breaks after a command may have been sent, get, set,
exists and ping are sent once more, as doing them twice is the same. delete and increment are never repeated:
they fail with StoreError, and may or may not have been done.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import queue
import socket
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from coprocess.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from coprocess.embedded_valkey import EmbeddedValkey

KEY_PREFIX = "coprocess-data:"  # Shared with the gateway's own plugins.
DEFAULT_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 64
MAX_TTL_S = 1e12  # Above, the server's arithmetic in milliseconds overflows.

Value = str | bytes | int | float
Observer = Callable[[str, float, bool], None]

# One command, hence atomic, and one that a cluster accepts as it has one key.
INCREMENT_SCRIPT = """
local is_new = redis.call('EXISTS', KEYS[1]) == 0
local total = redis.call('INCRBY', KEYS[1], ARGV[1])
if is_new then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return total
"""


# --- Addresses ------------------------------------------------------------------------------------------

_SCHEMES: dict[str, tuple[Literal["single", "cluster", "sentinel"], bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_ENCODE_HINT = "(in a user name or password, write / ? # @ : % percent-encoded)"


@dataclass(frozen=True)
class Address:
    """Where a store's data is. `label` is the URL without credentials; only it may be shown."""

    mode: Literal["single", "cluster", "sentinel"]
    label: str
    hosts: tuple[tuple[str, int], ...] = ()
    unix_path: str | None = None
    tls: bool = False
    db: int = 0
    sentinel_name: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)

    def redact(self, text: str) -> str:
        """`text`, which may be a server's or a library's, without this address's credentials."""
        secrets = [self.username, self.password, *(self.options.get(name) for name in _SENTINEL_OPTIONS)]
        for secret in filter(None, secrets):
            for form in {secret, quote(secret, safe=""), repr(secret)[1:-1]}:
                text = text.replace(form, "***")
        return text


def parse_url(url: str) -> Address:
    """Understand a store URL. ConfigError says what is wrong, and repeats no part of the URL.

    redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path[?db=n],
    redis+cluster://host:port,host2:port, redis+sentinel://host:port,host2:port/name[/db], and both with
    rediss+. Options after `?`: ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname
    with TLS; sentinel_username and sentinel_password with sentinels.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None  # The library's text may quote the URL; ours is raised below, outside this handler.
    if parts is None:
        _refuse(f"it is not a well-formed URL {_ENCODE_HINT}")
    if parts.scheme == "unix":
        return _parse_unix(parts)
    if "://" not in url or parts.scheme not in _SCHEMES:
        _refuse(f"it must start with one of unix://, {', '.join(f'{name}://' for name in _SCHEMES)}")
    mode, tls = _SCHEMES[parts.scheme]
    if parts.fragment or "@" in parts.path + parts.query:
        _refuse(f"there is a / ? or # before the host, or a # after it {_ENCODE_HINT}")
    username, password, host_list = _split_credentials(parts.netloc)
    hosts = _parse_hosts(host_list, default_port=26379 if mode == "sentinel" else 6379)
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    name = ""
    if mode == "sentinel":
        if not segments:
            _refuse("the sentinels' name for the primary is missing: redis+sentinel://host:26379/name")
        name = segments.pop(0)
    if mode == "single" and len(hosts) > 1:
        _refuse("several hosts need redis+cluster:// or redis+sentinel://")
    if len(segments) > (mode != "cluster"):
        _refuse("a cluster has no database number" if mode == "cluster" else "the path has too many parts")
    db = _parse_db(segments[0]) if segments else 0
    allowed = (_TLS_OPTIONS if tls else ()) + (_SENTINEL_OPTIONS if mode == "sentinel" else ())
    label_hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
    label_path = {"single": f"/{db}", "cluster": "", "sentinel": f"/{name}/{db}"}[mode]
    return Address(
        mode=mode,
        label=f"{parts.scheme}://{label_hosts}{label_path}",
        hosts=hosts,
        tls=tls,
        db=db,
        sentinel_name=name,
        username=username,
        password=password,
        options=_parse_options(parts.query, allowed),
    )


def _parse_unix(parts: SplitResult) -> Address:
    username, password, host_list = _split_credentials(parts.netloc)
    path = unquote(parts.path)
    if host_list or not path.startswith("/") or parts.fragment:
        _refuse(f"a unix socket is written unix:///absolute/path?db=0 {_ENCODE_HINT}")
    db = _parse_db(_parse_options(parts.query, ("db",)).get("db", "0"))
    label = f"unix://{path}" + (f"?db={db}" if db else "")
    return Address(mode="single", label=label, unix_path=path, db=db, username=username, password=password)


def _refuse(problem: str) -> NoReturn:
    raise ConfigError(f"the store's URL is wrong: {problem}")


def _split_credentials(netloc: str) -> tuple[str | None, str | None, str]:
    credentials, _, host_list = netloc.rpartition("@")
    if "@" in credentials:
        _refuse(f"there is more than one @ {_ENCODE_HINT}")
    username, _, password = credentials.partition(":")
    return unquote(username) or None, unquote(password) or None, host_list


def _parse_hosts(host_list: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for entry in host_list.split(","):
        if entry.startswith("["):
            host, _, port = entry[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = entry.partition(":")
        if not host:
            _refuse("a host is missing")
        port = port or str(default_port)
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            _refuse(f"a port is not a number from 1 to 65535 {_ENCODE_HINT}")
        hosts.append((host, int(port)))
    return tuple(hosts)


def _parse_db(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        _refuse("the database must be a number")
    return int(text)


def _parse_options(query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not options.keys() <= set(allowed):
        _refuse(f"it has an unknown option; known here: {', '.join(allowed) or 'none'}")
    return options


# --- Clients: redis-py with a total deadline --------------------------------------------------------------


class _Client(Protocol):
    def execute_command(self, *command: Any) -> Any: ...


class _Operation(threading.local):
    """The operation that this thread is doing."""

    deadline = math.inf  # time.monotonic() at which it must have ended.


_operation = _Operation()


class _DeadlineSocket:
    """A socket whose every blocking call ends at this thread's deadline, or after its own timeout if sooner.

    Setting a timeout is a system call, so it is left as it is while it is less than 5% too long.
    """

    def __init__(self, connected: socket.socket, timeout_s: float | None) -> None:
        self._socket = connected
        self._armed_s = -1.0
        self.settimeout(timeout_s)

    def settimeout(self, timeout_s: float | None) -> None:
        self._limit_s = math.inf if timeout_s is None else timeout_s

    def recv_into(self, *arguments: Any) -> int:
        self._arm()
        return self._socket.recv_into(*arguments)

    def recv(self, *arguments: Any) -> bytes:
        self._arm()
        return self._socket.recv(*arguments)

    def sendall(self, data: bytes) -> None:
        self._arm()
        self._socket.sendall(data)

    def fileno(self) -> int:
        return self._socket.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def _arm(self) -> None:
        left_s = _operation.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline has passed")
        left_s = min(left_s, self._limit_s)
        if not self._armed_s * 0.95 <= left_s <= self._armed_s:
            self._socket.settimeout(None if left_s == math.inf else left_s)
            self._armed_s = left_s


class _DeadlineMixin:
    """Makes a redis-py connection class keep this thread's deadline."""

    host: str
    socket_timeout: float | None
    _connect_limit_s: float | None = None

    @property
    def socket_connect_timeout(self) -> float:
        # redis-py reads this anew for each of a name's addresses.
        left_s = _operation.deadline - time.monotonic()
        limit_s = math.inf if self._connect_limit_s is None else self._connect_limit_s
        # Never 0, nor an exception: redis-py has a socket open by now, which it would leave open.
        return max(min(left_s, limit_s), 0.001)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, limit_s: float | None) -> None:
        self._connect_limit_s = limit_s

    def _connect(self) -> _DeadlineSocket:
        connect: Callable[[], socket.socket] = super()._connect  # type: ignore[misc] # of the class mixed with
        may_overrun = hasattr(self, "check_hostname") or not _is_numeric(self.host)
        connected = _call_within_deadline(connect) if may_overrun else connect()
        return _DeadlineSocket(connected, self.socket_timeout)


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _call_within_deadline(connect: Callable[[], socket.socket]) -> socket.socket:
    """`connect` in a thread, as name look-ups and TLS handshakes keep no deadline; for new connections."""
    deadline = _operation.deadline
    outcome: Future[socket.socket] = Future()

    def run() -> None:
        _operation.deadline = deadline
        try:
            connected = connect()
        except Exception as error:  # noqa: BLE001 - it is raised in the waiting thread
            if outcome.set_running_or_notify_cancel():
                outcome.set_exception(error)
            return
        if outcome.set_running_or_notify_cancel():
            outcome.set_result(connected)
        else:
            connected.close()

    threading.Thread(target=run, name="coprocess-store-connect", daemon=True).start()
    try:
        return outcome.result(None if deadline == math.inf else max(deadline - time.monotonic(), 0.0))
    except FutureTimeout:
        if outcome.cancel():
            raise TimeoutError("the deadline has passed") from None
        return outcome.result()


def _connection_options(address: Address, timeout_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        # One hung node of several must leave time to ask another one.
        "socket_timeout": timeout_s if len(address.hosts) < 2 else timeout_s / 2,
        "username": address.username,
        "password": address.password,
        "protocol": 2,  # Nothing here needs 3, and it costs a round trip for each new connection.
    }
    options["socket_connect_timeout"] = options["socket_timeout"]
    tls = {name: value for name, value in address.options.items() if name in _TLS_OPTIONS}
    if "ssl_check_hostname" in tls:
        options["ssl_check_hostname"] = tls.pop("ssl_check_hostname").lower() not in ("0", "no", "false")
    return options | tls


def _sentinel_options(address: Address, options: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    limit_s = timeout_s / (len(address.hosts) + 1)
    return options | {
        "username": address.options.get("sentinel_username"),
        "password": address.options.get("sentinel_password"),
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
    }


def _sync_client(address: Address, timeout_s: float, max_connections: int) -> tuple[_Client, list[Any]]:
    """A client, and everything to `close()` after it. A cluster's connects at once, within the deadline."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
    from redis.retry import Retry
    from redis.sentinel import (
        Sentinel,
        SentinelConnectionPool,
        SentinelManagedConnection,
        SentinelManagedSSLConnection,
    )

    class Tcp(_DeadlineMixin, Connection): ...  # type: ignore[misc] # the mixin overrides an attribute

    class Tls(_DeadlineMixin, SSLConnection): ...  # type: ignore[misc] # as above

    class Unix(_DeadlineMixin, UnixDomainSocketConnection):  # type: ignore[misc] # as above
        # redis-py 8.1 reads both when connecting takes too long, and fails on their absence.
        host = "localhost"
        port = 0

    class Managed(_DeadlineMixin, SentinelManagedConnection): ...  # type: ignore[misc] # as above

    class ManagedTls(_DeadlineMixin, SentinelManagedSSLConnection): ...  # type: ignore[misc] # as above

    # Through Any, as these have no annotations.
    new_node: Any = ClusterNode
    new_sentinel: Any = Sentinel
    new_sentinel_pool: Any = SentinelConnectionPool
    network = Tls if address.tls else Tcp
    options = _connection_options(address, timeout_s)

    def pool_of(connection_class: Any, **kwargs: Any) -> Any:
        # No blocking pool: operations wait for their turn in Store, within their deadline.
        return ConnectionPool(connection_class, max_connections, **kwargs)

    if address.mode == "cluster":

        def node_pool(**kwargs: Any) -> Any:
            return pool_of(network, **{k: v for k, v in kwargs.items() if k != "connection_class"})

        (host, port), *others = address.hosts
        cluster: Any = RedisCluster(
            # Only with a URL are its pools made by connection_pool_class.
            url=f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}",
            startup_nodes=[new_node(*other) for other in others],
            retry=Retry(NoBackoff(), 0),
            connection_pool_class=node_pool,
            **options,
        )
        return cluster, [cluster]
    if address.mode == "sentinel":
        manager = new_sentinel([])
        sentinel_options = _sentinel_options(address, options, timeout_s)
        sentinel_pools = [
            pool_of(network, host=host, port=port, **sentinel_options) for host, port in address.hosts
        ]
        manager.sentinels = [Redis(connection_pool=pool) for pool in sentinel_pools]
        primary = new_sentinel_pool(
            address.sentinel_name,
            manager,
            connection_class=ManagedTls if address.tls else Managed,
            max_connections=max_connections,
            db=address.db,
            **options,
        )
        return Redis(connection_pool=primary), [primary, *sentinel_pools]
    if address.unix_path is not None:
        pool = pool_of(Unix, path=address.unix_path, db=address.db, **options)
    else:
        pool = pool_of(network, host=address.hosts[0][0], port=address.hosts[0][1], db=address.db, **options)
    return Redis(connection_pool=pool), [pool]


def _async_client(
    address: Address, timeout_s: float, max_connections: int
) -> tuple[_Client, list[Callable[[], Awaitable[None]]]]:
    """A client for the running loop, and what to await after it. Connects when it is used."""
    from redis.asyncio import Redis
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.connection import (
        Connection,
        ConnectionPool,
        SSLConnection,
        UnixDomainSocketConnection,
    )
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
    from redis.backoff import NoBackoff

    # Through Any, as these have no annotations.
    new_sentinel: Any = Sentinel
    new_sentinel_pool: Any = SentinelConnectionPool
    network: Any = SSLConnection if address.tls else Connection
    options = _connection_options(address, timeout_s)

    def client_of(connection_class: Any, **kwargs: Any) -> Any:
        client: Any = Redis(connection_pool=ConnectionPool(connection_class, max_connections, **kwargs))
        client.auto_close_connection_pool = True
        return client

    if address.mode == "cluster":
        cluster: Any = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            retry=Retry(NoBackoff(), 0),
            max_connections=max_connections,
            ssl=address.tls,
            **options,
        )
        nodes = cluster.nodes_manager
        # Its aclose() does nothing while it has yet to look for nodes again, though it has connections.
        return cluster, [cluster.aclose, nodes.aclose, lambda: nodes.aclose("startup_nodes")]
    if address.mode == "sentinel":
        manager = new_sentinel([])
        sentinel_options = _sentinel_options(address, options, timeout_s)
        manager.sentinels = [
            client_of(network, host=host, port=port, **sentinel_options) for host, port in address.hosts
        ]
        pool = new_sentinel_pool(
            address.sentinel_name,
            manager,
            ssl=address.tls,
            max_connections=max_connections,
            db=address.db,
            **options,
        )
        primary: Any = Redis(connection_pool=pool)
        primary.auto_close_connection_pool = True
        return primary, [primary.aclose, *(sentinel.aclose for sentinel in manager.sentinels)]
    if address.unix_path is not None:
        client = client_of(UnixDomainSocketConnection, path=address.unix_path, db=address.db, **options)
    else:
        host, port = address.hosts[0]
        client = client_of(network, host=host, port=port, db=address.db, **options)
    return client, [client.aclose]


# --- The store --------------------------------------------------------------------------------------------


@dataclass
class _Failure:
    reason: str
    connection_lost: bool
    client_broken: bool = False


@dataclass
class _LoopClient:
    client: _Client
    turns: asyncio.Semaphore
    closing: AsyncGenerator[None, None]
    closing_task: asyncio.Task[None] | None = None  # Kept, as a loop keeps no strong reference to its tasks.

    async def close(self) -> None:
        await self.closing.aclose()


class _Link:
    """All that one configured store holds: its address, its clients, and maybe an embedded server."""

    def __init__(
        self, address: Address, timeout_s: float, max_connections: int, embedded: EmbeddedValkey | None
    ) -> None:
        from redis.exceptions import (
            ConnectionError as RedisConnectionError,
        )
        from redis.exceptions import (
            RedisClusterException,
            RedisError,
        )
        from redis.exceptions import (
            TimeoutError as RedisTimeoutError,
        )

        self.address = address
        self.timeout_s = timeout_s
        self.max_connections = max_connections
        self.embedded = embedded
        # UnicodeError is what a host name that cannot be encoded raises.
        self.errors = (RedisError, RedisClusterException, OSError, UnicodeError)
        self._cluster_error = RedisClusterException
        self._timeout_errors = (RedisTimeoutError, TimeoutError)
        self._lost_errors = (RedisConnectionError, ConnectionError)
        self.client: _Client | None = None
        self._to_close: list[Any] = []
        self._building = threading.Lock()
        # A queue of permissions, as its get() takes a timeout and is much quicker than a Semaphore's acquire.
        self.turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(max_connections):
            self.turns.put(None)
        self._inherited: _Link | None = (
            None  # Kept in a child: its finalizers would act on the parent's loops.
        )
        self.loop_clients: dict[asyncio.AbstractEventLoop, _LoopClient] = {}

    def after_fork(self) -> _Link:
        """The same for a forked child, which can use neither its parent's connections nor its locks."""
        link = _Link(self.address, self.timeout_s, self.max_connections, self.embedded)
        link._inherited = self
        return link

    def build(self, deadline: float) -> _Client:
        if not self._building.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise TimeoutError("the deadline has passed")
        try:
            if self.client is None:
                client, self._to_close = _sync_client(self.address, self.timeout_s, self.max_connections)
                self.client = client
            return self.client
        finally:
            self._building.release()

    def discard(self) -> None:
        """Have the next operation build a new client."""
        with self._building:
            self.client = None
            for client in self._to_close:
                client.close()
            self._to_close = []

    def explain(self, error: Exception, deadline: float) -> _Failure:
        if isinstance(error, self._timeout_errors) or time.monotonic() >= deadline:
            return _Failure(f"no answer within {self.timeout_s:g} s", connection_lost=False)
        if type(error).__name__ == "MasterNotFoundError":
            # Its own text has every sentinel's client in it; the class differs between sync and async.
            reason = f"no sentinel answers that knows a reachable primary {self.address.sentinel_name!r}"
        else:
            reason = self.address.redact(str(error) or type(error).__name__)
        if isinstance(error, self._cluster_error):
            # Some versions of redis-py forget all nodes when none was reachable, and never recover.
            return _Failure(reason, connection_lost=True, client_broken=True)
        return _Failure(reason, isinstance(error, self._lost_errors))

    async def loop_client(self) -> _LoopClient:
        """The client of the running loop. Those of loops that were closed without notice are dropped."""
        loop = asyncio.get_running_loop()
        entry = self.loop_clients.get(loop)
        if entry is not None:
            return entry
        for other in list(self.loop_clients):
            if other.is_closed():
                self.loop_clients.pop(other, None)
        client, to_close = _async_client(self.address, self.timeout_s, self.max_connections)
        entry = _LoopClient(
            client, asyncio.Semaphore(self.max_connections), self._close_with_loop(loop, to_close)
        )
        self.loop_clients[loop] = entry
        await anext(entry.closing)  # From now on, the loop knows that it must close it.
        return entry

    async def _close_with_loop(
        self, loop: asyncio.AbstractEventLoop, to_close: list[Callable[[], Awaitable[None]]]
    ) -> AsyncGenerator[None, None]:
        # asyncio.run() closes a loop's open generators before the loop: its notice that the loop ends.
        try:
            yield
        finally:
            self.loop_clients.pop(loop, None)
            for close in to_close:
                await close()

    def close(self) -> None:
        for loop, entry in list(self.loop_clients.items()):
            if loop.is_running():
                loop.call_soon_threadsafe(_close_soon, loop, entry)
        for client in self._to_close:
            client.close()
        if self.embedded is not None:
            self.embedded.close()


async def _drop_dead_connections(client: Any) -> None:
    """Keep a command that must not be repeated from going to a connection known to be dead."""
    # Two rounds of the loop, in which it sees what servers have closed, even if it was kept from looking.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Pools look before they give a connection away, a cluster's nodes do not.
    for node in getattr(client, "get_nodes", list)():
        for connection in list(node._connections):
            if connection._reader is not None and connection._reader.at_eof():
                await connection.disconnect(nowait=True)


def _close_soon(loop: asyncio.AbstractEventLoop, entry: _LoopClient) -> None:
    entry.closing_task = loop.create_task(entry.close())


class Store:
    """Keys and values shared by all handlers, and by all services with the same server.

    Not usable before `configure()`: then every operation raises StoreError. Every operation raises StoreError
    when it fails or does not end within the configured time, TypeError or ValueError for wrong arguments.
    Values come back as bytes, whatever type they were set with. Safe to use from any thread, and in forked
    workers; on an event loop, use `aio`.
    """

    def __init__(self) -> None:
        self._link: _Link | None = None
        self.observer: Observer | None = None
        """Called after each operation with its name, its duration in seconds, and whether it succeeded."""
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
    ) -> None:
        """Say where the data is; see `parse_url` for URLs. Replaces an earlier configuration.

        Without a URL an embedded server is started, or joined, that keeps its data in `data_dir`; `fsync` is
        its alone. A server of a URL is not contacted here: see `ping`. `max_connections` is per process for
        synchronous use, and per event loop (and node of a cluster). ConfigError for a bad URL or number.
        """
        if not timeout_s > 0 or not math.isfinite(timeout_s):
            raise ConfigError(f"the store's timeout_s must be greater than 0, not {timeout_s!r}")
        if max_connections < 1:
            raise ConfigError(f"the store's max_connections must be at least 1, not {max_connections!r}")
        address = None if url is None else parse_url(url)
        self.close()
        if address is not None:
            self._link = _Link(address, timeout_s, max_connections, None)
            return
        from coprocess.embedded_valkey import EmbeddedValkey

        embedded = EmbeddedValkey(data_dir, fsync=fsync)
        embedded.start()
        label = f"embedded Valkey {'.'.join(embedded.version.split('.')[:2])} in {data_dir} (unix socket)"
        address = Address(mode="single", label=label, unix_path=str(embedded.socket_path))
        self._link = _Link(address, timeout_s, max_connections, embedded)

    def close(self) -> None:
        """Close all connections and let go of an embedded server. The store can be configured again."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def describe(self) -> str:
        """Where the data is, for people; without credentials."""
        return self._configured().address.label

    def ping(self) -> None:
        """StoreError when the server does not answer."""
        self._run("ping", None, True, "PING")

    def get(self, key: str) -> bytes | None:
        """The value, or None when there is no such key."""
        value: bytes | None = self._run("get", key, True, "GET", _encode_key(key))
        return value

    def get_text(self, key: str) -> str | None:
        """As `get`, decoded from UTF-8. StoreError when the value is not UTF-8."""
        return _decode(key, self.get(key))

    def set(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        """Set the value. It expires after `ttl_s` seconds, fractions allowed; None: never, also if it did."""
        self._run("set", key, True, *_set_command(key, value, ttl_s))

    def delete(self, key: str) -> bool:
        """Whether there was such a key."""
        return bool(self._run("delete", key, False, "DEL", _encode_key(key)))

    def exists(self, key: str) -> bool:
        return bool(self._run("exists", key, True, "EXISTS", _encode_key(key)))

    def increment(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        """Add to a whole number, atomically; the new total. A missing key counts as 0.

        `ttl_s` (seconds) is given to a new key only, so it measures from the first increment. StoreError also
        when the value is no whole number, or the total exceeds 64 bits.
        """
        return int(self._run("increment", key, False, *_increment_command(key, by, ttl_s)))

    def _configured(self) -> _Link:
        if self._link is None:
            raise StoreError("the store is not configured: call coprocess.store.configure() first")
        return self._link

    def _run(self, operation: str, key: str | None, repeatable: bool, *command: Any) -> Any:
        link = self._configured()
        started = time.monotonic()
        deadline = _operation.deadline = started + link.timeout_s
        failure: _Failure | None = None
        result = None
        try:
            link.turns.get(timeout=link.timeout_s)
        except queue.Empty:
            failure = _Failure(f"no connection became free within {link.timeout_s:g} s", False)
        else:
            try:
                client = link.client or link.build(deadline)
                result = client.execute_command(*command)
            except link.errors as error:
                failure = link.explain(error, deadline)
                if failure.connection_lost:
                    result, failure = self._recover(link, deadline, failure, command if repeatable else None)
            finally:
                link.turns.put(None)
        if self.observer is not None:
            self.observer(operation, time.monotonic() - started, failure is None)
        # Raised outside the handlers, so that no library text, which may have credentials, hangs on it.
        if failure is not None:
            raise _store_error(operation, key, link.address, failure)
        return result

    @staticmethod
    def _recover(
        link: _Link, deadline: float, failure: _Failure, command: tuple[Any, ...] | None
    ) -> tuple[Any, _Failure | None]:
        """Revive an embedded server, then do `command` again if it may be done twice (else None)."""
        if failure.client_broken:
            link.discard()
        if link.embedded is not None:
            link.embedded.revive(deadline - time.monotonic())
        if command is None:
            return None, failure
        try:
            client = link.client or link.build(deadline)
            return client.execute_command(*command), None
        except link.errors as error:
            return None, link.explain(error, deadline)


class AsyncStore:
    """The operations of `Store` as coroutines, for any event loop. Same arguments, results and errors.

    Each loop has its own connections, closed when the loop ends.
    """

    def __init__(self, owner: Store) -> None:
        self._owner = owner

    async def ping(self) -> None:
        await self._run("ping", None, True, "PING")

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._run("get", key, True, "GET", _encode_key(key))
        return value

    async def get_text(self, key: str) -> str | None:
        return _decode(key, await self.get(key))

    async def set(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        await self._run("set", key, True, *_set_command(key, value, ttl_s))

    async def delete(self, key: str) -> bool:
        return bool(await self._run("delete", key, False, "DEL", _encode_key(key)))

    async def exists(self, key: str) -> bool:
        return bool(await self._run("exists", key, True, "EXISTS", _encode_key(key)))

    async def increment(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        return int(await self._run("increment", key, False, *_increment_command(key, by, ttl_s)))

    async def aclose(self) -> None:
        """Close the running loop's connections. The next operation opens new ones."""
        link = self._owner._link
        entry = link and link.loop_clients.get(asyncio.get_running_loop())
        if entry:
            await entry.close()

    async def _run(self, operation: str, key: str | None, repeatable: bool, *command: Any) -> Any:
        owner = self._owner
        link = owner._configured()
        started = time.monotonic()
        deadline = started + link.timeout_s
        failure: _Failure | None = None
        result = None
        try:
            async with asyncio.timeout(link.timeout_s):
                for _ in range(2 if repeatable else 1):
                    failure = None
                    entry = await link.loop_client()
                    async with entry.turns:
                        if not repeatable:
                            await _drop_dead_connections(entry.client)
                        try:
                            result = await entry.client.execute_command(*command)
                            break
                        except link.errors as error:
                            failure = link.explain(error, deadline)
                    if not failure.connection_lost:
                        break
                    if failure.client_broken:
                        await entry.close()
                    if link.embedded is not None:
                        await asyncio.to_thread(link.embedded.revive, deadline - time.monotonic())
        except link.errors as error:
            failure = link.explain(error, deadline)
        if owner.observer is not None:
            owner.observer(operation, time.monotonic() - started, failure is None)
        if failure is not None:
            raise _store_error(operation, key, link.address, failure)
        return result


def _store_error(operation: str, key: str | None, address: Address, failure: _Failure) -> StoreError:
    subject = "" if key is None else f" of key {key[:100]!r}"
    return StoreError(f"store {operation}{subject} failed at {address.label}: {failure.reason}")


def _encode_key(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"a store key must be str, not {type(key).__name__}")
    if not key:
        raise ValueError("a store key must not be empty")
    return (KEY_PREFIX + key).encode()


def _encode_value(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    # bool is a kind of int, but "True" is hardly what anyone wants to read back.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    raise TypeError(f"a store value must be str, bytes, int or float, not {type(value).__name__}")


def _ttl_ms(ttl_s: float) -> int:
    if not isinstance(ttl_s, int | float) or isinstance(ttl_s, bool):
        raise TypeError(f"ttl_s must be a number of seconds or None, not {type(ttl_s).__name__}")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError(f"ttl_s must be greater than 0 and at most {MAX_TTL_S:g} seconds, not {ttl_s!r}")
    return math.ceil(ttl_s * 1000)


def _set_command(key: str, value: Value, ttl_s: float | None) -> tuple[Any, ...]:
    command = ("SET", _encode_key(key), _encode_value(value))
    return command if ttl_s is None else (*command, "PX", _ttl_ms(ttl_s))


def _increment_command(key: str, by: int, ttl_s: float | None) -> tuple[Any, ...]:
    if not isinstance(by, int) or isinstance(by, bool):
        raise TypeError(f"by must be int, not {type(by).__name__}")
    if ttl_s is None:
        return ("INCRBY", _encode_key(key), by)
    return ("EVAL", INCREMENT_SCRIPT, 1, _encode_key(key), by, _ttl_ms(ttl_s))


def _decode(key: str, value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"the value of key {key[:100]!r} is not UTF-8 text: {error.reason}") from None


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_stores):
        if each._link is not None:
            each._link = each._link.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)

store = Store()
"""The process's store."""


def configure(
    url: str | None,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    data_dir: Path = Path(".coprocess"),
    fsync: Literal["everysec", "always"] = "everysec",
    max_connections: int = MAX_CONNECTIONS,
) -> None:
    """Configure the process's store; see `Store.configure`."""
    store.configure(url, timeout_s=timeout_s, data_dir=data_dir, fsync=fsync, max_connections=max_connections)


def close() -> None:
    """Close the process's store; see `Store.close`."""
    store.close()
