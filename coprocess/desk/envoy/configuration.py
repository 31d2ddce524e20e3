"""Envoy's configuration for a chain of handlers, as YAML with comments that say why."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import indent

from coprocess.desk.envoy.formats import as_written
from coprocess.errors import ConfigError
from coprocess.gateways.envoy.route import CHAIN

CLUSTER = "coprocess"
_ROUTE_NAME = "xds.route_name"
_MANAGER_TYPE = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
_LISTENER_PORT, _UPSTREAM_PORT = 10000, 8080


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the filter is for."""

    #: As the service listens: `HOST:PORT` or `unix:/path`.
    address: str
    #: A table `[chains.NAME]`; empty: all handlers that are loaded.
    chain: str = ""
    #: Whether Response handlers run.
    has_response: bool = True
    reads_body: bool = True
    authenticates: bool = False
    #: ext_authz in the place of ext_proc.
    is_authz: bool = False
    timeout_s: float = 30.0
    max_body_bytes: int = 4 << 20


def processor(wanted: Wanted, cluster: str = CLUSTER) -> str:
    """The filter ext_proc."""
    metadata = ""
    if wanted.chain:
        metadata = (
            "    # A client cannot forge it: its headers come in messages. A route says another in\n"
            "    # typed_per_filter_config, by overrides.grpc_initial_metadata.\n"
            "    initial_metadata:\n"
            f"    - key: {CHAIN}\n"
            f"      value: {_scalar(as_written(wanted.chain))}\n"
        )
    override = (
        "  # The service asks for a body where a handler reads it.\n  allow_mode_override: true\n"
        if wanted.reads_body
        else ""
    )
    session = ", coprocess.session" if wanted.authenticates else ""
    return f"""\
name: envoy.filters.http.ext_proc
typed_config:
  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
  grpc_service:
    envoy_grpc:
      cluster_name: {cluster}
{metadata}\
  # More than a handler may take. Where nothing is said, Envoy waits for 0.2 s.
  message_timeout: {_wait(wanted)}
  processing_mode:
    request_header_mode: SEND
    response_header_mode: {"SEND" if wanted.has_response else "SKIP"}
{override}\
  # The API's id, where the route says no other.
  request_attributes: [{_ROUTE_NAME}]
  mutation_rules:
    # Handlers may change the method.
    allow_all_routing: true
  metadata_options:
    receiving_namespaces:
      # What handlers put into `metadata`{", and who calls" if wanted.authenticates else ""}.
      untyped: [coprocess{session}]
"""


def authorizer(wanted: Wanted, cluster: str = CLUSTER) -> str:
    """The filter ext_authz."""
    body = ""
    if wanted.reads_body:
        body = (
            "  with_request_body:\n"
            "    # A larger body gets 413.\n"
            f"    max_request_bytes: {wanted.max_body_bytes}\n"
            "    pack_as_bytes: true\n"
        )
    return f"""\
name: envoy.filters.http.ext_authz
typed_config:
  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
  transport_api_version: V3
  grpc_service:
    envoy_grpc:
      cluster_name: {cluster}
    # More than a handler may take. Where nothing is said, Envoy waits for 0.2 s.
    timeout: {_wait(wanted)}
  # Else headers of one name are joined, and bytes above 127 become `!`.
  encode_raw_headers: true
  validate_mutations: true
{body}"""


def filter_of(wanted: Wanted, cluster: str = CLUSTER) -> str:
    return authorizer(wanted, cluster) if wanted.is_authz else processor(wanted, cluster)


def cluster_of(wanted: Wanted) -> str:
    """The service, as Envoy reaches it."""
    return f"""\
name: {CLUSTER}
type: STRICT_DNS
connect_timeout: 1s
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      # gRPC is HTTP/2.
      http2_protocol_options: {{}}
load_assignment:
  cluster_name: {CLUSTER}
  endpoints:
  - lb_endpoints:
    - endpoint:
        address:
{indent(_address(wanted.address), "          ")}"""


def _address(address: str) -> str:
    if address.startswith("unix:"):
        return f"pipe:\n  path: {_scalar(address.removeprefix('unix:'))}\n"
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    # Where the service listens on all addresses, Envoy still needs one.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - not bound
    return f'socket_address:\n  address: "{host}"\n  port_value: {port}\n'


def parts(wanted: Wanted) -> str:
    """The filter and the cluster, each for its place in a configuration that is there."""
    found = [f"# In http_filters, before the router:\n{_item(filter_of(wanted))}"]
    if wanted.is_authz and wanted.chain:
        extensions = indent(_extensions(wanted), "  ")
        found.append(f"# For the virtual host, or its routes:\ntyped_per_filter_config:\n{extensions}")
    found.append(f"# In clusters:\n{_item(cluster_of(wanted))}")
    return "---\n".join(found)


def _extensions(wanted: Wanted) -> str:
    return f"""\
envoy.filters.http.ext_authz:
  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
  check_settings:
    context_extensions:
      {CHAIN}: {_scalar(wanted.chain)}
"""


def static(wanted: Wanted) -> str:
    """A whole configuration: a listener, the filter, a route to an upstream."""
    limit = ""
    if wanted.reads_body:
        limit = (
            "    # Of bodies that handlers read; a larger one gets 413.\n"
            f"    per_connection_buffer_limit_bytes: {wanted.max_body_bytes}\n"
        )
    route = ""
    if wanted.is_authz and wanted.chain:
        route = f"                typed_per_filter_config:\n{indent(_extensions(wanted), ' ' * 18)}"
    return f"""\
static_resources:
  listeners:
  - name: http
    address:
      socket_address: {{address: 127.0.0.1, port_value: {_LISTENER_PORT}}}
{limit}\
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {_MANAGER_TYPE}
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - name: demo
                match: {{prefix: /}}
                route: {{cluster: upstream}}
{route}\
          http_filters:
{indent(_item(filter_of(wanted)), " " * 10)}\
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
{indent(_item(cluster_of(wanted)), "  ")}\
  - name: upstream
    type: STRICT_DNS
    connect_timeout: 1s
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {{address: 127.0.0.1, port_value: {_UPSTREAM_PORT}}}
"""


def istio(wanted: Wanted) -> str:
    """Istio's EnvoyFilter. The service is the Kubernetes Service `coprocess` in the namespace `default`."""
    port = _port(wanted)
    cluster = f"outbound|{port}||coprocess.default.svc.cluster.local"
    route = ""
    if wanted.is_authz and wanted.chain:
        route = f"""\
  - applyTo: VIRTUAL_HOST
    match:
      context: GATEWAY
    patch:
      operation: MERGE
      value:
        typed_per_filter_config:
{indent(_extensions(wanted), " " * 10)}"""
    return f"""\
# The Service's port must be named grpc-…, so that Istio speaks HTTP/2 to it.
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: coprocess
  namespace: istio-system
spec:
  workloadSelector:
    labels:
      istio: ingressgateway
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: GATEWAY
      listener:
        filterChain:
          filter:
            name: envoy.filters.network.http_connection_manager
            subFilter:
              name: envoy.filters.http.router
    patch:
      operation: INSERT_BEFORE
      value:
{indent(filter_of(wanted, cluster), " " * 8)}{route}"""


def gateway(wanted: Wanted) -> str:
    """Envoy Gateway's policy: EnvoyExtensionPolicy, or SecurityPolicy for ext_authz.

    Neither can name a chain. Raises ConfigError where one is wanted.
    """
    if wanted.chain:
        raise ConfigError(
            "a policy of Envoy Gateway cannot name a chain. Expected: a service of its own for these "
            "handlers, or an EnvoyPatchPolicy with what --form parts prints"
        )
    if wanted.is_authz:
        return _security_policy(wanted)
    override = (
        "      # The service asks for a body where a handler reads it.\n      allowModeOverride: true\n"
        if wanted.reads_body
        else ""
    )
    response = "      response: {}\n" if wanted.has_response else ""
    session = ", coprocess.session" if wanted.authenticates else ""
    return f"""\
# The policy cannot name a chain: all handlers of the service run. For other handlers, another service.
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata:
  name: coprocess
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: demo
  extProc:
  - backendRefs:
    # Its port needs appProtocol: kubernetes.io/h2c.
    - name: coprocess
      port: {_port(wanted)}
    # More than a handler may take. Where nothing is said, Envoy waits for 0.2 s.
    messageTimeout: {_wait(wanted)}
    failOpen: false
    processingMode:
{override}\
      request:
        attributes: [{_ROUTE_NAME}]
{response}\
    metadata:
      writableNamespaces: [coprocess{session}]
"""


def _security_policy(wanted: Wanted) -> str:
    body = ""
    if wanted.reads_body:
        body = (
            "    # Sent as text: a `!` may stand for other bytes, so a body with one is refused.\n"
            f"    bodyToExtAuth:\n      maxRequestBytes: {wanted.max_body_bytes}\n"
        )
    return f"""\
# The policy cannot name a chain: all auth handlers of the service run. For others, another service.
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata:
  name: coprocess
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: demo
  extAuth:
    # Envoy Gateway waits for 10 s, and lets nobody say another time.
    failOpen: false
{body}\
    grpc:
      backendRefs:
      # Its port needs appProtocol: kubernetes.io/h2c.
      - name: coprocess
        port: {_port(wanted)}
"""


def _port(wanted: Wanted) -> str:
    port = wanted.address.rpartition(":")[2]
    return port if port.isdecimal() else "9111"


def _wait(wanted: Wanted) -> str:
    return f"{math.floor(wanted.timeout_s) + 1}s"


def _scalar(text: str) -> str:
    """As YAML writes a text: in quotes where it would be read as another one, or as no text."""
    is_plain = _IS_PLAIN(text) and text.lower() not in _WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)


_IS_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII).fullmatch
#: What YAML reads as no text.
_WORDS = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})


def _item(text: str) -> str:
    """As an item of a list."""
    return f"- {indent(text, '  ')[2:]}"


#: What `coprocess envoy config` can print, by name.
FORMS: dict[str, Callable[[Wanted], str]] = {
    "parts": parts,
    "static": static,
    "istio": istio,
    "gateway": gateway,
}
