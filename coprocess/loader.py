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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from coprocess.decorators import MARK, Declaration, collecting
from coprocess.errors import HandlerError, LoadError
from coprocess.hooks import Hook, HookTable
from coprocess.scoped_imports import ImportScope

MANIFEST = "manifest.json"
VENDOR = "vendor"

_generation = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something was not loaded."""

    path: Path
    text: str
    #: Of the handler code, where that raised; else empty.
    traceback: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Loaded:
    """What loading gave. `table` holds what is good; `problems` tells of the rest."""

    table: HookTable
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    _scopes: list[ImportScope] = field(default_factory=list)

    def forget(self) -> None:
        """Let go of the modules, when another table has taken over."""
        for scope in self._scopes:
            scope.forget()


def load(folders: Iterable[Path], aliases: Mapping[str, ModuleType]) -> Loaded:
    """Load all handlers in `folders`. `aliases` are modules that handler code may import by those names.

    Raises LoadError where a folder does not exist; everything else is a problem of the result.
    """
    loading = _Loading(next(_generation), aliases)
    for folder in dict.fromkeys(path.resolve() for path in folders):
        if not folder.is_dir():
            raise LoadError(f"{folder}: no such folder. Expected: a folder with handler modules")
        loading.folder(folder)
    return loading.result()


class _Loading:
    def __init__(self, generation: int, aliases: Mapping[str, ModuleType]) -> None:
        self._generation = generation
        self._aliases = aliases
        self._hooks: list[Hook] = []
        self._problems: list[Problem] = []
        self._files: list[Path] = []
        self._scopes: list[ImportScope] = []

    def folder(self, folder: Path) -> None:
        if (folder / MANIFEST).is_file():
            self._modules(folder, bundle_names(folder.name))
            return
        self._modules(folder, frozenset())
        for bundle in sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")):
            self._modules(bundle, bundle_names(bundle.name))

    def _modules(self, folder: Path, bundle: frozenset[str]) -> None:
        name = re.sub(r"\W", "_", folder.name) or "root"
        scope = ImportScope(
            f"g{self._generation}_{len(self._scopes)}_{name}", [folder, folder / VENDOR], self._aliases
        )
        self._scopes.append(scope)
        declarations: dict[int, Declaration] = {}
        for path in module_paths(folder):
            self._files.append(path)
            with collecting() as collected:
                try:
                    scope.load(path.stem if path.suffix == ".py" else path.name)
                except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - user code; it is kept
                    self._problems.append(_problem_of(path, error))
                    continue
            for declaration in [*collected, *_marked(scope.modules())]:
                declarations.setdefault(id(declaration), declaration)
        for declaration in declarations.values():
            try:
                self._hooks.extend(declaration.hooks(bundle))
            except HandlerError as error:
                self._problems.append(Problem(declaration.source.path, str(error)))

    def result(self) -> Loaded:
        hooks = _same_only_once(self._hooks)
        while True:
            try:
                table = HookTable(hooks)
            except HandlerError as error:
                # Neither of two handlers of one name is the right one: guessing could let requests by.
                duplicate = str(error)
                refused = [hook for hook in hooks if duplicate.startswith(f"{hook.source}: ")]
                self._problems.append(Problem(refused[0].source.path, duplicate))
                first = refused[0]
                hooks = [hook for hook in hooks if not _is_rival(hook, first)]
            else:
                return Loaded(table, self._problems, self._files, self._scopes)


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
    """The modules (files) and packages (folders with `__init__.py`) that lie directly in `folder`."""
    modules = [path for path in folder.glob("*.py") if path.stem.isidentifier() and path.stem != "__init__"]
    packages = [path.parent for path in folder.glob("*/__init__.py") if path.parent.name.isidentifier()]
    packages = [path for path in packages if path.name != VENDOR and not (path / MANIFEST).is_file()]
    return sorted([*modules, *packages])


def bundle_names(folder_name: str) -> frozenset[str]:
    """What a gateway may call the bundle in a folder of that name: md5, as hex, of the bundle's name."""
    return frozenset(
        hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        for name in (folder_name, f"{folder_name}.zip")
    )


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
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    where = f"{path}:{line}" if line else f"{path}"
    return Problem(
        path,
        f"{where}: {type(error).__name__}: {error}",
        traceback="".join(traceback.format_exception(error)),
    )
