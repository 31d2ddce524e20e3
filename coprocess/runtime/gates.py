"""The gates of a service's hooks, and what they have counted."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from coprocess.loading.hooks import Hook
from coprocess.runtime.hook_state import ApiLabels, CallLabel, HookCounts, HookState, add_up

if TYPE_CHECKING:
    from coprocess.runtime.call import Call
    from coprocess.runtime.service_options import ServiceOptions


class Gates(dict[Hook, "HookState[Call]"]):
    """By hook: each is made when it is first asked for."""

    def __init__(self, options: ServiceOptions, *, takes_turns: bool) -> None:
        """`takes_turns`: whether calls that compute do."""
        super().__init__()
        self._options = options
        self._takes_turns = takes_turns
        #: Counts of hooks that a reload has replaced.
        self._dropped: dict[CallLabel, HookCounts] = {}
        self._api_labels = ApiLabels()
        #: For what goes over all of them.
        self._lock = threading.Lock()

    def __missing__(self, hook: Hook) -> HookState[Call]:
        limits, options = hook.limits, self._options
        default = options.async_concurrency if hook.is_async else options.concurrency
        state: HookState[Call] = HookState(
            hook,
            self._api_labels,
            concurrency=limits.concurrency or default,
            queue_size=options.queue_size,
            timeout_s=limits.timeout_s or options.timeout_s,
            on_error=limits.on_error or "closed",
            takes_turns=self._takes_turns,
        )
        with self._lock:
            return self.setdefault(hook, state)

    @property
    def states(self) -> list[HookState[Call]]:
        with self._lock:
            return list(self.values())

    def drop_idle(self, serving: Collection[Hook]) -> None:
        """Let go of hooks that are not `serving`, but for those that have calls."""
        with self._lock:
            for hook in set(self).difference(serving):
                state = self[hook]
                if not state.has_calls:
                    del self[hook]
                    for label, counts in state.counted:
                        self._dropped.setdefault(label, HookCounts()).add(counts)

    def totals(self) -> dict[CallLabel, HookCounts]:
        """What was counted since the start, also for hooks that are gone."""
        with self._lock:
            states = self.values()
            return add_up([*self._dropped.items(), *(each for state in states for each in state.counted)])
