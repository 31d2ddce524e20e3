"""From folders of handler code to one immutable table of hooks.

A folder's modules and packages are loaded, each folder in a scope of its own; a folder within it that
has a manifest is a bundle, with a scope of its own again, and of it those files are run that the manifest
says. What is wrong is kept as a problem, and the rest is loaded all the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from coprocess.api.app import App
from coprocess.api.declarations import collecting
from coprocess.api.moments import HookType
from coprocess.error_text import is_interrupt
from coprocess.errors import HandlerError, LoadError
from coprocess.loading import process_state
from coprocess.loading.declared import hooks_of, marked, outermost
from coprocess.loading.handler_files import bundle_names, is_hidden, module_name, module_paths
from coprocess.loading.home import Home
from coprocess.loading.hooks import DuplicateHandler, Hook, HookTable
from coprocess.loading.lifecycle import Lifecycle
from coprocess.loading.load_errors import problem_of, problem_of_look
from coprocess.loading.loaded import Loaded, Problem
from coprocess.loading.manifest import (
    MANIFEST,
    bundle_folders,
    declares_hooks,
    entries,
    is_left_out,
    listed_files,
    manifests,
)
from coprocess.loading.routes import Route, RoutedTable
from coprocess.loading.scoped_imports import OUR_NAME, ImportScope, search_folders

_DECORATORS = ("Hook", *HookType.__members__)

#: The modules whose code runs now, the innermost last; for who has to say what hangs.
now_loading: list[Path] = []


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
            if not is_hidden(bundle):
                self._modules(bundle, bundle_names(bundle.name), folder)

    def _modules(self, folder: Path, bundle: frozenset[str], served: Path) -> None:
        paths = self._paths(folder)
        name = self._names.name(folder, self._version)
        scope = ImportScope(name, search_folders(folder), self._home.aliases, served)
        self._scopes.append(scope)
        known = len(self._problems)
        with collecting(f"{scope.package}.") as collected:
            for path in paths:
                name = module_name(path.relative_to(folder))
                # Else it is a copy of what the driver offers, for tests or editors: nobody imports it here.
                if name not in self._home.aliases:
                    self._module(scope, path, name)
        scope.release_path()
        modules = scope.modules()
        # What a module declared before it failed is not served.
        good = {id(vars(module)) for module in modules}
        declarations = [declaration for declaration in collected if id(declaration.namespace) in good]
        declarations += dict.fromkeys(marked(modules))  # Several modules may have one function.
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
                declaration = outermost(declaration)
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
            except BaseException as error:
                if is_interrupt(error):
                    raise
                # User code runs here, too, as that of a metaclass.
                self._problems.append(problem_of_look(path, error))

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
            if is_interrupt(error):
                raise
            # User code may raise anything, SystemExit too.
            self._problems.append(problem_of(path, error))
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
