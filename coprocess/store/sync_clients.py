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
from coprocess.store.options import connection_options, sentinel_options

# Through Any, as these have no annotations.
_new_node: Any = ClusterNode
_new_sentinel: Any = Sentinel
_new_sentinel_pool: Any = SentinelConnectionPool

Made = tuple[Any, list[Callable[[], None]]]


def make_client(address: Address, timeout_s: float, max_connections: int) -> Made:
    """A client, and what to call after it. A cluster's connects at once, within the deadline."""
    options = connection_options(address, timeout_s)
    if address.mode == "cluster":
        return _make_cluster(address, max_connections, options)
    if address.mode == "sentinel":
        return _make_sentinel(address, timeout_s, max_connections, options)
    if address.unix_path is not None:
        pool = ConnectionPool(
            DeadlineUnixConnection, max_connections, path=address.unix_path, db=address.db, **options
        )
    else:
        host, port = address.hosts[0]
        pool = ConnectionPool(
            _network_class(address), max_connections, host=host, port=port, db=address.db, **options
        )
    return Redis(connection_pool=pool), [pool.close]


def _make_cluster(address: Address, max_connections: int, options: dict[str, Any]) -> Made:
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
        **options,
    )
    return cluster, [cluster.close]


def _make_sentinel(address: Address, timeout_s: float, max_connections: int, options: dict[str, Any]) -> Made:
    to_sentinels = sentinel_options(address, options, timeout_s)
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
        **options,
    )
    return Redis(connection_pool=primary), [primary.close, *(pool.close for pool in pools)]


def _network_class(address: Address) -> Any:
    return DeadlineTlsConnection if address.tls else DeadlineConnection
