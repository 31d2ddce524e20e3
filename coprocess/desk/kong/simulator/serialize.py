"""The message of `kong.log.serialize`."""

from __future__ import annotations

from typing import Any

from coprocess.desk.kong.simulator.entities import Consumer
from coprocess.desk.kong.simulator.exchange import Exchange
from coprocess.desk.kong.simulator.http import Headers, parse_args
from coprocess.desk.kong.simulator.lua import table
from coprocess.desk.kong.simulator.pdk.request import consumer_table, host_of, port_of

#: Names whose values Kong does not write.
_SECRET = frozenset({b"authorization", b"proxy-authorization"})


def log_message(x: Exchange, response_headers: Headers, route: Any, service: Any) -> dict[Any, Any]:
    """What logging plugins get, as a table. Times and sizes are those of a request that took no time."""
    facts = x.kong.facts
    request: dict[bytes, Any] = {
        b"id": x.request_id,
        b"method": x.request.method.encode(),
        b"uri": x.request.target,
        b"url": b"%s://%s:%d%s" % (x.request.scheme.encode(), host_of(x), port_of(x), x.request.target),
        b"headers": _single(x.request.headers, hide=True),
        b"querystring": {
            name: values[0] if len(values) == 1 else dict(enumerate(values, 1))
            for name, values in parse_args(x.request.query).items()
        },
        b"size": _size(x.request.headers, x.request.target) + len(x.request.body),
    }
    if x.request.scheme == "https":
        request[b"tls"] = {b"version": facts.tls_version.encode(), b"client_verify": b"NONE"}
    status = x.response.status if x.response else None
    message: dict[bytes, Any] = {
        b"request": request,
        b"response": {
            b"status": status,
            b"headers": _single(response_headers),
            b"size": _size(response_headers, b"") + len(x.response.body if x.response else b""),
        },
        b"latencies": {b"kong": 0, b"request": 1, b"proxy": 1 if x.reply else -1, b"receive": 0},
        b"tries": {},
        b"client_ip": facts.client_ip.encode(),
        b"started_at": int(x.started * 1000),
        b"source": b"upstream" if x.reply is not None else b"kong",
        b"workspace": x.kong.workspace.encode(),
        b"workspace_name": b"default",
        # Where nothing was sent, it is the path that would have been.
        b"upstream_uri": x.sent.target if x.sent else b"",
        b"upstream_status": None if x.reply is None else b"%d" % x.reply.status,
        b"route": route,
        b"service": service,
    }
    if x.sent is not None:
        started = int(x.started * 1000)
        once = {"ip": "127.0.0.1" if x.sent.host == "localhost" else x.sent.host, "port": x.sent.port}
        once |= {"balancer_latency": 0, "balancer_latency_ns": 20000, "balancer_start": started}
        message[b"tries"] = table([{**once, "balancer_start_ns": started * 1e6}])
    if isinstance(x.consumer, Consumer):
        message[b"consumer"] = consumer_table(x, x.consumer)
        message[b"authenticated_entity"] = {b"id": (x.credential or {}).get(b"id", b"")}
    for name, value in x.serialize_values.items():
        _put(message, name.split(b"."), value)
    return {name: value for name, value in message.items() if value is not None}


def _single(headers: Headers, *, hide: bool = False) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    for name, values in headers.multi(0).items():
        if hide and name in _SECRET:
            found[name] = b"REDACTED"
        else:
            found[name] = values[0] if len(values) == 1 else dict(enumerate(values, 1))
    return found


def _size(headers: Headers, target: bytes) -> int:
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers.lines) + 15


def _put(message: dict[bytes, Any], path: list[bytes], value: Any) -> None:
    for part in path[:-1]:
        inner = message.get(part)
        if not isinstance(inner, dict):
            inner = message[part] = {}
        message = inner
    if value is None:
        message.pop(path[-1], None)
    else:
        message[path[-1]] = value
