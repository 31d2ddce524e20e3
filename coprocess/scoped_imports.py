"""Imports of handler code: each folder of handlers sees its own modules, and no other folder's.

Every handler module gets its own `__builtins__`, with an `__import__` that looks first at the names a
gateway's driver offers (`tyk.decorators`), then in the module's own folder and its `vendor/`.
`sys.meta_path` and `sys.path` stay as they are. This isolates names; it is no sandbox.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

#: The package, of nothing but our own modules, in which handler modules are registered.
NAMESPACE = "coprocess_handlers"

# One lock for all scopes: handlers import inside functions too, from any thread.
_lock = threading.RLock()


class _SourceLoader(SourceFileLoader):
    """Compiles what the file says now. A cached compilation is told by whole seconds and size, so that
    a quick edit of equal length would go unseen; and none is written into the user's folders."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class ImportScope:
    """The modules of one folder of handlers, in one generation of it."""

    def __init__(self, name: str, folders: Sequence[Path], aliases: Mapping[str, ModuleType]) -> None:
        """`folders` are searched in order. `aliases` maps module names to what imports of them give."""
        self.package = f"{NAMESPACE}.{name}"
        self._aliases = aliases
        self._builtins = {**vars(builtins), "__import__": self._import}
        with _lock:
            for package, path in ((NAMESPACE, []), (self.package, [str(folder) for folder in folders])):
                if package not in sys.modules:
                    module = ModuleType(package)
                    module.__path__ = path
                    sys.modules[package] = module

    def load(self, name: str) -> ModuleType:
        """Import the module `name` of this scope. Raises what its code raises."""
        return self._load(f"{self.package}.{name}")

    def forget(self) -> None:
        """Take the scope's modules out of `sys.modules`. Code that runs keeps what it has."""
        with _lock:
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{self.package}.")]:
                del sys.modules[name]

    def modules(self) -> list[ModuleType]:
        """The modules that are loaded."""
        with _lock:
            return [module for name, module in sys.modules.items() if name.startswith(f"{self.package}.")]

    def _load(self, fullname: str) -> ModuleType:
        with _lock:
            if (loaded := sys.modules.get(fullname)) is not None:
                return loaded
            parent_name, _, tail = fullname.rpartition(".")
            parent = self._load(parent_name) if parent_name != self.package else sys.modules[parent_name]
            spec = self._find(fullname, getattr(parent, "__path__", ()))
            if spec is None:
                shown = fullname.removeprefix(f"{self.package}.")
                raise ModuleNotFoundError(f"No module named {shown!r}", name=shown)
            module = module_from_spec(spec)
            vars(module)["__builtins__"] = self._builtins
            sys.modules[fullname] = module
            try:
                if spec.loader is not None:  # None: a folder without __init__.py.
                    spec.loader.exec_module(module)
            except BaseException:
                sys.modules.pop(fullname, None)
                raise
            setattr(parent, tail, module)
            return module

    @staticmethod
    def _find(fullname: str, path: Sequence[str]) -> ModuleSpec | None:
        loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, [".py"]))
        portions: list[str] = []
        for folder in path:
            # A new finder each time: they cache the folder's listing, and files change on reload.
            spec = FileFinder(folder, *loaders).find_spec(fullname)
            if spec is None:
                continue
            if spec.loader is not None:
                return spec
            portions.extend(spec.submodule_search_locations or ())
        if not portions:
            return None
        namespace_package = ModuleSpec(fullname, None, is_package=True)
        namespace_package.submodule_search_locations = portions
        return namespace_package

    def _has(self, name: str) -> bool:
        fullname = f"{self.package}.{name}"
        return fullname in sys.modules or self._find(fullname, sys.modules[self.package].__path__) is not None

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level > 0:
            name = self._absolute(name, globals or {}, level)
            if not f"{name}.".startswith(f"{self.package}."):
                return builtins.__import__(name, globals, locals, fromlist or (), 0)
            name = name.removeprefix(self.package).removeprefix(".")
            return self._give(name, fromlist, relative=True)
        top = name.partition(".")[0]
        if top in self._aliases:
            return self._give_alias(name, top, fromlist)
        if top not in sys.stdlib_module_names and self._has(top):
            return self._give(name, fromlist, relative=False)
        return builtins.__import__(name, globals, locals, fromlist or (), 0)

    @staticmethod
    def _absolute(name: str, module_globals: Mapping[str, Any], level: int) -> str:
        package = module_globals.get("__package__") or ""
        return importlib.util.resolve_name("." * level + name, package)

    def _give(self, name: str, fromlist: Sequence[str] | None, *, relative: bool) -> ModuleType:
        leaf = self.load(name) if name else sys.modules[self.package]
        if not fromlist:
            return leaf if relative else self.load(name.partition(".")[0])
        if hasattr(leaf, "__path__"):
            wanted = getattr(leaf, "__all__", ()) if "*" in fromlist else fromlist
            for attribute in wanted:
                child = f"{name}.{attribute}" if name else attribute
                if not hasattr(leaf, attribute) and self._find(f"{self.package}.{child}", leaf.__path__):
                    self.load(child)
        return leaf

    def _give_alias(self, name: str, top: str, fromlist: Sequence[str] | None) -> ModuleType:
        if name not in self._aliases:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return self._aliases[name if fromlist else top]
