"""What plugins for Tyk's embedded Python driver import: `tyk.*`, `gateway`, `coprocess_*_pb2`.

The loader offers these modules to handler code under those names. They keep that driver's conventions,
without its faults: every decorator works, objects that a handler returns count, storage is quick.
"""

from __future__ import annotations

from types import ModuleType

from coprocess.gateways.tyk import wire
from coprocess.gateways.tyk.compat import decorators, event, gateway, request, session

#: Module name, as handler code imports it, to what it gets.
ALIASES: dict[str, ModuleType] = {
    **wire.MODULES,
    "gateway": gateway,
    "tyk.decorators": decorators,
    "tyk.event": event,
    "tyk.gateway": gateway,
    "tyk.request": request,
    "tyk.session": session,
}


def _tyk_package() -> ModuleType:
    package = ModuleType("tyk", __doc__)
    package.__path__ = []
    for name, module in ALIASES.items():
        if name.startswith("tyk."):
            setattr(package, name.removeprefix("tyk."), module)
    return package


ALIASES["tyk"] = _tyk_package()
