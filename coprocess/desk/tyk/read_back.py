"""What the gateway reads of a hook's reply. Whatever else a reply has is not looked at."""

from __future__ import annotations

from collections.abc import Sequence

from coprocess.gateways.tyk.wire import HookType, MiniRequestObject

IN_REQUEST = frozenset(
    {
        "raw_body",
        "url",
        "method",
        "set_headers",
        "delete_headers",
        "add_params",
        "delete_params",
        "return_overrides",
    }
)
IN_RESPONSE = frozenset({"status_code", "raw_body", "headers", "multivalue_headers"})
#: Fields of the request that the gateway sends, and does not read.
UNREAD_IN_REQUEST = frozenset(field.name for field in MiniRequestObject.DESCRIPTOR.fields) - IN_REQUEST
#: Parts that are read of the hook that authenticates alone.
OF_AUTH = ("session", "metadata")


def is_read(path: Sequence[str], hook_type: int) -> bool:
    """Whether the gateway looks at a field (`("request", "url")`), in the reply of a hook of this type."""
    part, name = path[0], path[1] if len(path) > 1 else ""
    if hook_type == HookType.Response:
        return part == "response" and name in IN_RESPONSE
    if part == "request":
        return name in IN_REQUEST
    return hook_type == HookType.CustomKeyCheck and part in OF_AUTH
