"""What a route of Envoy's says of its handlers: gRPC metadata of the stream, or `context_extensions`.

A client cannot forge either: its headers come in messages. What is misspelt refuses the request, as handlers
that were asked for would not run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from coprocess.api.moments import HookType
from coprocess.errors import BadMessage
from coprocess.text import printable

PREFIX = "x-coprocess-"
CHAIN = f"{PREFIX}chain"
API_ID = f"{PREFIX}api-id"
ORG_ID = f"{PREFIX}org-id"
CONFIG = f"{PREFIX}config"
CLEAR_ROUTE_CACHE = f"{PREFIX}clear-route-cache"
#: Lists of handlers' names, separated by commas.
MOMENTS: Mapping[str, HookType] = {
    f"{PREFIX}pre": HookType.Pre,
    f"{PREFIX}auth-check": HookType.CustomKeyCheck,
    f"{PREFIX}post-key-auth": HookType.PostKeyAuth,
    f"{PREFIX}post": HookType.Post,
    f"{PREFIX}response": HookType.Response,
}
KEYS = (CHAIN, *MOMENTS, API_ID, ORG_ID, CONFIG, CLEAR_ROUTE_CACHE)


@dataclass(frozen=True, slots=True)
class Route:
    """Which handlers run, and what their `spec` says."""

    #: By moment; None: all that is loaded.
    names: Mapping[HookType, tuple[str, ...]] | None = None
    #: A table `[chains.NAME]` of the settings file; empty: none.
    chain: str = ""
    api_id: str = ""
    org_id: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    #: Whether an edited path, or method, may lead to another route.
    clears_route_cache: bool = False


def route_of(said: Mapping[str, str]) -> Route:
    """Raises BadMessage for what is no key of ours, or no value for it."""
    names: dict[HookType, tuple[str, ...]] = {}
    for key, value in said.items():
        if (moment := MOMENTS.get(key)) is not None:
            names[moment] = tuple(part for each in value.split(",") if (part := each.strip()))
        elif is_meant(key) and key not in KEYS:
            raise BadMessage(printable(f"{key[:64]}: no such key. Expected: one of {', '.join(KEYS)}"))
    chain = said.get(CHAIN, "")
    if chain and names:
        raise BadMessage(f"{CHAIN} and lists of handlers: expected one of the two")
    return Route(
        names=names or None,
        chain=chain,
        api_id=said.get(API_ID, ""),
        org_id=said.get(ORG_ID, ""),
        config=_config(said.get(CONFIG, "")),
        clears_route_cache=_is_true(said.get(CLEAR_ROUTE_CACHE, "false")),
    )


def as_text(value: str | bytes) -> str:
    """A value of metadata, which Envoy sends as it is written: an engine may show its UTF-8 as Latin-1."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def is_meant(key: str) -> bool:
    """Whether it is a key of ours, or one that is misspelt: capitals count in `context_extensions`."""
    return key.lower().replace("_", "-").startswith(PREFIX)


def _config(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        config = json.loads(unquote(text, errors="strict") if text.startswith("%") else text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        # Not its text: it may hold secrets.
        raise BadMessage(f"{CONFIG}: expected a JSON object, percent-encoded")
    return config


def _is_true(text: str) -> bool:
    if text not in ("true", "false"):
        raise BadMessage(f"{CLEAR_ROUTE_CACHE}: expected true or false")
    return text == "true"
