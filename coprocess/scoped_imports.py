"""Imports of handler code: each folder of handlers sees its own modules, and no other folder's.

Every handler module gets its own `__builtins__`, with an `__import__` that looks first at the names a
gateway's driver offers (`tyk.decorators`), then in the module's own folder and its `vendor/`.
`sys.path` stays as it is. This isolates names; it is no sandbox.
"""

from __future__ import annotations

import builtins
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
from importlib.util import find_spec, module_from_spec, resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

#: The package, of nothing but our own modules, in which handler modules are registered.
NAMESPACE = "coprocess_handlers"


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
        # Handlers import inside functions too, from any thread, and while another scope loads.
        self._lock = threading.RLock()
        self._root = _package(self.package, [str(folder) for folder in folders])
        #: By full name, also modules whose code is still running. Not only in sys.modules: calls that
        #: are running when the scope is forgotten go on importing.
        self._modules: dict[str, ModuleType] = {}
        #: Full names of those whose code has run.
        self._ready: set[str] = set()
        #: Top names that were looked for and are elsewhere, so that an import in a function is quick.
        self._elsewhere: set[str] = set()
        self._forgotten = False
        sys.modules.setdefault(NAMESPACE, _package(NAMESPACE, []))
        sys.modules[self.package] = self._root

    def load(self, name: str) -> ModuleType:
        """Import the module `name` of this scope. Raises what its code raises."""
        return self._load(f"{self.package}.{name}")

    def forget(self) -> None:
        """Take the scope's modules out of `sys.modules`. Code that runs keeps what it has."""
        with self._lock:
            self._forgotten = True
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{self.package}.")]:
                del sys.modules[name]

    def modules(self) -> list[ModuleType]:
        """The modules that are loaded."""
        with self._lock:
            return list(self._modules.values())

    def _load(self, fullname: str) -> ModuleType:
        if fullname in self._ready:
            return self._modules[fullname]
        with self._lock:
            if (loaded := self._modules.get(fullname)) is not None:
                return loaded
            parent_name, _, tail = fullname.rpartition(".")
            parent = self._root if parent_name == self.package else self._load(parent_name)
            # The parent's code may have imported it.
            if (loaded := self._modules.get(fullname)) is not None:
                return loaded
            spec = self._find(fullname, getattr(parent, "__path__", ()))
            if spec is None:
                shown = fullname.removeprefix(f"{self.package}.")
                raise ModuleNotFoundError(f"No module named {shown!r}", name=shown)
            module = self._execute(spec)
            setattr(parent, tail, module)
            return module

    def _execute(self, spec: ModuleSpec) -> ModuleType:
        module = module_from_spec(spec)
        vars(module)["__builtins__"] = self._builtins
        self._modules[spec.name] = sys.modules[spec.name] = module
        try:
            if spec.loader is not None:  # None: a folder without __init__.py.
                spec.loader.exec_module(module)
        except BaseException:
            del self._modules[spec.name]
            sys.modules.pop(spec.name, None)
            raise
        # A module may put another object in its own place.
        module = self._modules[spec.name] = sys.modules.get(spec.name, module)
        self._ready.add(spec.name)
        if self._forgotten:
            sys.modules.pop(spec.name, None)
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

    def _has(self, top: str) -> bool:
        fullname = f"{self.package}.{top}"
        if fullname in self._modules:
            return True
        if top in self._elsewhere:
            return False
        spec = self._find(fullname, self._root.__path__)
        # A folder without __init__.py hides no installed package: it may be of templates, or data.
        if spec is not None and (spec.loader is not None or not _is_installed(top)):
            return True
        self._elsewhere.add(top)
        return False

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level > 0:
            name = resolve_name("." * level + name, (globals or {}).get("__package__") or "")
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

    def _give(self, name: str, fromlist: Sequence[str] | None, *, relative: bool) -> ModuleType:
        leaf = self.load(name) if name else self._root
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


def _package(name: str, path: list[str]) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = path
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__spec__.submodule_search_locations = path
    return module


def _is_installed(top: str) -> bool:
    """Whether a module or package of that name, with code of its own, can be imported by anybody."""
    try:
        spec = find_spec(top)
    except ValueError:  # It is loaded, and has no spec: somebody made it.
        return True
    return spec is not None and spec.origin is not None
