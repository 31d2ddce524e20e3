"""The phases in which Kong runs a plugin."""

from __future__ import annotations

from enum import IntEnum
from typing import cast

from coprocess.api.moments import HookType


class Phase(IntEnum):
    """By the names that Kong has for them. Their numbers are no gateway's: hooks are found by them."""

    certificate = 201
    rewrite = 202
    log = 203
    access = 204
    preread = 205
    response = 206
    #: Not Kong's: an instance is made of a plugin's configuration.
    start = 210

    @property
    def as_hook_type(self) -> HookType:
        # The runner asks a hook's type for its name alone, and tables for its number.
        return cast(HookType, self)


#: Those that a plugin may have, in the order in which Kong is told of them.
PLUGIN_PHASES = (
    Phase.certificate,
    Phase.rewrite,
    Phase.log,
    Phase.access,
    Phase.preread,
    Phase.response,
)
PHASE_NAMES = frozenset(phase.name for phase in PLUGIN_PHASES)
