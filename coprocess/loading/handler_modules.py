"""The names of handler modules in `sys.modules`. They stay over reloads, though each load has its own.

Pickles, dataclasses and type hints look modules up by name, and so do processes that handlers start. What
`sys.modules` has is a stand-in: it shows the module of the load whose code asks, told by the frames of the
caller; and where no handler code asks, that of the load that serves.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from importlib.metadata import DistributionFinder, PathDistribution

#: The package, of nothing but our own modules, in which handler modules are registered.
NAMESPACE = "coprocess_handlers"

#: Tells the processes that handlers start where which modules lie: a JSON object, package to folders.
FOLDERS_VARIABLE = "_COPROCESS_HANDLER_FOLDERS"
#: The system takes no longer text for one variable than 128 KiB.
_LONGEST_VARIABLE = 100_000


class Scope(Protocol):
    """The modules of one folder of handlers, in one load of it."""

    package: str

    def load(self, name: str) -> ModuleType:
        """Import the module of that name within the package."""

    def finds(self, name: str) -> bool:
        """Whether there is a module of that name within the package."""

    @property
    def path(self) -> list[str]:
        """The folders that are searched."""


_lock = threading.Lock()
#: Scopes by package, the newest last.
_scopes: dict[str, list[Scope]] = {}
#: By package: the scope whose calls are being answered.
_serving: dict[str, Scope] = {}
#: By full name: the module of each scope that has loaded it.
_modules: dict[str, dict[int, ModuleType]] = {}


class _StandIn(ModuleType):
    """What `sys.modules` has: it reads and writes the module that is meant."""

    def __getattribute__(self, attribute: str) -> Any:
        return getattr(_meant(self), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(_meant(self), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(_meant(self), attribute)

    def __eq__(self, other: object) -> bool:
        return other is self or other is _meant(self)

    def __hash__(self) -> int:
        return hash(_meant(self))

    def __dir__(self) -> Iterable[str]:
        return dir(_meant(self))


def _meant(stand_in: _StandIn) -> Any:
    name: str = ModuleType.__getattribute__(stand_in, "__name__")
    of_scopes = _modules.get(name)
    if not of_scopes:  # Forgotten, and still held by somebody.
        return super(_StandIn, stand_in)
    if len(of_scopes) > 1:
        scope = _asking(name.split(".")[1], sys._getframe(2), of_scopes)
        if scope is not None:
            return of_scopes[id(scope)]
    return next(reversed(of_scopes.values()))


def _asking(tail: str, frame: FrameType | None, having: dict[int, ModuleType]) -> Scope | None:
    """The scope whose code is nearest among the callers; else the one that serves."""
    package = f"{NAMESPACE}.{tail}"
    while frame is not None:
        # A scope's code has the scope's own import.
        scope: Scope | None = getattr(frame.f_builtins.get("__import__"), "__self__", None)
        if scope is not None and id(scope) in having and scope.package == package:
            return scope
        frame = frame.f_back
    serving = _serving.get(package)
    return serving if id(serving) in having else None


def asking_scope() -> Scope | None:
    """The scope whose code is nearest among the callers.

    None: no handler code is, or it has only imported a library, which is there for everybody.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        scope: Scope | None = getattr(frame.f_builtins.get("__import__"), "__self__", None)
        if scope is not None and scope in _scopes.get(getattr(scope, "package", ""), ()):
            return scope
        if frame.f_code.co_name == "<module>":
            return None
        frame = frame.f_back
    return None


def open_scope(scope: Scope, root: ModuleType) -> None:
    """Make a scope known, and its package, which is `root`."""
    sys.modules.setdefault(NAMESPACE, _namespace())
    with _lock:
        _scopes.setdefault(scope.package, []).append(scope)
    register(scope, scope.package, root)
    tell_processes()


def serve(scope: Scope) -> None:
    """From now on its calls are answered: names mean its modules, where nobody else's code asks."""
    with _lock:
        _serving[scope.package] = scope


def close_scope(scope: Scope) -> None:
    """Take the scope's modules from the names; the names go where no other scope has them."""
    with _lock:
        left = [each for each in _scopes.get(scope.package, []) if each is not scope]
        if left:
            _scopes[scope.package] = left
        else:
            _scopes.pop(scope.package, None)
        if _serving.get(scope.package) is scope:
            del _serving[scope.package]
        for name in [name for name, of_scopes in _modules.items() if id(scope) in of_scopes]:
            _drop(scope, name)
    tell_processes()


def register(scope: Scope, name: str, module: ModuleType) -> ModuleType:
    """Put `module` under `name` for that scope, and give the stand-in that all see."""
    with _lock:
        of_scopes = _modules.setdefault(name, {})
        # The newest last, also where it takes the place of another of its scope.
        of_scopes.pop(id(scope), None)
        of_scopes[id(scope)] = module
        stand_in = sys.modules.get(name)
        if type(stand_in) is not _StandIn:
            stand_in = sys.modules[name] = _StandIn(name)
        return stand_in


def unregister(scope: Scope, name: str) -> None:
    with _lock:
        _drop(scope, name)


def _drop(scope: Scope, name: str) -> None:
    of_scopes = _modules.get(name, {})
    of_scopes.pop(id(scope), None)
    if not of_scopes:
        _modules.pop(name, None)
        sys.modules.pop(name, None)


def _namespace() -> ModuleType:
    # Not the package of that name that is installed: that is for processes that handlers start.
    module = ModuleType(NAMESPACE)
    module.__path__ = []
    module.__spec__ = ModuleSpec(NAMESPACE, None, is_package=True)
    return module


def tell_processes() -> None:
    """Leave word for the processes that handlers start."""
    with _lock:
        folders = {package: scopes[-1].path for package, scopes in _scopes.items()}
    text = json.dumps(folders)
    if len(text) <= _LONGEST_VARIABLE:
        os.environ[FOLDERS_VARIABLE] = text


def told_folders() -> dict[str, list[str]]:
    """What the process that started this one has told: package to folders."""
    try:
        found: dict[str, list[str]] = json.loads(os.environ.get(FOLDERS_VARIABLE, "{}"))
    except ValueError:
        return {}
    return {package: path for package, path in found.items() if package not in _scopes}


class _Finder(MetaPathFinder, Loader):
    """Imports by full name: of unpickling, and of `importlib.import_module(".sibling", __package__)`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{NAMESPACE}.") or path is None:
            return None
        scope = self._scope(fullname)
        tail = fullname.partition(".")[2].partition(".")[2]
        return spec_from_loader(fullname, self) if scope is not None and tail and scope.finds(tail) else None

    def exec_module(self, module: ModuleType) -> None:
        # Puts the stand-in in place of `module`, and the import takes what is there.
        fullname = module.__name__
        if (scope := self._scope(fullname)) is not None:
            scope.load(fullname.partition(".")[2].partition(".")[2])

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterable[PathDistribution]:
        """What a folder brings along, where its code asks, as for the version of a library."""
        # Not for every import: it takes 30 ms to load.
        from importlib.metadata import DistributionFinder, MetadataPathFinder

        scope = asking_scope()
        if scope is None or (context is not None and "path" in vars(context)):
            return iter(())
        name = context.name if context is not None else None
        return MetadataPathFinder.find_distributions(DistributionFinder.Context(name=name, path=scope.path))

    @staticmethod
    def _scope(fullname: str) -> Scope | None:
        tail = fullname.split(".")[1]
        with _lock:
            scopes = list(_scopes.get(f"{NAMESPACE}.{tail}", []))
        roots = dict.fromkeys(map(id, scopes), ModuleType(""))
        asking = _asking(tail, sys._getframe(1), roots)
        return asking or (scopes[-1] if scopes else None)


# For names within our own package only; everybody else's imports take their usual way.
sys.meta_path.insert(0, _Finder())
