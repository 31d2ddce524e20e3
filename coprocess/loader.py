"""From folders of handler code to one immutable table of hooks.

A folder's modules and packages are loaded, each folder in a scope of its own; a folder within it that
has a `manifest.json` is a bundle, with a scope of its own again. What is wrong is kept as a problem,
and the rest is loaded all the same.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from coprocess import process_state
from coprocess.decorators import MARK, Declaration, collecting
from coprocess.errors import HandlerError, LoadError
from coprocess.hooks import DuplicateHandler, Hook, HookTable
from coprocess.routes import Route, RoutedTable
from coprocess.scoped_imports import ImportScope

MANIFEST = "manifest.json"
VENDOR = "vendor"

_generation = itertools.count(1)

#: The modules whose code runs now, the innermost last; for who has to say what hangs.
now_loading: list[Path] = []


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something was not loaded."""

    path: Path
    text: str
    #: Of the handler code, where that raised; else empty.
    traceback: str = ""
    #: Further files whose hooks are not served because of it.
    also: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Loaded:
    """What loading gave. `table` holds what is good; `problems` tells of the rest."""

    table: HookTable
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    #: The folders, with no link in their paths: those of the default version, then those of the routes.
    roots: list[Path] = field(default_factory=list)
    #: What files changed in the process while they loaded, a sentence each; see `process_state`.
    notes: list[str] = field(default_factory=list)
    _scopes: list[ImportScope] = field(default_factory=list)

    def forget(self) -> None:
        """Let go of the modules, when another table has taken over."""
        for scope in self._scopes:
            scope.forget()


def load(folders: Iterable[Path], aliases: Mapping[str, ModuleType], routes: Sequence[Route] = ()) -> Loaded:
    """Load all handlers in `folders`, and those of `routes` beside them.

    `aliases` are modules that handler code may import by those names. Raises LoadError where a folder does
    not exist; everything else is a problem of the result.
    """
    default = _existing(folders)
    of_routes = [(route, _existing(route.folders)) for route in routes]
    loaded = _load(default, aliases, "")
    loaded.roots = [*default, *(folder for _, found in of_routes for folder in found)]
    if not routes:
        return loaded
    versions = [(route, _load(found, aliases, route.name)) for route, found in of_routes]
    tables = [(route, version.table) for route, version in versions]
    together = replace(loaded, table=RoutedTable(loaded.table, tables))
    for route, version in versions:
        together.problems += version.problems
        together.files += version.files
        together.notes += version.notes
        together._scopes += version._scopes
        if not len(version.table) and not version.problems:
            text = f'{route.folders[0]}: no handlers, and route "{route.name}" needs some'
            together.problems.append(Problem(route.folders[0], text))
    return together


def _existing(folders: Iterable[Path]) -> list[Path]:
    found = list(dict.fromkeys(path.resolve() for path in folders))
    for folder in found:
        if not folder.is_dir():
            raise LoadError(f"{folder}: no such folder. Expected: a folder with handler modules")
    return found


def _load(folders: Iterable[Path], aliases: Mapping[str, ModuleType], version: str) -> Loaded:
    loading = _Loading(next(_generation), aliases, version)
    for folder in folders:
        loading.folder(folder)
    return loading.result()


class _Loading:
    def __init__(self, generation: int, aliases: Mapping[str, ModuleType], version: str) -> None:
        self._generation = generation
        self._aliases = aliases
        self._version = version
        self._hooks: list[Hook] = []
        self._problems: list[Problem] = []
        self._files: list[Path] = []
        self._notes: list[str] = []
        self._scopes: list[ImportScope] = []

    def folder(self, folder: Path) -> None:
        if (folder / MANIFEST).is_file():
            self._modules(folder, bundle_names(folder.name))
            return
        self._modules(folder, frozenset())
        for bundle in sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")):
            if not _is_hidden(bundle):
                self._modules(bundle, bundle_names(bundle.name))

    def _modules(self, folder: Path, bundle: frozenset[str]) -> None:
        name = re.sub(r"\W", "_", folder.name) or "root"
        scope = ImportScope(
            f"g{self._generation}_{len(self._scopes)}_{name}", [folder, folder / VENDOR], self._aliases
        )
        self._scopes.append(scope)
        with collecting(f"{scope.package}.") as collected:
            for path in module_paths(folder):
                # Else it is a copy of what the driver offers, for tests or editors: nobody imports it here.
                if _module_name(path) not in self._aliases:
                    self._module(scope, path)
        modules = scope.modules()
        # What a module declared before it failed is not served.
        good = {id(vars(module)) for module in modules}
        declarations = [declaration for declaration in collected if id(declaration.namespace) in good]
        declarations += dict.fromkeys(_marked(modules))  # Several modules may have one function.
        for declaration in declarations:
            try:
                self._hooks.extend(_outermost(declaration).hooks(bundle, self._version))
            except HandlerError as error:
                self._problems.append(Problem(declaration.source.path, str(error)))

    def _module(self, scope: ImportScope, path: Path) -> None:
        name = _module_name(path)
        self._files.append(path)
        if "." in name:
            text = f"{path}: not loaded. Expected: a file name without further dots, as for an import"
            self._problems.append(Problem(path, text))
            return
        told: list[str] = []
        now_loading.append(path)
        try:
            with process_state.kept() as told:
                scope.load(name)
        except KeyboardInterrupt:  # Somebody at a terminal.
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            self._problems.append(_problem_of(path, error))
        finally:
            now_loading.remove(path)
        self._notes += [f"{path}: {sentence}" for sentence in told]

    def result(self) -> Loaded:
        hooks = _same_only_once(self._hooks)
        while True:
            try:
                table = HookTable(hooks)
            except DuplicateHandler as error:
                # Neither of two handlers of one name is the right one: guessing could let requests by.
                duplicate = error.hook
                rivals = [hook for hook in hooks if _is_rival(hook, duplicate)]
                also = tuple(hook.source.path for hook in rivals if hook is not duplicate)
                self._problems.append(Problem(duplicate.source.path, str(error), also=also))
                hooks = [hook for hook in hooks if hook not in rivals]
            else:
                return Loaded(table, self._problems, self._files, notes=self._notes, _scopes=self._scopes)


def _is_rival(hook: Hook, other: Hook) -> bool:
    return (hook.type, hook.name, hook.api_id, hook.bundle) == (
        other.type,
        other.name,
        other.api_id,
        other.bundle,
    )


def _same_only_once(hooks: Sequence[Hook]) -> list[Hook]:
    seen: dict[tuple[object, ...], Hook] = {}
    for hook in hooks:
        seen.setdefault((hook.type, hook.name, hook.api_id, hook.bundle, id(hook.function)), hook)
    return list(seen.values())


def module_paths(folder: Path) -> list[Path]:
    """The modules (files) and packages (folders with `__init__.py`) that lie directly in `folder`.

    Their names need not be identifiers: a gateway finds handlers by the functions' names.
    """
    modules = [path for path in folder.glob("*.py") if path.stem != "__init__" and path.is_file()]
    packages = [path.parent for path in folder.glob("*/__init__.py")]
    packages = [path for path in packages if path.name != VENDOR and not (path / MANIFEST).is_file()]
    return sorted(path for path in (*modules, *packages) if not _is_hidden(path))


def _is_hidden(path: Path) -> bool:
    # Editors' locks and other systems' side files (.#name.py, ._name.py), and mounted volumes' own folders.
    return path.name.startswith(".")


def _module_name(path: Path) -> str:
    return path.name.removesuffix(".py")


def bundle_names(folder_name: str) -> frozenset[str]:
    """What a gateway may call the bundle in a folder of that name: md5, as hex, of the bundle's name.

    Gateways unpack bundles into folders that have this name already.
    """
    hashes = (
        hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        for name in (folder_name, f"{folder_name}.zip")
    )
    return frozenset((folder_name, *hashes))


def _outermost(declaration: Declaration) -> Declaration:
    """`declaration`, of the function with the decorators that stand above the one that declared it.

    Else a check that a user wrapped around a handler would silently not run.
    """
    function = declaration.function
    bound = declaration.namespace.get(getattr(function, "__name__", ""))
    if bound is None or bound is function or not _wraps(bound, function):
        return declaration
    return replace(declaration, function=bound)


def _wraps(outer: Any, inner: Callable[..., Any]) -> bool:
    """Whether `outer` is a wrapper of `inner`, made with functools.wraps or, where that shows, without."""
    seen: list[Any] = []
    while outer is not None and not any(outer is each for each in seen):
        seen.append(outer)
        if outer is inner:
            return True
        cells = getattr(outer, "__closure__", None) or ()
        wrapped = getattr(outer, "__wrapped__", None)
        if wrapped is None:
            return any(_content(cell) is inner for cell in cells)
        outer = wrapped
    return False


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Empty.
        return None


def _marked(modules: Iterable[ModuleType]) -> Iterable[Declaration]:
    """Declarations of functions that a module has but did not define, as from a library."""
    for module in modules:
        for value in list(vars(module).values()):
            try:
                marks = vars(value).get(MARK, ())
            except TypeError:
                continue
            yield from marks if isinstance(marks, list) else ()


def _problem_of(path: Path, error: BaseException) -> Problem:
    if isinstance(error, HandlerError):
        return Problem(path, str(error))
    if isinstance(error, SyntaxError) and error.filename:
        return Problem(path, f"{error.filename}:{error.lineno or 0}: SyntaxError: {error.msg}")
    return Problem(
        path,
        f"{_where(path, error)}: {type(error).__name__}: {_text_of(error)}",
        traceback="".join(traceback.format_exception(error)),
    )


def _where(path: Path, error: BaseException) -> str:
    """The place in `path`, a file or a package, from which `error` came."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(path):
            return f"{frame.filename}:{frame.lineno}"
    return str(path)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the user's own class of exception
        return "(its text cannot be had)"
