"""Libraries that put their own threads, sockets and locks in the place of Python's, for the whole process.

The service would hang with them. What would do that does nothing here, and is told: handlers run in threads
of their own anyway.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: By module, how the names of its functions begin that do so.
_PATCHES = {"gevent.monkey": "patch_", "eventlet": "monkey_patch", "eventlet.patcher": "monkey_patch"}

#: Calls that did nothing since it was asked last, in order.
_refused: dict[str, None] = {}


def refuse() -> None:
    """From now on, have these functions do nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        for name in _PATCHES:
            if (module := sys.modules.get(name)) is not None:
                _replace(module)


def take_refusals() -> list[str]:
    """A sentence for each function that was called since this was asked last."""
    refused = list(_refused)
    _refused.clear()
    return [f"calls {name}(), which would hang the service: not done" for name in refused]


def _replace(module: ModuleType) -> None:
    for name, value in list(vars(module).items()):
        if name.startswith(_PATCHES[module.__name__]) and callable(value):
            setattr(module, name, _refusing(f"{module.__name__}.{name}"))


def _refusing(name: str) -> Callable[..., None]:
    def refuse_patch(*arguments: Any, **options: Any) -> None:
        _refused[name] = None

    return refuse_patch


class _Finder(MetaPathFinder):
    """Finds nothing itself; sees to it that these modules are changed once they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _PATCHES:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        loader: Any = spec and spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _replace(module)

            loader.exec_module = exec_module
        return spec
