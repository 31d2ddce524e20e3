"""asyncio redis-py clients, for each kind of address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from coprocess.store.address import Address
from coprocess.store.options import connection_options, sentinel_options, server_options

# Through Any, as these have no annotations.
_new_sentinel: Any = Sentinel
_new_sentinel_pool: Any = SentinelConnectionPool

Made = tuple[Any, list[Callable[[], Awaitable[None]]]]


def make_client(address: Address, timeout_s: float, max_connections: int) -> Made:
    """A client for the running loop, and what to await after it. Connects when it is used."""
    if address.mode == "cluster":
        return _make_cluster(address, timeout_s, max_connections)
    if address.mode == "sentinel":
        return _make_sentinel(address, timeout_s, max_connections)
    connection = UnixDomainSocketConnection if address.unix_path is not None else _network_class(address)
    pool = ConnectionPool(connection, max_connections, **server_options(address, timeout_s))
    client = _client_that_closes(pool)
    return client, [client.aclose]


async def drop_dead_connections(client: Any) -> None:
    """Keep a command that must not be repeated from going to a connection known to be dead."""
    # Two rounds of the loop, in which it sees what servers have closed, even if it was kept from looking.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Pools look before they give a connection away, a cluster's nodes do not.
    for node in getattr(client, "get_nodes", list)():
        for connection in list(node._connections):
            if connection._reader is not None and connection._reader.at_eof():
                await connection.disconnect(nowait=True)


def _make_cluster(address: Address, timeout_s: float, max_connections: int) -> Made:
    cluster: Any = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
        ssl=address.tls,
        **connection_options(address, timeout_s),
    )
    nodes = cluster.nodes_manager
    # Its aclose() does nothing while it has yet to look for nodes again, though it has connections.
    return cluster, [cluster.aclose, nodes.aclose, lambda: nodes.aclose("startup_nodes")]


def _make_sentinel(address: Address, timeout_s: float, max_connections: int) -> Made:
    to_sentinels = sentinel_options(address, timeout_s)
    manager = _new_sentinel([])
    manager.sentinels = [
        _client_that_closes(
            ConnectionPool(_network_class(address), max_connections, host=host, port=port, **to_sentinels)
        )
        for host, port in address.hosts
    ]
    primary = _client_that_closes(
        _new_sentinel_pool(
            address.sentinel_name,
            manager,
            ssl=address.tls,
            max_connections=max_connections,
            db=address.db,
            **connection_options(address, timeout_s),
        )
    )
    return primary, [primary.aclose, *(sentinel.aclose for sentinel in manager.sentinels)]


def _network_class(address: Address) -> Any:
    return SSLConnection if address.tls else Connection


def _client_that_closes(pool: Any) -> Any:
    """A client whose `aclose()` also closes its pool."""
    client: Any = Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client
