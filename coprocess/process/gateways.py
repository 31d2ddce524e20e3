"""The gateways that this program serves. A new one is a folder of `gateways`, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from coprocess.gateways.envoy.registration import ENVOY
from coprocess.gateways.tyk.registration import TYK
from coprocess.runtime.registration import Registration
from coprocess.runtime.together import together

if TYPE_CHECKING:
    from coprocess.process.config import Settings

#: By name.
GATEWAYS: Mapping[str, Registration] = {each.home.name: each for each in (TYK, ENVOY)}
#: The one that is served where nobody asks for another.
DEFAULT = TYK


def served(settings: Settings) -> Registration:
    """What these settings ask for: one gateway, or both on the same addresses."""
    if not settings.envoy:
        return DEFAULT
    return together(TYK, ENVOY) if settings.tyk else ENVOY
