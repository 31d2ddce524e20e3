"""Reload: new handlers are loaded beside the old ones, checked, and take over at once, or not at all."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from coprocess.errors import CoprocessError
from coprocess.hooks import Hook, HookTable
from coprocess.loader import Loaded, Problem
from coprocess.scoped_imports import NAMESPACE
from coprocess.server.redaction import redact_text
from coprocess.server.service import Service

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


class Reloader:
    """Loads handlers into a service, the first time and again. Its methods are called by one thread.

    A reload fails where a file cannot be loaded that could be before; under `strict`, where any cannot.
    What was broken already keeps nobody from repairing another file.
    """

    def __init__(self, load: Callable[[], Loaded], service: Service, *, strict: bool) -> None:
        """`load` raises CoprocessError where nothing can be loaded at all."""
        self._load = load
        self._service = service
        self._strict = strict
        self._retired: list[_Retired] = []
        #: What serves.
        self.loaded = Loaded(HookTable())
        #: What was wrong when loading was last tried.
        self.problems: tuple[Problem, ...] = ()
        self.last: Outcome | None = None
        self.succeeded = 0
        self.failed = 0

    def first(self) -> bool:
        """Load and use what is good. False where something is wrong, and `strict` allows nothing wrong.

        Raises CoprocessError as `load` does.
        """
        loaded = self._load()
        self._tell(loaded)
        if self._strict and loaded.problems:
            _forget(loaded)
            return False
        self.loaded = loaded
        self._service.use(loaded.table)
        return True

    def reload(self, reason: str) -> Outcome:
        """Load again, and swap where nothing got worse."""
        try:
            loaded = self._load()
        except CoprocessError as error:
            return self._end(reason, (redact_text(str(error)),))
        except Exception as error:
            log.exception("loading failed")
            return self._end(reason, (f"internal error: {type(error).__name__}",))
        self._tell(loaded)
        known = () if self._strict else [problem.path for problem in self.loaded.problems]
        new = tuple(redact_text(str(each)) for each in loaded.problems if each.path not in known)
        if new:
            _forget(loaded)
            return self._end(reason, new)
        old, self.loaded = self.loaded, loaded
        self._service.use(loaded.table)
        self._retired.append(_Retired(old))
        return self._end(reason, ())

    def _tell(self, loaded: Loaded) -> None:
        self.problems = tuple(loaded.problems)
        for problem in loaded.problems:
            log.error("not loaded", problem=str(problem), traceback=problem.traceback or None)

    def _end(self, reason: str, errors: tuple[str, ...]) -> Outcome:
        outcome = Outcome(not errors, errors, len(self.loaded.table), reason, time.time())
        if errors:
            self.failed += 1
            log.error("reload failed; the handlers from before serve on", because=reason, errors=list(errors))
        else:
            self.succeeded += 1
            log.info("reloaded", because=reason, hooks=outcome.hooks)
        self.last = outcome
        return outcome

    def sweep(self) -> None:
        """Let go of old modules that no call uses any more. To be called now and then; mostly free."""
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

    @property
    def retired_count(self) -> int:
        """Old loads whose modules are still kept."""
        return len(self._retired)


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
    scopes = {".".join(name.split(".")[:2]) for name in before - set(sys.modules)}
    # getLogger(__name__) makes a logger for each load, and logging keeps them for ever.
    known = logging.root.manager.loggerDict
    gone = [name for name in list(known) if ".".join(name.split(".")[:2]) in scopes]
    loggers = [known.pop(name) for name in gone]
    parent = known.get(NAMESPACE)
    if isinstance(parent, logging.PlaceHolder):
        for logger in loggers:
            if isinstance(logger, logging.Logger):
                parent.loggerMap.pop(logger, None)


class FileWatch:
    """Calls back, from a thread of its own, when files in `folders` have changed and come to rest."""

    def __init__(self, folders: list[Path], on_change: Callable[[], None]) -> None:
        self._folders = folders
        self._on_change = on_change
        self._stop = threading.Event()
        self._watching = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="file-watch", daemon=True)

    def start(self) -> None:
        """Returns when no change is missed any more."""
        self._thread.start()
        self._watching.wait(_START_TIMEOUT_S)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _watch(self) -> None:
        # Not loaded where nobody watches.
        from watchfiles import Change, DefaultFilter, watch

        ignored = DefaultFilter()

        def matters(change: Change, path: str) -> bool:
            # What is no code may be data that handlers write. Without a suffix: mostly folders.
            return ignored(change, path) and Path(path).suffix in ("", ".py", ".json", ".so")

        for changes in watch(
            *self._folders,
            watch_filter=matters,
            stop_event=self._stop,
            debounce=_DEBOUNCE_MS,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            if changes:
                self._on_change()
            self._watching.set()


_DEBOUNCE_MS = 400
_TICK_MS = 100
_START_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 1.0
