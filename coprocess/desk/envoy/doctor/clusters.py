"""Rules on the cluster that a filter names: does it lead to the service?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coprocess.desk.envoy.doctor.filters import AUTHZ, INNER, Filter, dig, overrides_in
from coprocess.desk.envoy.doctor.findings import RULES
from coprocess.desk.envoy.yaml_files import Where, YamlDocument, walk
from coprocess.desk.findings import FileFinding, Severity
from coprocess.gateways.envoy.route import is_meant

_HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")
_NOBODY = "No call arrives at the service: every request is refused."
#: Clusters of its own, which Istio makes of services: another file of the folder does not declare them.
_ISTIOS = ("outbound|", "inbound|")


def check_services(
    filters: Sequence[Filter], documents: list[YamlDocument], listen: Sequence[str], *, has_tls: bool
) -> Iterator[FileFinding]:
    """Of filters, and of routes that have a service of their own."""
    for each in filters:
        yield from _check_service(
            each.kind, each.document, each.where, each.config, documents, listen, has_tls=has_tls
        )
    for override in overrides_in(documents):
        where = (*override.where, INNER[override.kind])
        yield from _check_service(
            override.kind, override.document, where, override.inner, documents, listen, has_tls=has_tls
        )


def _check_service(
    kind: str,
    document: YamlDocument,
    place: Where,
    config: Mapping[str, Any],
    documents: list[YamlDocument],
    listen: Sequence[str],
    *,
    has_tls: bool,
) -> Iterator[FileFinding]:
    """Only where clusters are in the files: elsewhere they come from a control plane."""
    service = config.get("grpc_service")
    if config.get("http_service") is not None or dig(service, "http_service") is not None:
        where: Where = (*place, "http_service")
        problem = "http_service is set, and the service speaks gRPC"
        yield _finding(document, where, problem, "Set grpc_service in its place.", "envoy-http-service")
        return
    if kind == AUTHZ:
        yield from _keys_as_metadata(document, (*place, "grpc_service"), service)
    name = dig(service, "envoy_grpc", "cluster_name")
    clusters = [
        (document, where, value)
        for document in documents
        for where, value in walk(document.value)
        if len(where) > 1 and where[-2] == "clusters" and isinstance(value.get("name"), str)
    ]
    if not name or not clusters or str(name).startswith(_ISTIOS):
        return
    found = [cluster for cluster in clusters if cluster[2]["name"] == name]
    if not found:
        where = (*place, "grpc_service", "envoy_grpc", "cluster_name")
        yield _finding(document, where, f"There is no cluster {name}", "Set it to one that is.")
    for its_document, where, value in found:
        if not _speaks_http2(value):
            remedy = f"Add typed_extension_protocol_options: {_HTTP2} with http2_protocol_options."
            yield _finding(its_document, where, f"The cluster {name} does not speak HTTP/2", remedy)
        yield from _addresses(its_document, where, value, listen)
        yield from _tls(its_document, where, value, has_tls=has_tls)


def _keys_as_metadata(document: YamlDocument, where: Where, service: Any) -> Iterator[FileFinding]:
    entries = dig(service, "initial_metadata")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        key = dig(entry, "key")
        if isinstance(key, str) and is_meant(key):
            place = (*where, "initial_metadata", index)
            line, column = document.place(place)
            yield RULES.finding(
                *(Severity.ERROR, "envoy-key-unknown", document.path, YamlDocument.words(place)),
                f"{key} is said in initial_metadata of ext_authz.",
                "Nobody looks at it there: other handlers run than are meant.",
                "Give it in context_extensions, in typed_per_filter_config of the virtual host or route.",
                *(line, column),
            )


def _speaks_http2(cluster: dict[str, Any]) -> bool:
    if "http2_protocol_options" in cluster:
        return True
    options = dig(cluster, "typed_extension_protocol_options", _HTTP2)
    return any("http2_protocol_options" in value for _, value in walk(options))


def _addresses(
    document: YamlDocument, where: Where, cluster: dict[str, Any], listen: Sequence[str]
) -> Iterator[FileFinding]:
    """Of each endpoint. Names and maps of ports are not ours to know: those are warnings."""
    # Ports that the kernel chooses cannot be held against anything.
    if any(address.rpartition(":")[2] == "0" for address in listen):
        return
    ports = {address.rpartition(":")[2] for address in listen if not address.startswith("unix:")}
    paths = {address.removeprefix("unix:") for address in listen if address.startswith("unix:")}
    listens = " and ".join(listen)
    for place, value in walk(cluster.get("load_assignment"), (*where, "load_assignment")):
        if place[-1] == "pipe" and value.get("path") not in paths:
            problem = f"{value.get('path')} is not where the service listens, which is {listens}"
            yield _warning(document, place, problem, "Set the path to that of `listen`.")
        if place[-1] != "socket_address":
            continue
        host, port = str(value.get("address")), str(value.get("port_value"))
        if port not in ports:
            problem = f"Port {port} is not where the service listens, which is {listens}"
            yield _warning(document, place, problem, "Set port_value to that of `listen`, or `listen` to it.")
        elif not _is_loopback(host) and not _are_open(listen, port):
            problem = f"{host} is another machine than this, and the service listens on {listens} only"
            yield _warning(document, place, problem, f"Set `listen` to 0.0.0.0:{port}, or behind a firewall.")


def _is_loopback(host: str) -> bool:
    return host.startswith(_LOOPBACK)


def _are_open(listen: Sequence[str], port: str) -> bool:
    hosts = [address.rpartition(":")[0] for address in listen if address.rpartition(":")[2] == port]
    return not all(_is_loopback(host) for host in hosts)


def _tls(
    document: YamlDocument, where: Where, cluster: dict[str, Any], *, has_tls: bool
) -> Iterator[FileFinding]:
    name = dig(cluster, "transport_socket", "name")
    speaks_tls = isinstance(name, str) and "tls" in name
    if has_tls and not speaks_tls:
        problem = f"The cluster {cluster['name']} speaks no TLS, and the service has tls_cert set"
        yield _finding(document, where, problem, "Add a transport_socket with an UpstreamTlsContext.")
    elif speaks_tls and not has_tls:
        problem = f"The cluster {cluster['name']} speaks TLS, and the service has no tls_cert"
        yield _warning(document, where, problem, "Set tls_cert and tls_key, where nothing else ends TLS.")


def _finding(
    document: YamlDocument, where: Where, problem: str, remedy: str, rule: str = "envoy-cluster"
) -> FileFinding:
    line, column = document.place(where)
    return RULES.finding(
        *(Severity.ERROR, rule, document.path, YamlDocument.words(where), f"{problem}."),
        *(_NOBODY, remedy, line, column),
    )


def _warning(document: YamlDocument, where: Where, problem: str, remedy: str) -> FileFinding:
    line, column = document.place(where)
    return RULES.finding(
        *(Severity.WARNING, "envoy-cluster-address", document.path, YamlDocument.words(where), f"{problem}."),
        *(_NOBODY, remedy, line, column),
    )
