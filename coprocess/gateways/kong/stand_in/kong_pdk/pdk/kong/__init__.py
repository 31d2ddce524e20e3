"""The type of what phases are called with: `kong: kong.kong`. For annotations.

kong-pdk has a module for each part of the PDK, too, with a class of its name: `kong_pdk.pdk.kong.request`.
"""

import sys as _sys
from types import ModuleType as _ModuleType
from typing import Any

from coprocess.gateways.kong.pdk import FUNCTIONS as _FUNCTIONS
from coprocess.gateways.kong.pdk import LOG_LEVELS as _LOG_LEVELS
from coprocess.gateways.kong.pdk import kong_class as _kong_class

kong: Any = _kong_class("lua")
python_kong: Any = _kong_class("python")
async_kong: Any = _kong_class("async")


def _part(path: str) -> type:
    found = kong
    for name in path.split("."):
        found = vars(found)[name].fget
    return found


#: The modules, by their names behind `kong_pdk.pdk.kong`.
PARTS: dict[str, _ModuleType] = {}
_names = [name.split(".")[1:] for name in _FUNCTIONS]
for _path in sorted({".".join(name[:end]) for name in _names for end in range(1, len(name) + 1)}):
    _above, _, _name = _path.rpartition(".")
    if isinstance(vars(_part(_above) if _above else kong).get(_name), property):
        _module = PARTS[_path] = _ModuleType(
            f"{__name__}.{_path}", f"Kong's `kong.{_path}`. For annotations."
        )
        setattr(_module, _name, _part(_path))
        _sys.modules[_module.__name__] = _module
        setattr(PARTS[_above] if _above in PARTS else _sys.modules[__name__], _name, _module)
        if not _above:
            globals()[f"cls_{_name}"] = _part(_path)
# `kong.log.err(…)` on the module: kong-pdk does nothing then, and plugins say so what they cannot connect to.
for _name in _LOG_LEVELS.split():
    setattr(PARTS["log"], _name, getattr(kong.log, _name))
