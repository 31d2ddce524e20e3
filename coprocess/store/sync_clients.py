"""Synchronous redis-py clients, for each kind of address, that keep the thread's deadline.

Their pools do not block: commands wait for their turn in `Link`, within their deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import ConnectionPool
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from coprocess.store.address import Address
from coprocess.store.deadline import (
    DeadlineConnection,
    DeadlineManagedConnection,
    DeadlineManagedTlsConnection,
    DeadlineTlsConnection,
    DeadlineUnixConnection,
)
from coprocess.store.options import connection_options, sentinel_options, server_options

# Through Any, as these have no annotations.
_new_node: Any = ClusterNode
_new_sentinel: Any = Sentinel
_new_sentinel_pool: Any = SentinelConnectionPool

Made = tuple[Any, list[Callable[[], None]]]


def make_client(address: Address, timeout_s: float, max_connections: int) -> Made:
    """A client, and what to call after it. A cluster's connects at once, within the deadline."""
    if address.mode == "cluster":
        return _make_cluster(address, timeout_s, max_connections)
    if address.mode == "sentinel":
        return _make_sentinel(address, timeout_s, max_connections)
    connection = DeadlineUnixConnection if address.unix_path is not None else _network_class(address)
    pool = ConnectionPool(connection, max_connections, **server_options(address, timeout_s))
    return Redis(connection_pool=pool), [pool.close]


def _make_cluster(address: Address, timeout_s: float, max_connections: int) -> Made:
    def node_pool(**kwargs: Any) -> Any:
        return ConnectionPool(**kwargs | {"connection_class": network, "max_connections": max_connections})

    network = _network_class(address)
    (host, port), *others = address.hosts
    cluster: Any = RedisCluster(
        # Only with a URL are its pools made by connection_pool_class.
        url=f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}",
        startup_nodes=[_new_node(*other) for other in others],
        retry=Retry(NoBackoff(), 0),
        connection_pool_class=node_pool,
        **connection_options(address, timeout_s),
    )
    return cluster, [cluster.close]


def _make_sentinel(address: Address, timeout_s: float, max_connections: int) -> Made:
    to_sentinels = sentinel_options(address, timeout_s)
    pools: list[Any] = [
        ConnectionPool(_network_class(address), max_connections, host=host, port=port, **to_sentinels)
        for host, port in address.hosts
    ]
    manager = _new_sentinel([])
    manager.sentinels = [Redis(connection_pool=pool) for pool in pools]
    primary = _new_sentinel_pool(
        address.sentinel_name,
        manager,
        connection_class=DeadlineManagedTlsConnection if address.tls else DeadlineManagedConnection,
        max_connections=max_connections,
        db=address.db,
        **connection_options(address, timeout_s),
    )
    return Redis(connection_pool=primary), [primary.close, *(pool.close for pool in pools)]


def _network_class(address: Address) -> Any:
    return DeadlineTlsConnection if address.tls else DeadlineConnection
