"""The rest of the PDK: nginx, node, router, context, log, vault and what else plugins may ask for."""

from __future__ import annotations

import re
from typing import Any

from coprocess.desk.kong.simulator.entities import Route, Service
from coprocess.desk.kong.simulator.exchange import Exchange
from coprocess.desk.kong.simulator.lua import (
    LuaError,
    encode_json,
    python,
    table,
    tostring,
    type_name,
)
from coprocess.desk.kong.simulator.pdk.registry import (
    EVERYWHERE,
    REQUEST,
    A,
    E,
    L,
    P,
    pdk,
    text_argument,
)
from coprocess.desk.kong.simulator.pdk.request import host_of, is_trusted, port_of
from coprocess.desk.kong.simulator.pdk.response import visible_headers
from coprocess.desk.kong.simulator.serialize import log_message

_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")


# nginx


def variables(x: Exchange) -> dict[str, bytes]:
    """nginx's variables, as many as plugins are known to ask for."""
    facts, request = x.kong.facts, x.request
    return {
        "remote_addr": facts.client_ip.encode(),
        "realip_remote_addr": facts.client_ip.encode(),
        "remote_port": str(facts.client_port).encode(),
        "server_port": str(port_of(x)).encode(),
        "server_addr": b"127.0.0.1",
        "server_name": b"kong",
        "request_id": x.request_id,
        "request_method": request.method.encode(),
        "request_uri": request.target,
        "uri": request.path,
        "args": request.query,
        "query_string": request.query,
        "is_args": b"?" if request.query else b"",
        "scheme": request.scheme.encode(),
        "https": b"on" if request.scheme == "https" else b"",
        "host": host_of(x).lower(),
        "server_protocol": f"HTTP/{request.version}".encode(),
        "content_type": request.headers.get(b"content-type") or b"",
        "content_length": request.headers.get(b"content-length") or b"",
        "ssl_server_name": (x.sni or "").encode(),
        "hostname": facts.hostname.encode(),
    }


@pdk("nginx.get_var", (*REQUEST, P))
def get_var(x: Exchange, name: Any = None) -> Any:
    key = text_argument(name, "variable name").decode("utf-8", "replace")
    if key.startswith("http_"):
        return x.request.headers.get(key[5:].replace("_", "-").encode())
    if key.startswith("arg_"):
        from coprocess.desk.kong.simulator.http import parse_args

        values = parse_args(x.request.query).get(key[4:].encode(), [])
        return values[0] if values and values[0] is not True else None
    return variables(x).get(key)


@pdk("nginx.get_tls1_version_str")
def get_tls1_version_str(x: Exchange) -> Any:
    return x.kong.facts.tls_version.encode() if x.request.scheme == "https" else None


@pdk("nginx.get_subsystem")
def get_subsystem(x: Exchange) -> Any:
    return x.subsystem.encode()


@pdk("nginx.get_ctx")
def get_ctx(x: Exchange, name: Any = None) -> Any:
    return x.ngx_ctx.get(name)


@pdk("nginx.set_ctx")
def set_ctx(x: Exchange, name: Any = None, value: Any = None) -> Any:
    _store(x.ngx_ctx, name, value)


@pdk("nginx.req_start_time")
def req_start_time(x: Exchange) -> Any:
    return round(x.started, 3)


@pdk("nginx.get_statistics")
def get_statistics(x: Exchange) -> Any:
    names = ("active", "reading", "writing", "waiting", "accepted", "handled")
    return table({**{f"connections_{name}": 1 for name in names}, "total_requests": 1})


# Node and router


@pdk("node.get_id")
def get_node_id(x: Exchange) -> Any:
    return x.kong.facts.node_id.encode()


@pdk("node.get_hostname")
def get_hostname(x: Exchange) -> Any:
    return x.kong.facts.hostname.encode()


@pdk("node.get_memory_stats", EVERYWHERE, "MemoryStats")
def get_memory_stats(x: Exchange, unit: Any = None, scale: Any = None) -> Any:
    dicts = ("kong", "kong_locks", "kong_healthchecks", "kong_cluster_events", "kong_core_db_cache")
    shared = {name: {"allocated_slabs": 40960, "capacity": 5242880} for name in dicts}
    vms = [{"pid": 1000 + x.worker.number, "http_allocated_gc": 50000000}]
    return table({"workers_lua_vms": vms, "lua_shared_dicts": shared})


@pdk("cluster.get_id")
def get_cluster_id(x: Exchange) -> Any:
    return None


@pdk("plugin.get_id")
@pdk("get_id")
def get_plugin_id(x: Exchange) -> Any:
    return x.plugin.id.encode() if x.plugin else None


@pdk("ip.is_trusted")
def ip_is_trusted(x: Exchange, address: Any = None) -> Any:
    return is_trusted(x, text_argument(address, "address").decode("latin-1"))


def service_table(x: Exchange, service: Service) -> Any:
    made = x.kong.facts.created_at
    values = {
        "id": service.id,
        "name": service.name,
        "protocol": service.protocol,
        "host": service.host,
        "port": service.port,
        "path": service.path,
        "retries": service.retries,
        "enabled": True,
        "ws_id": x.kong.workspace,
        "created_at": made,
        "updated_at": made,
        **service.more,
    }
    return table({name: value for name, value in values.items() if value is not None})


def route_table(x: Exchange, route: Route) -> Any:
    made = x.kong.facts.created_at
    values = {
        "id": route.id,
        "name": route.name,
        "protocols": list(route.protocols),
        "paths": list(route.paths) or None,
        "hosts": list(route.hosts) or None,
        "methods": list(route.methods) or None,
        "strip_path": route.strip_path,
        "headers": {name: list(each) for name, each in route.headers.items()} or None,
        "preserve_host": route.preserve_host,
        "ws_id": x.kong.workspace,
        "service": {"id": route.service.id} if route.service else None,
        "created_at": made,
        "updated_at": made,
        **route.more,
    }
    return table({name: value for name, value in values.items() if value is not None})


@pdk("router.get_route", (A, E, L, P), "Route")
def get_route(x: Exchange) -> Any:
    return route_table(x, x.route) if x.route else None


@pdk("router.get_service", (A, E, L, P), "Service")
def get_service(x: Exchange) -> Any:
    return service_table(x, x.service) if x.service else None


# Context


def _store(values: dict[Any, Any], name: Any, value: Any) -> None:
    if name is None:
        raise LuaError("table index is nil")
    if value is None:
        values.pop(name, None)
    else:
        values[name] = value


@pdk("ctx.shared.get")
def shared_get(x: Exchange, name: Any = None) -> Any:
    return x.shared.get(name)


@pdk("ctx.shared.set")
def shared_set(x: Exchange, name: Any = None, value: Any = None) -> Any:
    _store(x.shared, name, value)


# Log


def _log(level: str) -> Any:
    def write(x: Exchange, *values: Any) -> Any:
        if not values:
            raise LuaError("bad argument #1 to 'select' (index out of range)")
        x.write_log(level, b"".join(map(tostring, values)))

    return write


for _level in _LEVELS:
    pdk(f"log.{_level}")(_log(_level))
pdk("log")(_log("notice"))


@pdk("log.inspect")
def inspect(x: Exchange, *values: Any) -> Any:
    x.write_log("notice", " ".join(repr(python(value)) for value in values).encode())


@pdk("log.deprecation")
def deprecation(x: Exchange, *values: Any) -> Any:
    text = b"".join(tostring(value) for value in values if not isinstance(value, dict))
    x.write_log("warn", text)


@pdk("log.set_serialize_value")
def set_serialize_value(x: Exchange, name: Any = None, value: Any = None, options: Any = None) -> Any:
    if not isinstance(name, bytes):
        raise LuaError("key must be a string")
    if value is not None and not isinstance(value, (bytes, int, float, dict)):
        raise LuaError("value must be nil, a number, string, boolean or a non-self-referencial table")
    mode = options.get(b"mode", b"set") if isinstance(options, dict) else b"set"
    if mode not in (b"set", b"add", b"replace"):
        raise LuaError("mode must be 'set', 'add' or 'replace'")
    if (mode == b"add" and name in x.serialize_values) or (
        mode == b"replace" and name not in x.serialize_values
    ):
        return
    x.serialize_values[name] = value


@pdk("log.serialize", (L,))
def serialize(x: Exchange, options: Any = None) -> Any:
    message = log_message(
        x,
        visible_headers(x),
        route_table(x, x.route) if x.route else None,
        service_table(x, x.service) if x.service else None,
    )
    return encode_json(message)


# What remains

_REFERENCE = re.compile(r"\{vault://([A-Za-z0-9_-]+)/([^}/]+)(?:/([^}]+?))?/?\}\Z")


@pdk("vault.is_reference")
def is_reference(x: Exchange, reference: Any = None) -> Any:
    return isinstance(reference, bytes) and reference.startswith(b"{vault://") and reference.endswith(b"}")


@pdk("vault.parse_reference")
def parse_reference(x: Exchange, reference: Any = None) -> Any:
    found = _REFERENCE.match(reference.decode("utf-8", "replace")) if isinstance(reference, bytes) else None
    if not found:
        return None
    parts = {"name": found[1], "resource": found[2], "key": found[3]}
    return table({name: value for name, value in parts.items() if value is not None})


@pdk("vault.get")
def vault_get(x: Exchange, reference: Any = None) -> Any:
    if not isinstance(reference, bytes):
        raise LuaError(f"invalid reference: got {type_name(reference)}")
    return x.kong.vault.get(reference)


@pdk("telemetry.log")
def telemetry_log(x: Exchange, *values: Any) -> Any:
    return None


@pdk("worker_events.post")
def worker_events_post(x: Exchange, *values: Any) -> Any:
    return b"done"
