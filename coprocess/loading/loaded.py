"""What loading gives: hooks, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from coprocess.loading import handler_modules
from coprocess.loading.hooks import HookTable
from coprocess.loading.lifecycle import Lifecycle
from coprocess.loading.resources import ResourceError, Spawn
from coprocess.loading.scoped_imports import ImportScope


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
