"""The gateways that this program serves. A new one is a folder of `gateways`, and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from coprocess.gateways.tyk.registration import TYK
from coprocess.runtime.registration import Registration

#: By name.
GATEWAYS: Mapping[str, Registration] = {each.home.name: each for each in (TYK,)}
#: The one that is served where nobody asks for another.
DEFAULT = TYK
