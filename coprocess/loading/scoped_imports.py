"""Imports of handler code: each folder of handlers sees its own modules, and no other folder's.

Every handler module gets its own `__builtins__`, with an `__import__` that looks first at the names a
gateway's driver offers (`tyk.decorators`), then in the module's own folder and its `vendor/`, and in what
the folder's code puts on `sys.path` of itself. This isolates names; it is no sandbox.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import threading
import zipimport
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib import import_module
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

from coprocess.loading import handler_modules, scoped_metrics, scoped_protobuf
from coprocess.loading.handler_modules import NAMESPACE as NAMESPACE
from coprocess.loading.scoped_protobuf import ScopedProtobuf

VENDOR = "vendor"
#: What handlers import from here. A sibling of that name would take its place.
OUR_NAME = "coprocess"


class _SourceLoader(SourceFileLoader):
    """Compiles what the file says now. A cached compilation is told by whole seconds and size, so that
    a quick edit of equal length would go unseen; and none is written into the user's folders."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        self.digest = _digest(source)
        return self.source_to_code(source, path)


#: Of the sources that have run to their end in this process.
_ran: set[bytes] = set()


def has_run(path: str) -> bool:
    """Whether the module in that file, as it is now, has been loaded in this process, by whichever load."""
    try:
        return _digest(Path(path).read_bytes()) in _ran
    except (OSError, ValueError):
        return False


def _digest(source: bytes) -> bytes:
    return blake2b(source, digest_size=16).digest()


class ImportScope:
    """The modules of one folder of handlers, in one generation of it. The name is that of all generations."""

    def __init__(
        self,
        name: str,
        folders: Sequence[Path],
        aliases: Mapping[str, ModuleType],
        owned: Path | None = None,
    ) -> None:
        """`folders` are searched in order. `aliases` maps module names to what imports of them give.

        What handler code puts on `sys.path` is the scope's where it lies in `owned` (default: the first
        of the folders).
        """
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
        #: Installed parts of namespace packages that the scope has parts of, by full name here.
        self._borrowed: dict[str, ModuleType] = {}
        #: None: it has no generated modules of its own; absent: nobody has asked yet.
        self._protobuf: ScopedProtobuf | None
        self._forgotten = False
        self._owned = os.path.realpath(owned or folders[0])
        #: `sys.path` as it was when it was last looked at.
        self._seen_path = list(sys.path)
        self._path_before = list(sys.path)
        handler_modules.open_scope(self, self._root)
        importlib.import_module = _import_module

    def load(self, name: str) -> ModuleType:
        """Import the module `name` of this scope. Raises what its code raises."""
        return self._load(f"{self.package}.{name}")

    def forget(self) -> None:
        """Take the scope's modules out of `sys.modules`. Code that runs keeps what it has."""
        with self._lock:
            self._forgotten = True
            handler_modules.close_scope(self)
            scoped_metrics.forget(self)

    @property
    def path(self) -> list[str]:
        """The folders that are searched."""
        return list(self._root.__path__)

    def finds(self, name: str) -> bool:
        """Whether the scope has a module of that name, loaded or not."""
        fullname = f"{self.package}.{name}"
        if fullname in self._modules:
            return True
        parent = self._modules.get(fullname.rpartition(".")[0], self._root if "." not in name else None)
        return parent is not None and self._find(fullname, getattr(parent, "__path__", ())) is not None

    def release_path(self) -> None:
        """After loading: take what is the scope's from `sys.path`, and what was put there once more."""
        self._adopt_path()
        added = Counter(sys.path) - Counter(self._path_before)
        kept = []
        for entry in sys.path:
            if added[entry] and (entry in self._path_before or self._owns(entry)):
                added[entry] -= 1
            else:
                kept.append(entry)
        if Counter(self._path_before) - Counter(kept):
            # What code took away, others need, the service's own code too.
            kept = [*(entry for entry in kept if entry not in self._path_before), *self._path_before]
        if kept != sys.path:
            sys.path[:] = kept
        for entry in [entry for entry in list(sys.path_importer_cache) if self._owns(entry)]:
            if entry not in self._path_before:
                sys.path_importer_cache.pop(entry, None)

    def _adopt_path(self) -> None:
        """Search, too, what handler code has put on `sys.path` of the scope's own folders."""
        if sys.path == self._seen_path:
            return
        self._seen_path = list(sys.path)
        first: list[str] = []
        last: list[str] = []
        place = first
        for entry in self._seen_path:
            if entry in self._path_before:
                place = last
            elif self._owns(entry):
                place.append(os.path.realpath(entry))
        # What was put before all that the process has, is before all that the scope has, too.
        path = list(dict.fromkeys((*first, *self._root.__path__, *last)))
        if path != self._root.__path__:
            self._root.__path__[:] = path
            self._elsewhere.clear()
            handler_modules.tell_processes()

    def _owns(self, entry: Any) -> bool:
        try:
            found: str = os.path.realpath(entry)
        except (TypeError, ValueError):
            return False
        return found == self._owned or found.startswith(self._owned + os.sep)

    def modules(self) -> list[ModuleType]:
        """The modules that are loaded."""
        with self._lock:
            return list(self._modules.values())

    def _load(self, fullname: str) -> ModuleType:
        if fullname in self._ready:
            return self._modules[fullname]
        with self._lock:
            if (loaded := self._modules.get(fullname) or self._borrowed.get(fullname)) is not None:
                return loaded
            parent_name, _, tail = fullname.rpartition(".")
            parent = self._root if parent_name == self.package else self._load(parent_name)
            # The parent's code may have imported it.
            if (loaded := self._modules.get(fullname)) is not None:
                return loaded
            spec = None
            if parent_name not in self._borrowed:
                spec = self._find(fullname, getattr(parent, "__path__", ()))
            if spec is None:
                shown = fullname.removeprefix(f"{self.package}.")
                if parent is not self._root and (borrowed := self._borrow(fullname, parent, shown)):
                    return borrowed
                raise ModuleNotFoundError(f"No module named {shown!r}", name=shown)
            module = self._execute(spec)
            setattr(parent, tail, module)
            return module

    def _borrow(self, fullname: str, parent: ModuleType, shown: str) -> ModuleType | None:
        """An installed module of a namespace package, as google is, that the scope has other parts of."""
        if fullname in self._borrowed:
            return self._borrowed[fullname]
        is_namespace = getattr(parent, "__file__", None) is None
        if fullname.rpartition(".")[0] not in self._borrowed and not is_namespace:
            return None
        try:
            found = import_module(shown)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{shown}.".startswith(f"{error.name}."):
                return None
            raise
        self._borrowed[fullname] = found
        setattr(parent, shown.rpartition(".")[2], found)
        return found

    def _execute(self, spec: ModuleSpec) -> ModuleType:
        module = module_from_spec(spec)
        vars(module)["__builtins__"] = self._builtins
        self._modules[spec.name] = module
        stand_in = handler_modules.register(self, spec.name, module)
        try:
            if spec.loader is not None:  # None: a folder without __init__.py.
                spec.loader.exec_module(module)
            if self._scoped_protobuf(spec.name) is not None:
                scoped_protobuf.fill(module, spec.name.removeprefix(f"{self.package}."))
        except BaseException:
            del self._modules[spec.name]
            handler_modules.unregister(self, spec.name)
            raise
        # A module may put another object in its own place.
        if (found := sys.modules.get(spec.name, stand_in)) is not stand_in:
            module = self._modules[spec.name] = found
            handler_modules.register(self, spec.name, module)
        self._ready.add(spec.name)
        if isinstance(spec.loader, _SourceLoader):
            _ran.add(spec.loader.digest)
        if self._forgotten:
            handler_modules.unregister(self, spec.name)
        return module

    def _scoped_protobuf(self, fullname: str) -> ScopedProtobuf | None:
        """The protobuf of the scope, for names that are of it, if the scope has one of its own."""
        if not f"{fullname}.".startswith(f"{self.package}.{scoped_protobuf.TOP}."):
            return None
        if not hasattr(self, "_protobuf"):
            has_own = scoped_protobuf.has_generated_modules(self._root.__path__, self._aliases)
            self._protobuf = ScopedProtobuf(self._aliases, _SourceLoader) if has_own else None
        return self._protobuf

    def _find(self, fullname: str, path: Sequence[str]) -> ModuleSpec | None:
        shown = fullname.removeprefix(f"{self.package}.")
        if (protobuf := self._scoped_protobuf(fullname)) is not None and scoped_protobuf.is_part(shown):
            # Never one that the folder brings along: messages are those of the process's.
            return protobuf.find(shown, fullname)
        loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, [".py"]))
        portions: list[str] = []
        for folder in path:
            # A new finder each time: they cache the folder's listing, and files change on reload.
            spec = FileFinder(folder, *loaders).find_spec(fullname) or _find_in_zip(folder, fullname)
            if spec is None:
                continue
            if spec.loader is not None:
                return spec
            portions.extend(spec.submodule_search_locations or ())
        if protobuf is not None:
            found = protobuf.find(shown, fullname)
            if found is not None and portions:
                found.submodule_search_locations = portions
            if found is not None:
                return found
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
        is_needed = self._scoped_protobuf(fullname) is not None
        if spec is not None and (spec.loader is not None or is_needed or not _is_installed(top)):
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
        self._adopt_path()
        if level > 0:
            name = resolve_name("." * level + name, (globals or {}).get("__package__") or "")
            if not f"{name}.".startswith(f"{self.package}."):
                return builtins.__import__(name, globals, locals, fromlist or (), 0)
            name = name.removeprefix(self.package).removeprefix(".")
            return self._give(name, fromlist, relative=True)
        top = name.partition(".")[0]
        if top in self._aliases:
            return self._give_alias(name, top, fromlist)
        if top != OUR_NAME and top not in sys.stdlib_module_names and self._has(top):
            return self._give(name, fromlist, relative=False)
        if top == "prometheus_client":
            scoped_metrics.watch_registry()
        return builtins.__import__(name, globals, locals, fromlist or (), 0)

    def _give(self, name: str, fromlist: Sequence[str] | None, *, relative: bool) -> ModuleType:
        leaf = self.load(name) if name else self._root
        if not fromlist:
            return leaf if relative else self.load(name.partition(".")[0])
        if hasattr(leaf, "__path__"):
            wanted = getattr(leaf, "__all__", ()) if "*" in fromlist else fromlist
            for attribute in wanted:
                child = f"{name}.{attribute}" if name else attribute
                if hasattr(leaf, attribute):
                    continue
                is_own = f"{self.package}.{name}" not in self._borrowed
                if is_own and self._find(f"{self.package}.{child}", leaf.__path__):
                    self.load(child)
                elif name:
                    self._borrow(f"{self.package}.{child}", leaf, child)
        return leaf

    def _give_alias(self, name: str, top: str, fromlist: Sequence[str] | None) -> ModuleType:
        if name not in self._aliases:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return self._aliases[name if fromlist else top]


def _import_module(name: str, package: str | None = None) -> ModuleType:
    """`importlib.import_module` for everybody: of handler code it gives what `import` would."""
    scope = getattr(sys._getframe(1).f_builtins.get("__import__"), "__self__", None)
    if isinstance(scope, ImportScope) and not name.startswith("."):
        return scope._import(name, fromlist=("__name__",))
    return import_module(name, package)


def open_told_scopes(aliases: Mapping[str, ModuleType]) -> None:
    """In a process that a handler's code has started: make its parent's handler modules importable."""
    for package, path in handler_modules.told_folders().items():
        ImportScope(package.removeprefix(f"{NAMESPACE}."), [Path(folder) for folder in path], aliases)


def search_folders(folder: Path) -> list[Path]:
    """Where the modules of a folder of handlers are looked for: there, and in what it brings along."""
    vendor = folder / VENDOR
    running = f"python{sys.version_info.major}.{sys.version_info.minor}"
    installed = [
        path
        for pattern in ("lib*/python3*/site-packages", "lib*/python3*/dist-packages")
        for path in sorted(vendor.glob(pattern), key=lambda path: (path.parent.name != running, path))
    ]
    return [folder, vendor, *installed]


def _find_in_zip(entry: str, fullname: str) -> ModuleSpec | None:
    if os.path.isdir(entry):
        return None
    try:
        return zipimport.zipimporter(entry).find_spec(fullname)
    except zipimport.ZipImportError:
        return None


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
