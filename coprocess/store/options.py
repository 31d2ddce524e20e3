"""What redis-py's clients, synchronous or not, are told about an address."""

from __future__ import annotations

from typing import Any

from coprocess.store.address import TLS_OPTIONS, Address


def connection_options(address: Address, timeout_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        # One hung node of several must leave time to ask another one.
        "socket_timeout": timeout_s if len(address.hosts) < 2 else timeout_s / 2,
        "username": address.username,
        "password": address.password,
        "protocol": 2,  # Nothing here needs 3, and it costs a round trip for each new connection.
    }
    options["socket_connect_timeout"] = options["socket_timeout"]
    tls = {name: value for name, value in address.options.items() if name in TLS_OPTIONS}
    if "ssl_check_hostname" in tls:
        options["ssl_check_hostname"] = tls.pop("ssl_check_hostname").lower() not in ("0", "no", "false")
    return options | tls


def server_options(address: Address, timeout_s: float) -> dict[str, Any]:
    """For connections to the only server of an address, by its unix socket or by network."""
    options = connection_options(address, timeout_s) | {"db": address.db}
    if address.unix_path is not None:
        return options | {"path": address.unix_path}
    host, port = address.hosts[0]
    return options | {"host": host, "port": port}


def sentinel_options(address: Address, timeout_s: float) -> dict[str, Any]:
    """For connections to the sentinels, which have credentials of their own."""
    limit_s = timeout_s / (len(address.hosts) + 1)
    return connection_options(address, timeout_s) | {
        "username": address.options.get("sentinel_username"),
        "password": address.options.get("sentinel_password"),
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
    }
