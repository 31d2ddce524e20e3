"""The attributes that an ext_proc filter may be told to send, as far as they can be told here."""

from __future__ import annotations

from typing import Any

from coprocess.desk.envoy.simulator.headers import HeaderMap
from coprocess.desk.envoy.simulator.http import grpc_status_of
from coprocess.desk.envoy.simulator.run import Run

NAMESPACE = "envoy.filters.http.ext_proc"
#: What a map looks like as an attribute: useless.
_MAP = "CelMap value"
#: Envoy's response flags, by what its reason for an answer of its own begins with.
_FLAGS = {
    "response_timeout": 0x4,
    "upstream_reset_before_response_started{remote_connection_failure": 0x20,
    "upstream_reset_before_response_started{connection_termination": 0x40,
    "route_not_found": 0x100,
    "ext_authz_denied": 0x1000,
    "ext_authz_error": 0x1000,
}


def attributes(names: tuple[str, ...], run: Run) -> dict[str, Any]:
    """Those of `names` that have a value."""
    found = {name: _value(name, run) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _value(name: str, run: Run) -> Any:
    if name.startswith("request"):
        return _request(name.partition(".")[2], run)
    if name.startswith("response."):
        return _response(name.partition(".")[2], run)
    route = run.route
    return {
        "source.address": f"{run.client_address}:0",
        "source.port": 0.0,
        "destination.address": "127.0.0.1:0",
        "destination.port": 0.0,
        "connection.id": 0.0,
        "connection.mtls": False,
        "connection.requested_server_name": "",
        "filter_state": _MAP,
        "metadata": "",
        "upstream.address": "127.0.0.1:0" if run.response_headers is not None else None,
        "upstream.port": 0.0 if run.response_headers is not None else None,
        "upstream.transport_failure_reason": "" if run.response_headers is not None else None,
        "xds.cluster_name": route.cluster if route and route.cluster else None,
        "xds.route_name": route.name if route else None,
        "xds.virtual_host_name": "v" if route else None,
        "xds.route_metadata": _text_metadata(dict(route.metadata)) if route else None,
        "xds.listener_metadata": "",
        "xds.node": "",
    }.get(name)


def _request(name: str, run: Run) -> Any:
    headers = run.request_headers
    path = headers.get(":path") or ""
    return {
        "": _MAP,
        "headers": _MAP,
        "path": path,
        "url_path": path.partition("?")[0],
        "query": path.partition("?")[2],
        "host": headers.get(":authority"),
        "scheme": headers.get(":scheme"),
        "method": headers.get(":method"),
        "referer": headers.get("referer"),
        "useragent": headers.get("user-agent"),
        "id": headers.get("x-request-id"),
        "protocol": "HTTP/2" if run.request.is_http2 else "HTTP/1.1",
        "time": "1970-01-01T00:00:00+00:00",
        "size": _length(headers) or float(run.received_bytes),
        "total_size": _length(headers) + headers.size_bytes,
    }.get(name)


def _response(name: str, run: Run) -> Any:
    headers = run.response_headers
    if headers is None:
        return None
    status = headers.get(":status") or ""
    grpc_status = headers.get("grpc-status")
    return {
        "headers": _MAP,
        "code": float(status) if status.isdecimal() else None,
        "code_details": run.exchange.details or "via_upstream",
        "flags": _flags(run.exchange.details),
        "grpc_status": float(grpc_status or grpc_status_of(int(status) if status.isdecimal() else 0)),
        "size": 0.0,
        "total_size": float(headers.size_bytes),
    }.get(name)


def _flags(details: str) -> float:
    return float(next((flag for start, flag in _FLAGS.items() if details.startswith(start)), 0))


def _length(headers: HeaderMap) -> float:
    length = headers.get("content-length") or ""
    return float(length) if length.isdecimal() else 0.0


def _text_metadata(namespaces: dict[str, Any]) -> str:
    """Protobuf's text format, on one line."""
    parts = [
        f'filter_metadata {{ key: "{name}" value {{ {_text_struct(values)}}} }} '
        for name, values in sorted(namespaces.items())
    ]
    return "".join(parts)


def _text_struct(values: dict[str, Any]) -> str:
    return "".join(
        f'fields {{ key: "{key}" value {{ {_text_value(value)} }} }} '
        for key, value in sorted(values.items())
    )


def _text_value(value: Any) -> str:
    if value is None:
        return "null_value: NULL_VALUE"
    if isinstance(value, bool):
        return f"bool_value: {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"number_value: {value:g}"
    if isinstance(value, str):
        return f'string_value: "{value}"'
    if isinstance(value, dict):
        return f"struct_value {{ {_text_struct(value)}}}"
    return "list_value { " + "".join(f"values {{ {_text_value(item)} }} " for item in value) + "}"
