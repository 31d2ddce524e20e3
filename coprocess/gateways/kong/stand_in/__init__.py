"""What stands in for kong-pdk: for plugins that are loaded here, and on a path for those that are not.

`stand_in/kong_pdk` is a package of that name for whoever puts `PATH` on PYTHONPATH.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from coprocess.gateways.kong.stand_in import kong_pdk
from coprocess.gateways.kong.stand_in.kong_pdk import cli, const, exception, pdk
from coprocess.gateways.kong.stand_in.kong_pdk.pdk import kong

PATH = Path(__file__).parent

#: What plugins import by these names.
ALIASES: Mapping[str, ModuleType] = {
    "kong_pdk": kong_pdk,
    "kong_pdk.cli": cli,
    "kong_pdk.const": const,
    "kong_pdk.exception": exception,
    "kong_pdk.pdk": pdk,
    "kong_pdk.pdk.kong": kong,
    **{f"kong_pdk.pdk.kong.{name}": module for name, module in kong.PARTS.items()},
}


def offer() -> None:
    """Have all modules find it, where no kong-pdk is installed: what plugins import may name it, too."""
    if find_spec("kong_pdk") is None:
        sys.modules.update(ALIASES)
