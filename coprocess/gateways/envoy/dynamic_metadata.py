"""What goes to Envoy's other filters, and comes from them: dynamic metadata.

Out: in the namespace `coprocess` what handlers put into `metadata`, in `coprocess.session` who calls. The
filter must name both in `metadata_options.receiving_namespaces`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from coprocess.api.held import HeldSession
from coprocess.gateways.envoy import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coprocess.gateways.envoy.wire import Metadata

NAMESPACE = "coprocess"
SESSION_NAMESPACE = "coprocess.session"


def read_metadata(metadata: Metadata) -> dict[str, str]:
    """What came, as texts: of our own namespace by its keys, of others as `namespace:key`.

    Numbers arrive as doubles, and whole ones are written without a point; what is no scalar is JSON.
    """
    found: dict[str, str] = {}
    for namespace, struct in metadata.filter_metadata.items():
        prefix = "" if namespace == NAMESPACE else f"{namespace}:"
        if namespace == SESSION_NAMESPACE:
            continue  # Of a filter before this one: who calls is for our own handlers to say.
        for key, value in struct.fields.items():
            found[prefix + key] = _text(value)
    return found


def _text(value: Any) -> str:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "number_value":
        return f"{value.number_value:.17g}"
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind is None or kind == "null_value":
        return ""
    return json_format.MessageToJson(value, indent=None)


def session_entries(session: HeldSession) -> dict[str, Any]:
    metadata = {key: value for key, value in session.metadata.items() if key != "token"}
    return {
        "token": session.token,
        "alias": session.alias,
        "tags": list(session.tags),
        "metadata": metadata,
    }


def encoded(namespaces: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A serialized Struct of these namespaces; empty where there is nothing in them."""
    filled = {name: dict(entries) for name, entries in namespaces.items() if entries}
    if not filled:
        return b""
    struct = wire.Struct()
    struct.update(filled)
    return struct.SerializeToString(deterministic=True)
