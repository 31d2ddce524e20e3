"""Envoy Gateway's policies, as the filters that it makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coprocess.desk.envoy.doctor.filters import AUTHZ, PROC, Filter, dig
from coprocess.desk.envoy.fields import list_of, object_of
from coprocess.desk.envoy.yaml_files import YamlDocument

#: Envoy Gateway's own: the policy has no field for it.
_AUTH_TIMEOUT = "10s"
_BODY_MODES = {
    "Streamed": "STREAMED",
    "Buffered": "BUFFERED",
    "BufferedPartial": "BUFFERED_PARTIAL",
    "FullDuplexStreamed": "FULL_DUPLEX_STREAMED",
}


def policy_filters(documents: list[YamlDocument]) -> Iterator[Filter]:
    for document in documents:
        kind = document.value.get("kind") if isinstance(document.value, dict) else None
        if kind == "EnvoyExtensionPolicy":
            entries = dig(document.value, "spec", "ext_proc")
            for index, entry in enumerate(list_of(entries)):
                if isinstance(entry, dict):
                    name = f"{dig(document.value, 'metadata', 'name')}[{index}]"
                    yield Filter(PROC, name, document, ("spec", "ext_proc", index), _processor(entry))
        elif kind == "SecurityPolicy" and isinstance(dig(document.value, "spec", "ext_auth", "grpc"), dict):
            entry = dig(document.value, "spec", "ext_auth")
            name = str(dig(document.value, "metadata", "name"))
            yield Filter(AUTHZ, name, document, ("spec", "ext_auth"), _authorizer(entry))


def _processor(entry: dict[str, Any]) -> dict[str, Any]:
    given = object_of(entry.get("processing_mode"))
    mode = {}
    for direction in ("request", "response"):
        part = given.get(direction)
        mode[f"{direction}_header_mode"] = "SKIP" if part is None else "SEND"
        body = part.get("body") if isinstance(part, dict) else None
        mode[f"{direction}_body_mode"] = _BODY_MODES.get(str(body), "NONE")
        if body == "FullDuplexStreamed":
            mode[f"{direction}_trailer_mode"] = "SEND"
    writable = list_of(dig(entry, "metadata", "writable_namespaces"))
    return {
        "processing_mode": mode,
        "failure_mode_allow": entry.get("fail_open") is True,
        "message_timeout": entry.get("message_timeout"),
        "allow_mode_override": dig(given, "allow_mode_override") is True,
        "request_attributes": list_of(dig(given, "request", "attributes")),
        # The policy has no rules.
        "mutation_rules": {"allow_all_routing": True},
        "metadata_options": {"receiving_namespaces": {"untyped": writable}},
    }


def _authorizer(entry: dict[str, Any]) -> dict[str, Any]:
    body = entry.get("body_to_ext_auth")
    made: dict[str, Any] = {
        "failure_mode_allow": entry.get("fail_open") is True,
        "transport_api_version": "V3",
        # The policy cannot ask for them.
        "encode_raw_headers": True,
        "grpc_service": {"timeout": _AUTH_TIMEOUT},
    }
    if entry.get("recompute_route") is True:
        made["clear_route_cache"] = True
    if named := list_of(entry.get("headers_to_ext_auth")):
        made["allowed_headers"] = {
            "patterns": [{"exact": str(name).lower(), "ignore_case": True} for name in named]
        }
    if isinstance(body, dict):
        made["with_request_body"] = body
    return made
