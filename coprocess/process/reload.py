"""Reload: new handlers are loaded beside the old ones, checked, and take over at once, or not at all.

And the way back: the handlers from before the last reload are kept, and a rollback swaps to them.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import structlog

from coprocess.errors import CoprocessError
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.loaded import Loaded, Problem
from coprocess.loading.resources import Spawn
from coprocess.loading.routes import RoutedTable
from coprocess.loading.scoped_imports import NAMESPACE
from coprocess.process.least import Least
from coprocess.process.lost_hooks import is_known, lost_hooks, removed_hooks
from coprocess.process.open_loads import OpenLoads
from coprocess.process.redaction import redact_text
from coprocess.runtime.service import Service

log = structlog.get_logger("coprocess")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reload ended. Where it failed, the handlers are those from before."""

    succeeded: bool
    #: Why not; empty where it succeeded.
    errors: tuple[str, ...]
    hooks: int
    #: What asked for it, as `SIGHUP`.
    reason: str
    #: Unix time.
    at_s: float
    #: Hooks that served before and do no longer, as text.
    removed: tuple[str, ...] = ()
    #: Settings that were changed, and take effect at a restart only; and what else is to be told of them.
    warnings: tuple[str, ...] = ()


class RollbackTo(StrEnum):
    """What a rollback goes back to."""

    #: The same handlers, with all calls going to the default version.
    ROUTES_OFF = "routes-off"
    #: The handlers from before the last reload that succeeded.
    PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class Rollback:
    """How a rollback ended. `done` is None where there was nothing to go back to."""

    done: RollbackTo | None
    #: What was done, or why nothing was; for people.
    text: str


class Reloader:
    """Loads handlers into a service, the first time and again. Its methods are called by one thread.

    A reload fails where a file cannot be loaded that could be before, and where hooks that serve would be
    gone as something is wrong with their file; under `strict`, where any cannot be loaded. What was broken
    already keeps nobody from repairing another file.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        service: Service,
        *,
        strict: bool,
        least: Least | None = None,
        warn: Callable[[], Iterable[str]] = tuple,
        resource_timeout_s: float = 30.0,
        spawn: Spawn | None = None,
    ) -> None:
        """`load` raises CoprocessError where nothing can be loaded at all.

        `least` is what the first load must give. `warn` gives what is to be told with each reload; `spawn`
        starts coroutines on the handlers' loop, where that is not the service's.
        """
        self._load = load
        self._service = service
        self._strict = strict
        self._least = least
        self._warn = warn
        self._open_loads = OpenLoads(service, resource_timeout_s, spawn)
        self._retired: list[_Retired] = []
        #: What served before the last reload; None: no hook did, or a rollback went back to it.
        self._previous: Loaded | None = None
        #: What serves.
        self.loaded = Loaded(HookTable())
        #: What a rollback went back to, until the next reload that succeeds.
        self.rolled_back: RollbackTo | None = None
        self.rollbacks = dict.fromkeys(RollbackTo, 0)
        #: What was wrong when loading was last tried.
        self.problems: tuple[Problem, ...] = ()
        self.last: Outcome | None = None
        self.succeeded = 0
        self.failed = 0

    def first(self) -> bool:
        """Load and use what is good. False where something is wrong, and `strict` allows nothing wrong, or
        less than the least is left.

        Raises CoprocessError as `load` does.
        """
        loaded = self._load()
        self._open_loads.open(loaded)
        self._tell(loaded)
        is_enough = self._least is None or self._least.allows(loaded)
        if (self._strict and loaded.problems) or not is_enough:
            self._open_loads.close(loaded)
            _forget(loaded)
            return False
        self._swap(loaded)
        return True

    def reload(self, reason: str, *, force: bool = False) -> Outcome:
        """Load again, and swap where nothing got worse; with `force`, also where something did."""
        try:
            loaded = self._load()
        except CoprocessError as error:
            return self._end(reason, (redact_text(str(error)),))
        except Exception as error:
            log.exception("loading failed")
            return self._end(reason, (f"internal error: {type(error).__name__}",))
        self._open_loads.open(loaded)
        self._tell(loaded)
        errors = () if force else tuple(map(redact_text, self._got_worse(loaded)))
        if errors:
            self._open_loads.close(loaded)
            _forget(loaded)
            return self._end(reason, errors)
        removed = tuple(str(hook) for hook in removed_hooks(self.loaded, loaded))
        self._retire(self._previous)
        # Where no hook served there was nothing that one could want back.
        left, had_hooks = self.loaded, len(self.loaded.table) > 0
        self._swap(loaded)
        renewed = self._open_loads.leave(left)
        self._previous = renewed if had_hooks else None
        if not had_hooks:
            self._retire(renewed)
        self.rolled_back = None
        return self._end(reason, (), removed)

    def _got_worse(self, loaded: Loaded) -> Iterator[str]:
        """Why `loaded` should not take over."""
        lost = lost_hooks(self.loaded, loaded)
        troubled = {hook.source.path for hook in lost}
        for problem in loaded.problems:
            # Of a file that was broken already: where that is why a hook would be gone.
            is_why = problem.path in troubled or not troubled.isdisjoint(problem.also)
            if self._strict or is_why or not is_known(problem.path, loaded, self.loaded):
                yield str(problem)
        for hook in lost:
            yield f"the hook {hook} serves, and would be gone"
        if len(self.loaded.table) and not len(loaded.table):
            yield "no hook would be left"

    def roll_back(self, to: RollbackTo | None = None) -> Rollback:
        """Take the routes' shares from them; where they have none, go back to the handlers from before.

        Afterwards no route has a share, also none that had one before. It holds until a reload succeeds.
        """
        table, previous = self.loaded.table, self._previous
        if to is not RollbackTo.PREVIOUS and isinstance(table, RoutedTable) and table.has_shares:
            self.loaded = replace(self.loaded, table=table.without_shares())
            self._service.use(self.loaded.table)
            names = ", ".join(route.name for route in table.routes if route.weight_percent > 0)
            return self._rolled_back(
                RollbackTo.ROUTES_OFF, f"all calls go to the default version; switched off: {names}"
            )
        if to is RollbackTo.ROUTES_OFF:
            return Rollback(None, "nothing to roll back to: no route has a share of the calls")
        if previous is None:
            return Rollback(
                None,
                "nothing to roll back to: no route has a share of the calls, and there are no handlers from "
                "before a reload",
            )
        if isinstance(previous.table, RoutedTable):
            previous = replace(previous, table=previous.table.without_shares())
        known = len(previous.problems)
        self._open_loads.open(previous)
        if len(previous.problems) > known:
            errors = "; ".join(map(str, previous.problems[known:]))
            del previous.problems[known:]
            self._open_loads.close(previous)
            return Rollback(None, f"not rolled back: {redact_text(errors)}")
        left, self._previous = self.loaded, None
        self._swap(previous)
        self._retire(self._open_loads.leave(left))
        self.problems = tuple(previous.problems)
        return self._rolled_back(
            RollbackTo.PREVIOUS,
            f"the {len(previous.table)} hooks from before the last reload serve again",
        )

    def _rolled_back(self, to: RollbackTo, text: str) -> Rollback:
        self.rolled_back = to
        self.rollbacks[to] += 1
        log.warning("rolled back", to=to.value, hooks=len(self.loaded.table), result=text)
        return Rollback(to, text)

    def _swap(self, loaded: Loaded) -> None:
        self.loaded = loaded
        loaded.serve()
        self._service.use(loaded.table)

    def _retire(self, loaded: Loaded | None) -> None:
        if loaded is not None:
            self._retired.append(_Retired(loaded))

    def _tell(self, loaded: Loaded) -> None:
        self.problems = tuple(loaded.problems)
        for problem in loaded.problems:
            log.error("not loaded", problem=str(problem), traceback=problem.traceback or None)
        for text in loaded.left_out:
            log.warning("left out", file=text)
        for note in loaded.notes:
            log.warning("handler code changes the process", note=note)

    def _end(self, reason: str, errors: tuple[str, ...], removed: tuple[str, ...] = ()) -> Outcome:
        warnings = tuple(self._warn())
        hooks = len(self.loaded.table)
        outcome = Outcome(not errors, errors, hooks, reason, time.time(), removed, warnings)
        if errors:
            self.failed += 1
            log.error("reload failed; the handlers from before serve on", because=reason, errors=list(errors))
        else:
            self.succeeded += 1
            log.info("reloaded", because=reason, hooks=outcome.hooks, **shares(self.loaded.table))
            if removed:
                log.warning("hooks are gone", because=reason, hooks=list(removed))
        for warning in warnings:
            log.warning(warning)
        self.last = outcome
        return outcome

    def sweep(self) -> None:
        """Let go of old modules that no call uses any more. To be called now and then; mostly free."""
        self._open_loads.sweep()
        if not self._retired:
            return
        self._service.drop_idle_states()
        unused = [retired for retired in self._retired if retired.is_unused()]
        for retired in unused:
            self._retired.remove(retired)
            retired.forget()
        if unused:
            # Modules are cycles of references. The collector would find them too, at some time.
            gc.collect()

    def close(self) -> None:
        """Close the resources that are open, when no call runs any more."""
        self._open_loads.close_all(self.loaded)


def shares(table: HookTable) -> dict[str, dict[str, float]]:
    """The weights of the routes by name, for the log; empty where there are none."""
    if not isinstance(table, RoutedTable):
        return {}
    return {"routes": {route.name: route.weight_percent for route in table.routes}}


class _Retired:
    """The modules of an old table. Calls may still run on it, and need the modules by name, as for pickling.

    What a call holds is its hook: when the hooks are gone, so are the calls.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._hooks: list[weakref.ref[Hook]] = [weakref.ref(hook) for hook in loaded.table]
        loaded.table = HookTable()
        self._loaded = loaded

    def is_unused(self) -> bool:
        return all(hook() is None for hook in self._hooks)

    def forget(self) -> None:
        _forget(self._loaded)


def _forget(loaded: Loaded) -> None:
    before = set(sys.modules)
    loaded.forget()
    # Packages that no other load has.
    scopes = {name for name in before - set(sys.modules) if name.count(".") == 1}
    # getLogger(__name__) makes a logger for each module, and logging keeps them for ever.
    known = logging.root.manager.loggerDict
    gone = [name for name in list(known) if ".".join(name.split(".")[:2]) in scopes]
    loggers = [known.pop(name) for name in gone]
    parent = known.get(NAMESPACE)
    if isinstance(parent, logging.PlaceHolder):
        for logger in loggers:
            if isinstance(logger, logging.Logger):
                parent.loggerMap.pop(logger, None)
