"""From folders of handler code to one immutable table of hooks.

A folder's modules and packages are loaded, each folder in a scope of its own; a folder within it that
has a manifest is a bundle, with a scope of its own again, and of it those files are run that the manifest
says. What is wrong is kept as a problem, and the rest is loaded all the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from coprocess.api.app import App
from coprocess.api.declarations import MARK, Declaration, collecting
from coprocess.api.functions import bare_wraps
from coprocess.api.moments import HookType
from coprocess.error_text import format_error, is_not_ours, text_of
from coprocess.errors import HandlerError, LoadError
from coprocess.loading import handler_modules, process_state
from coprocess.loading.declared import hooks_of
from coprocess.loading.home import Home
from coprocess.loading.hooks import DuplicateHandler, Hook, HookTable
from coprocess.loading.lifecycle import Lifecycle
from coprocess.loading.manifest import MANIFEST as MANIFEST
from coprocess.loading.manifest import (
    bundle_folders,
    declares_hooks,
    entries,
    is_left_out,
    listed_files,
    manifests,
)
from coprocess.loading.resources import ResourceError, Spawn
from coprocess.loading.routes import Route, RoutedTable
from coprocess.loading.scoped_imports import OUR_NAME, ImportScope, has_run, search_folders
from coprocess.loading.scoped_imports import VENDOR as VENDOR

_DECORATORS = ("Hook", *HookType.__members__)

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
    #: Not run, though they declare hooks: each with the reason.
    left_out: list[str] = field(default_factory=list)
    #: The folders, with no link in their paths: those of the default version, then those of the routes.
    roots: list[Path] = field(default_factory=list)
    #: What files changed in the process while they loaded, a sentence each; see `process_state`.
    notes: list[str] = field(default_factory=list)
    _scopes: list[ImportScope] = field(default_factory=list)
    lifecycles: list[Lifecycle] = field(default_factory=list)
    #: The scopes of each version; empty: all are the default's.
    _by_version: dict[str, list[ImportScope]] = field(default_factory=dict)

    def open(self, spawn: Spawn, timeout_s: float) -> None:
        """Open the resources. Handlers whose resources do not open are a problem, and not in `table`."""
        for lifecycle in self.lifecycles:
            try:
                lifecycle.open(spawn, timeout_s)
            except ResourceError as error:
                self.problems.append(Problem(lifecycle.app.source.path, str(error)))
                self.table = self.table.without(lifecycle.app)

    def close(self, timeout_s: float) -> None:
        """Close the resources that are open. To be called when the last call has ended."""
        self.closing()(timeout_s)

    def closing(self) -> Callable[[float], None]:
        """What closes the resources that are open now, and no others; it holds none of the handlers."""
        closing = [each.resources.take_open() for each in reversed(self.lifecycles)]

        def close(timeout_s: float) -> None:
            for each in closing:
                each.close(timeout_s)

        return close

    def modules(self, version: str = "") -> list[ModuleType]:
        """The modules of handler code that are loaded for a route of that name, or for none."""
        scopes = self._by_version.get(version, self._scopes if not version else [])
        return [module for scope in scopes for module in scope.modules()]

    def renewed(self) -> Loaded:
        """The same handlers, as other hooks: calls of these here can be told from theirs."""
        return replace(self, table=self.table.renewed())

    def serve(self) -> None:
        """From now on the names of handler modules mean these."""
        for scope in self._scopes:
            handler_modules.serve(scope)

    def forget(self) -> None:
        """Let go of the modules, when another table has taken over."""
        for scope in self._scopes:
            scope.forget()


def load(folders: Iterable[Path], home: Home, routes: Sequence[Route] = ()) -> Loaded:
    """Load all handlers in `folders`, and those of `routes` beside them.

    `home` is the gateway that they are for. Raises LoadError where a folder does
    not exist; everything else is a problem of the result.
    """
    default = _existing(folders)
    of_routes = [(route, _existing(route.folders)) for route in routes]
    names = _Names()
    loaded = _load(default, home, "", names)
    loaded.roots = [*default, *(folder for _, found in of_routes for folder in found)]
    if not routes:
        return loaded
    versions = [(route, _load(found, home, route.name, names)) for route, found in of_routes]
    tables = [(route, version.table) for route, version in versions]
    by_version = {"": list(loaded._scopes), **{route.name: version._scopes for route, version in versions}}
    together = replace(loaded, table=RoutedTable(loaded.table, tables), _by_version=by_version)
    for route, version in versions:
        together.problems += version.problems
        together.files += version.files
        together.left_out += version.left_out
        together.notes += version.notes
        together._scopes += version._scopes
        together.lifecycles += version.lifecycles
        if not len(version.table) and not version.problems:
            text = f'{route.folders[0]}: no handlers, and route "{route.name}" needs some'
            together.problems.append(Problem(route.folders[0], text))
    return together


def load_files(
    paths: Sequence[Path], home: Home, hooks_of_module: Callable[[ModuleType, Path], Iterable[Hook]]
) -> Loaded:
    """Load the modules `paths`, each a file, and the hooks that `hooks_of_module` makes of them.

    That is for gateways whose handlers are declared otherwise; it may raise HandlerError.
    """
    loading = _Loading(_Names(), home, "")
    folders = list(dict.fromkeys(path.resolve().parent for path in paths))
    for folder in folders:
        files = [path.resolve() for path in paths if path.resolve().parent == folder]
        loading.files(folder, files, hooks_of_module)
    loaded = loading.result()
    loaded.roots = folders
    return loaded


def _existing(folders: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(_readable(path) for path in folders))


def _readable(path: Path) -> Path:
    expected = "Expected: a folder with handler modules"
    try:
        folder = path.resolve()
        if not folder.is_dir():
            raise LoadError(f"{folder}: no such folder. {expected}")
        # Both to list it and to open what is in it.
        with os.scandir(folder):
            (folder / MANIFEST).is_file()
    except OSError as error:
        shown = str(path) if len(str(path)) <= _LONGEST_SHOWN else f"{str(path)[:_LONGEST_SHOWN]}…"
        raise LoadError(f"{shown}: cannot be read: {error.strerror}. {expected}") from None
    except RuntimeError:  # pathlib's own, before Python 3.13.
        raise LoadError(f"{path}: is a link that leads to itself. {expected}") from None
    return folder


_LONGEST_SHOWN = 200


def _is_raised_by_signal() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt here: a service takes it otherwise, so that code alone does."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


class _Names:
    """The names of scopes: those of the load before, and of other processes with the same folders."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, folder: Path, version: str) -> str:
        wanted = re.sub(r"\W", "_", f"{version}_{folder.name}" if version else folder.name) or "root"
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def _load(folders: Iterable[Path], home: Home, version: str, names: _Names) -> Loaded:
    loading = _Loading(names, home, version)
    for folder in folders:
        loading.folder(folder)
    return loading.result()


class _Loading:
    def __init__(self, names: _Names, home: Home, version: str) -> None:
        self._names = names
        self._home = home
        self._version = version
        self._hooks: list[Hook] = []
        self._problems: list[Problem] = []
        self._files: list[Path] = []
        #: Files that are not run, and why.
        self._passed_over: list[tuple[Path, str]] = []
        self._notes: list[str] = []
        self._scopes: list[ImportScope] = []
        self._lifecycles: list[Lifecycle] = []

    def folder(self, folder: Path) -> None:
        if manifests(folder):
            self._modules(folder, bundle_names(folder.name), folder)
            return
        self._modules(folder, frozenset(), folder)
        for bundle in bundle_folders(folder):
            if not _is_hidden(bundle):
                self._modules(bundle, bundle_names(bundle.name), folder)

    def _modules(self, folder: Path, bundle: frozenset[str], served: Path) -> None:
        paths = self._paths(folder)
        name = self._names.name(folder, self._version)
        scope = ImportScope(name, search_folders(folder), self._home.aliases, served)
        self._scopes.append(scope)
        known = len(self._problems)
        with collecting(f"{scope.package}.") as collected:
            for path in paths:
                name = _module_name(path.relative_to(folder))
                # Else it is a copy of what the driver offers, for tests or editors: nobody imports it here.
                if name not in self._home.aliases:
                    self._module(scope, path, name)
        scope.release_path()
        modules = scope.modules()
        # What a module declared before it failed is not served.
        good = {id(vars(module)) for module in modules}
        declarations = [declaration for declaration in collected if id(declaration.namespace) in good]
        declarations += dict.fromkeys(_marked(modules))  # Several modules may have one function.
        # Without what an App declares around them, handlers could let requests by.
        failed = [problem.path for problem in self._problems[known:]]
        has_app = any(isinstance(value, App) for module in modules for value in vars(module).values())
        without = [path for path in failed if _may_declare_around(path, has_app)]
        if without:
            text = (
                f"{folder}: its handlers cannot be taken, as {without[0].name} did not load, and may declare "
                "what runs around them"
            )
            self._problems.append(Problem(folder, text))
            return
        try:
            lifecycle = self._lifecycle(modules)
        except HandlerError as error:
            self._problems.append(Problem(folder, str(error)))
            return
        for declaration in declarations:
            try:
                declaration = _outermost(declaration)
                self._hooks += hooks_of(declaration, bundle, self._version, lifecycle, self._home)
            except HandlerError as error:
                self._problems.append(Problem(declaration.source.path, str(error)))

    def files(
        self,
        folder: Path,
        paths: Sequence[Path],
        hooks_of_module: Callable[[ModuleType, Path], Iterable[Hook]],
    ) -> None:
        """Load `paths`, which lie in `folder`, in a scope of theirs."""
        scope = ImportScope(
            self._names.name(folder, self._version), search_folders(folder), self._home.aliases, folder
        )
        self._scopes.append(scope)
        for path in paths:
            self._module(scope, path, path.stem)
        scope.release_path()
        modules = {vars(module).get("__file__"): module for module in scope.modules()}
        for path in paths:
            module = modules.get(str(path))
            if module is None:
                continue  # It could not be loaded, and is a problem already.
            try:
                self._hooks += hooks_of_module(module, path)
            except HandlerError as error:
                self._problems.append(Problem(path, str(error)))

    def _paths(self, folder: Path) -> list[Path]:
        """The modules to run; what is not run, though it looks like handlers, is told."""
        found = manifests(folder)
        try:
            named = [name for manifest in found for name in entries(manifest) or [""]]
            listed = {folder / name for manifest in found for name in listed_files(manifest)}
        except LoadError as error:
            # Nothing of it: to run every file could run one that is there to be kept from running.
            self._problems.append(Problem(found[0], str(error)))
            return []
        if not found or "" in named:
            paths, reason = module_paths(folder), "its name is that of a test or a tool's script; rename it"
            passed_over = [path for path in folder.glob("*.py") if is_left_out(path)]
        else:
            paths = [folder / name for name in dict.fromkeys(named)]
            reason = f"{found[0].name} has {', '.join(named)} run, and what that imports"
            passed_over = [path for path in listed if path not in paths and not is_left_out(path)]
        self._passed_over += [(path, reason) for path in passed_over if path.suffix == ".py"]
        return paths

    def _lifecycle(self, modules: Sequence[ModuleType]) -> Lifecycle | None:
        """What the App of a folder puts around its handlers; None: it has none."""
        namespaces = {id(vars(module)) for module in modules}
        values = [value for module in modules for value in vars(module).values()]
        apps = list(dict.fromkeys(value for value in values if isinstance(value, App)))
        # One that a library made is the library's.
        apps = [app for app in apps if id(app.namespace) in namespaces]
        if not apps:
            return None
        if len(apps) > 1:
            raise HandlerError(
                f"{apps[1].source}: a second App; the first is at {apps[0].source}. Expected: one in a folder"
            )
        lifecycle = Lifecycle(apps[0], self._home)
        self._lifecycles.append(lifecycle)
        return lifecycle

    def _module(self, scope: ImportScope, path: Path, name: str) -> None:
        self._files.append(path)
        if "." in path.name.removesuffix(".py"):
            text = f"{path}: not loaded. Expected: a file name without further dots, as for an import"
            self._problems.append(Problem(path, text))
            return
        if name == OUR_NAME:
            text = (
                f"{path}: not loaded: handlers import coprocess, and get the library. Expected: another name"
            )
            self._problems.append(Problem(path, text))
            return
        told: list[str] = []
        now_loading.append(path)
        try:
            with process_state.kept() as told:
                scope.load(name)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and _is_raised_by_signal():
                raise
            # User code may raise anything, SystemExit too.
            self._problems.append(_problem_of(path, error))
        finally:
            now_loading.remove(path)
        self._notes += [f"{path}: {sentence}" for sentence in told]

    def result(self) -> Loaded:
        hooks = same_only_once(self._hooks)
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
                return Loaded(
                    table,
                    self._problems,
                    self._files,
                    self._left_out(),
                    notes=self._notes,
                    lifecycles=self._lifecycles,
                    _scopes=self._scopes,
                )

    def _left_out(self) -> list[str]:
        run = {vars(module).get("__file__") for scope in self._scopes for module in scope.modules()}
        return [
            f"{path}: declares hooks and is not run: {reason}"
            for path, reason in sorted(dict.fromkeys(self._passed_over))
            if str(path) not in run and declares_hooks(path, _DECORATORS)
        ]


def _may_declare_around(module: Path, has_app: bool) -> bool:
    """Whether a module that did not load makes an App, or declares something around handlers with one."""
    try:
        files = [module] if module.is_file() else sorted(module.rglob("*.py"))
        texts = [file.read_bytes() for file in files]
    except OSError:
        return has_app
    return any(_MAKES_APP.search(text) or (has_app and _AROUND.search(text)) for text in texts)


_MAKES_APP = re.compile(rb"(?s)\bcoprocess\b.*\bApp\s*\(")
_AROUND = re.compile(rb"@\s*[\w.]+\.(before|after|teardown|errorhandler)\b")


def _is_rival(hook: Hook, other: Hook) -> bool:
    return (hook.type, hook.name, hook.api_id, hook.bundle) == (
        other.type,
        other.name,
        other.api_id,
        other.bundle,
    )


def same_only_once(hooks: Sequence[Hook]) -> list[Hook]:
    """`hooks`, less what is there already: a function that is declared, or found, more than once."""
    seen: dict[tuple[object, ...], Hook] = {}
    for hook in hooks:
        seen.setdefault((hook.type, hook.name, hook.api_id, hook.bundle, id(hook.handler)), hook)
    return list(seen.values())


def module_paths(folder: Path) -> list[Path]:
    """The modules (files) and packages (folders with `__init__.py`) that lie directly in `folder`.

    Tests, and scripts of tools, are none of them. Their names need not be identifiers: a gateway finds
    handlers by the functions' names.
    """
    modules = [path for path in folder.glob("*.py") if path.stem != "__init__" and path.is_file()]
    # A pipe would be read for ever.
    packages = [path.parent for path in folder.glob("*/__init__.py") if path.is_file()]
    packages = [path for path in packages if path.name != VENDOR and not manifests(path)]
    return sorted(path for path in (*modules, *packages) if not _is_hidden(path) and not is_left_out(path))


def _is_hidden(path: Path) -> bool:
    # Editors' locks and other systems' side files (.#name.py, ._name.py), and mounted volumes' own folders.
    return path.name.startswith(".")


def _module_name(path: Path) -> str:
    """The dotted name of the module at a path within its folder."""
    return ".".join((*path.parts[:-1], path.name.removesuffix(".py")))


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
        if (wrapped := bare_wraps(outer)) is not None:
            outer = wrapped
            continue
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
    if not _is_raised_in(path, error):
        if isinstance(error, OSError) and error.filename in (str(path), str(path / "__init__.py")):
            return Problem(path, f"{error.filename}: cannot be read: {error.strerror}")
        # It cannot be compiled: no code of the user's has run.
        return Problem(path, f"{path}: {type(error).__name__}: {text_of(error)}")
    return Problem(
        path,
        f"{_where(path, error)}: {type(error).__name__}: {text_of(error)}{_once_only(path, error)}",
        traceback=format_error(error, _is_of_handlers) + "\n",
    )


def _is_of_handlers(filename: str) -> bool:
    """Whether a frame says something to those who wrote the module: how it is imported does not."""
    shows_all = logging.getLogger("coprocess").isEnabledFor(logging.DEBUG)
    return shows_all or (is_not_ours(filename) and not filename.startswith("<frozen importlib"))


def _is_raised_in(path: Path, error: BaseException) -> bool:
    return any(
        Path(frame.filename).is_relative_to(path) for frame in traceback.extract_tb(error.__traceback__)
    )


def _once_only(path: Path, error: BaseException) -> str:
    """What helps where code fails that could be loaded before: it may do what a process can do once."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(path.parent):
            ran_before = has_run(frame.filename)
            break
    else:
        return ""
    if (hint := _ONCE_ONLY.get(text_of(error))) is not None:
        return f". {hint}"
    if not ran_before or (isinstance(error, ImportError) and error.name is not None):
        return ""
    return (
        ". This code has been loaded before in this process, as it is now. If what it does is for the whole "
        "process, it can be done once only: restart the service, or let the code ask first whether it is done"
    )


#: By the text of the error.
_ONCE_ONLY = {
    "context has already been set": (
        "The start method is one for the whole process, and was set before, as by the load before. "
        'Restart the service, or have the code use multiprocessing.get_context("…"), which sets nothing'
    ),
}


def _where(path: Path, error: BaseException) -> str:
    """The place in `path`, a file or a package, from which `error` came."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(path):
            return f"{frame.filename}:{frame.lineno}"
    return str(path)
