"""Which API definition a request is tried with, where none is named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator import ApiDefinition, HookDefinition
from coprocess.errors import ConfigError
from coprocess.loading.hooks import Hook

API_FILE = "api.json"
API_FOLDER = "apis"
_EVENTS = ("AuthFailure", "KeyExpired", "QuotaExceeded", "RatelimitExceeded")


def find_definition(root: Path) -> Path | None:
    """`api.json` in `root`, or the only JSON file in its `apis/`; None where there is neither.

    Raises ConfigError where `apis/` has several.
    """
    if (root / API_FILE).is_file():
        return root / API_FILE
    found = sorted((root / API_FOLDER).glob("*.json"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(f"{root / API_FOLDER} has several API definitions: name one of {names}")
    return found[0] if found else None


def keyless_definition(hooks: Iterable[Hook]) -> ApiDefinition:
    """An API at `/` that asks nobody for a key, and names every hook that such an API calls."""
    hooks = [hook for hook in hooks if hook.api_id is None]

    def named(*types: HookType) -> tuple[HookDefinition, ...]:
        # A handler for every type of hook would run twice.
        names = [
            hook.name
            for hook in hooks
            if hook.type in types and not hook.misfit and not (hook.any_type and hook.type != _FIRST)
        ]
        return tuple(HookDefinition(name) for name in dict.fromkeys(names))

    heard = tuple(hook.name for hook in named(HookType.Event))
    return ApiDefinition(
        name="keyless, made of the loaded handlers",
        api_id="keyless",
        org_id="default",
        listen_path="/",
        target_url="http://upstream.test/",
        keyless=True,
        pre=named(HookType.Pre),
        post=named(HookType.Post),
        response=named(HookType.Response),
        event_handlers=dict.fromkeys(_EVENTS, heard) if heard else {},
    )


_FIRST = HookType.Pre
