"""The resources of loads: opened before their handlers take over, closed after their last call."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

from coprocess.loading.hooks import Hook
from coprocess.loading.loaded import Loaded
from coprocess.loading.resources import Spawn
from coprocess.runtime.service import Service

#: A call has reached its gate by then.
_ON_THE_WAY_S = 1.0


class OpenLoads:
    """Opens and closes. Its methods are called by one thread."""

    def __init__(self, service: Service, timeout_s: float, spawn: Spawn | None = None) -> None:
        """`timeout_s`: for each resource, to open or to close. `spawn` None: on the service's loop."""
        self._spawn = spawn or service.async_calls.spawn
        self._service = service
        self._timeout_s = timeout_s
        self._leaving: list[_Leaving] = []

    def open(self, loaded: Loaded) -> None:
        """Open the resources of `loaded`. What does not open is among its problems then."""
        loaded.open(self._spawn, self._timeout_s)

    def close(self, loaded: Loaded) -> None:
        """Close those of a load that did not take over, or has no calls any more."""
        loaded.close(self._timeout_s)

    def leave(self, loaded: Loaded) -> Loaded:
        """Close them once the last call has ended, which `sweep` sees. Gives the load, to be opened again."""
        if not loaded.lifecycles:
            return loaded
        self._leaving.append(_Leaving(loaded))
        return loaded.renewed()

    def sweep(self) -> None:
        """To be called now and then."""
        if not self._leaving:
            return
        self._service.drop_idle_states()
        self._service.cancel_left_tasks()
        for leaving in [each for each in self._leaving if each.is_unused(self._service.has_calls)]:
            self._leaving.remove(leaving)
            leaving.close(self._timeout_s)

    def close_all(self, serving: Loaded) -> None:
        """Close all that is open: no call runs any more, or none is waited for."""
        for leaving in self._leaving:
            leaving.close(self._timeout_s)
        self._leaving.clear()
        serving.close(self._timeout_s)


class _Leaving:
    """The open resources of a load whose last calls may still run."""

    def __init__(self, loaded: Loaded) -> None:
        # What a call holds is its hook: when the hooks are gone, so are the calls.
        self._hooks: list[weakref.ref[Hook]] = [weakref.ref(hook) for hook in loaded.table]
        self._idle_since_s: float | None = None
        self.close = loaded.closing()

    def is_unused(self, has_calls: Callable[[Hook], bool]) -> bool:
        hooks = [hook for reference in self._hooks if (hook := reference()) is not None]
        if any(map(has_calls, hooks)):
            self._idle_since_s = None
            return False
        if not hooks:
            return True
        # Something of the handlers' own holds them, as a finished task does. Or a call is on its way from the
        # table to its gate, which takes microseconds.
        now_s = time.monotonic()
        if self._idle_since_s is None:
            self._idle_since_s = now_s
        return now_s - self._idle_since_s > _ON_THE_WAY_S
