"""Which handlers run at which moment of a request, in order: for gateways that name them, or run all."""

from __future__ import annotations

from collections.abc import Iterable

from coprocess.api.moments import HookType
from coprocess.loading.hooks import Hook

#: What runs before the upstream, or the app, in this order.
REQUEST_MOMENTS = (HookType.Pre, HookType.CustomKeyCheck, HookType.PostKeyAuth, HookType.Post)

#: The moments as chains are written: `[chains.NAME]` of the settings file, and the options of a Middleware.
MOMENT_OF_KEY = {
    "pre": HookType.Pre,
    "auth_check": HookType.CustomKeyCheck,
    "post_key_auth": HookType.PostKeyAuth,
    "post": HookType.Post,
    "response": HookType.Response,
}


def of_api(hooks: Iterable[Hook], api_id: str) -> list[Hook]:
    """Those that run for that API."""
    return [hook for hook in hooks if hook.api_id in (None, api_id)]


def by_order(hooks: Iterable[Hook], moment: HookType) -> list[Hook]:
    """Those of the moment, by their `order`, equal ones as they are written."""
    return sorted((hook for hook in hooks if hook.type is moment), key=lambda hook: hook.order)


def names_by_order(hooks: Iterable[Hook], moment: HookType) -> list[str]:
    """Their names, each once."""
    return list(dict.fromkeys(hook.name for hook in by_order(hooks, moment)))
