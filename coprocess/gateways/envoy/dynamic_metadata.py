"""What goes to Envoy's other filters, and comes from them: dynamic metadata.

Out: in the namespace `coprocess` what handlers put into `metadata`, in `coprocess.session` who calls. The
filter must name both in `metadata_options.receiving_namespaces`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from coprocess.api.held_session import HeldSession
from coprocess.errors import HandlerFailed
from coprocess.gateways.envoy import encoding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coprocess.gateways.envoy.wire import Metadata

NAMESPACE = "coprocess"
SESSION_NAMESPACE = "coprocess.session"
#: Of `metadata`: names the caller, as in drivers.
TOKEN = "token"  # noqa: S105 - the name of an entry


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
            if prefix or key != TOKEN:  # As above: a caller is named by it.
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
    """Who calls: what is empty is left out."""
    entries: dict[str, Any] = {"token": session.token}
    if session.alias:
        entries["alias"] = session.alias
    if len(session.tags):
        entries["tags"] = list(session.tags)
    metadata = session.metadata
    if len(metadata) > (TOKEN in metadata):
        entries["metadata"] = {key: value for key, value in metadata.items() if key != TOKEN}
    return entries


def encoded(
    metadata: Mapping[str, str] | None, told: dict[str, str], session: HeldSession | None, *, is_new: bool
) -> bytes:
    """A serialized Struct of both namespaces; empty where there is nothing to tell.

    Raises HandlerFailed for what is not UTF-8.
    `told` is what of `metadata` was told before, or came, and is brought up to date. The session is told
    where it `is_new`.
    """
    try:
        return _encoded(metadata, told, session, is_new=is_new)
    except UnicodeEncodeError:
        raise HandlerFailed("left metadata, or a session, that is not UTF-8") from None


def _encoded(
    metadata: Mapping[str, str] | None, told: dict[str, str], session: HeldSession | None, *, is_new: bool
) -> bytes:
    if metadata is None and session is not None and is_new:
        entries = session_entries(session)
        if len(entries) == 1:
            return encoding.struct_of_one(SESSION_NAMESPACE, TOKEN, session.token)
        return encoding.struct({SESSION_NAMESPACE: entries})
    namespaces: dict[str, Mapping[str, Any]] = {}
    if metadata is not None:
        known = {} if session is None else session.metadata
        new = {
            key: value
            for key, value in metadata.items()
            if key != TOKEN and told.get(key) != value and known.get(key) != value
        }
        if new:
            told.update(new)
            namespaces[NAMESPACE] = new
    if session is not None and is_new:
        namespaces[SESSION_NAMESPACE] = session_entries(session)
    return encoding.struct(namespaces) if namespaces else b""
