"""The simulated Envoy's configuration for a trial: what `coprocess envoy config` prints, or a file's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from coprocess.desk.envoy.configuration import CLUSTER, Wanted
from coprocess.desk.envoy.fields import list_of
from coprocess.desk.envoy.formats import as_written
from coprocess.desk.envoy.simulator.config import EnvoyConfig
from coprocess.desk.envoy.yaml_files import YamlDocument, read_yaml, walk
from coprocess.errors import ConfigError
from coprocess.gateways.envoy.route import CHAIN

_PREFIX = "type.googleapis.com/envoy.extensions.filters.http"


def config_of(wanted: Wanted) -> EnvoyConfig:
    """As the form `static`: a test holds it to that."""
    wait = f"{math.floor(wanted.timeout_s) + 1}s"
    service: dict[str, Any] = {"envoy_grpc": {"cluster_name": CLUSTER}}
    route: dict[str, Any] = {"name": "demo", "match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
    if wanted.is_authz:
        typed: dict[str, Any] = {
            "@type": f"{_PREFIX}.ext_authz.v3.ExtAuthz",
            "grpc_service": {**service, "timeout": wait},
            "encode_raw_headers": True,
            "validate_mutations": True,
        }
        if wanted.reads_body:
            typed["with_request_body"] = {
                "max_request_bytes": wanted.max_body_bytes,
                "pack_as_bytes": True,
            }
        if wanted.chain:
            route["typed_per_filter_config"] = {
                "envoy.filters.http.ext_authz": {
                    "@type": f"{_PREFIX}.ext_authz.v3.ExtAuthzPerRoute",
                    "check_settings": {"context_extensions": {CHAIN: wanted.chain}},
                }
            }
    else:
        if wanted.chain:
            service = {**service, "initial_metadata": [{"key": CHAIN, "value": as_written(wanted.chain)}]}
        namespaces = ["coprocess", *(["coprocess.session"] if wanted.authenticates else [])]
        typed = {
            "@type": f"{_PREFIX}.ext_proc.v3.ExternalProcessor",
            "grpc_service": service,
            "message_timeout": wait,
            "processing_mode": {
                "request_header_mode": "SEND",
                "response_header_mode": "SEND" if wanted.has_response else "SKIP",
            },
            "allow_mode_override": wanted.reads_body,
            "request_attributes": ["xds.route_name"],
            "mutation_rules": {"allow_all_routing": True},
            "metadata_options": {"receiving_namespaces": {"untyped": namespaces}},
        }
    name = "ext_authz" if wanted.is_authz else "ext_proc"
    value: dict[str, Any] = {
        "http_filters": [{"name": f"envoy.filters.http.{name}", "typed_config": typed}],
        "routes": [route],
    }
    if wanted.reads_body:
        value["listener"] = {"per_connection_buffer_limit_bytes": wanted.max_body_bytes}
    return EnvoyConfig.read(value)


def config_in(path: Path, host: str = "") -> EnvoyConfig:
    """Of the first listener in a file that has filters of HTTP, and its virtual host for `host`.

    Raises ConfigError where there is none, and for what is not simulated.
    """
    for document in read_yaml(path):
        for where, value in walk(document.value):
            if isinstance(value.get("http_filters"), list) and isinstance(value.get("route_config"), dict):
                return EnvoyConfig.read(_parts(document, where, value, host), where=str(path))
    raise ConfigError(f"{path}: no connection manager with http_filters and route_config is in it")


def _parts(
    document: YamlDocument, where: tuple[str | int, ...], manager: dict[str, Any], host: str
) -> dict[str, Any]:
    hosts = [each for each in list_of(manager["route_config"].get("virtual_hosts")) if isinstance(each, dict)]
    if not hosts:
        raise ConfigError(f"{document.path}: route_config has no virtual_hosts")
    chosen = next((each for each in hosts if host in list_of(each.get("domains"))), None)
    chosen = chosen or next((each for each in hosts if "*" in list_of(each.get("domains"))), hosts[0])
    parts: dict[str, Any] = {
        "http_filters": manager["http_filters"],
        "routes": chosen.get("routes") or [],
        "vhost": {"typed_per_filter_config": chosen.get("typed_per_filter_config")},
        "hcm": {"upgrade_configs": manager.get("upgrade_configs")},
    }
    listener: Any = document.value
    for key in where:
        if isinstance(listener, dict) and "filter_chains" in listener:
            break
        listener = listener[key]
    if isinstance(listener, dict) and "per_connection_buffer_limit_bytes" in listener:
        limit = listener["per_connection_buffer_limit_bytes"]
        parts["listener"] = {"per_connection_buffer_limit_bytes": limit}
    return parts
