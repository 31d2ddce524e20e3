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


def sentinel_options(address: Address, options: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    limit_s = timeout_s / (len(address.hosts) + 1)
    return options | {
        "username": address.options.get("sentinel_username"),
        "password": address.options.get("sentinel_password"),
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
    }
