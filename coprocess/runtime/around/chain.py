"""Which handlers run at which moment of a request, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coprocess.api.moments import HookType
from coprocess.errors import ConfigError
from coprocess.loading.body_use import hook_uses_body
from coprocess.loading.chains import MOMENT_OF_KEY, REQUEST_MOMENTS, names_by_order, of_api
from coprocess.loading.hooks import Hook, HookTable

_EXPECTED = ", ".join((*MOMENT_OF_KEY, "events"))


@dataclass(frozen=True, slots=True)
class Step:
    """A handler in its place."""

    hook: Hook
    uses_body: bool


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """What runs for each request. Of a moment where nothing runs there is no entry in `before`."""

    before: tuple[tuple[HookType, tuple[Step, ...]], ...]
    after: tuple[Step, ...]
    #: All of `before`, in order, where there is nothing to do but to run them; else None.
    plain_before: tuple[Hook, ...] | None
    #: The `@Event` functions that hear of an event, by its type; None: all hear of all.
    events: Mapping[str, tuple[str, ...]] | None
    #: All `@Event` functions.
    listeners: tuple[str, ...]
    #: What answers where the app fails: each with what tells whether it does.
    for_app_errors: tuple[tuple[Callable[[BaseException], bool], Hook], ...]
    response_uses_body: bool
    #: Whether any of `after` may wait on the loop.
    waits_after: bool
    #: Whether any handler leaves something for the end of the request.
    has_end: bool
    #: The same, or something for where the app fails.
    is_tracked: bool
    #: Whether any has an App, whose resources must stay open until the request has ended.
    has_app: bool
    hooks: frozenset[Hook]
    #: The requests that run now, where `has_app`.
    requests: set[object] = field(default_factory=set)

    def listeners_of(self, event_type: str) -> tuple[str, ...]:
        return self.listeners if self.events is None else self.events.get(event_type, ())


def chain_of(table: HookTable, named: Mapping[str, Any] | None, api_id: str) -> Chain:
    """The chain that `named` describes, by names of handlers; all that is loaded where it is None.

    A moment that `named` does not have runs nothing. Raises ConfigError for a name that is not loaded.
    """
    hooks = of_api(table, api_id)
    listeners = tuple(names_by_order(hooks, HookType.Event))
    if named is None:
        chosen = {
            moment: [_chosen(hooks, moment, name) for name in names_by_order(hooks, moment)]
            for moment in HookType
        }
        events = None
    else:
        unknown = [key for key in named if key not in MOMENT_OF_KEY and key != "events"]
        if unknown:
            raise ConfigError(f"chain: {unknown[0]!r} is no moment. Expected: {_EXPECTED}")
        chosen = {
            moment: _named(hooks, moment, named.get(key, ()), key) for key, moment in MOMENT_OF_KEY.items()
        }
        events = _events(hooks, named.get("events"))
    before = tuple((moment, tuple(_step(hook) for hook in chosen[moment])) for moment in REQUEST_MOMENTS)
    after = tuple(_step(hook) for hook in chosen[HookType.Response])
    lifecycles = dict.fromkeys(hook.lifecycle for hook in hooks if hook.lifecycle is not None)
    for_app = [(each.handles, hook) for each in lifecycles if (hook := each.for_app()) is not None]
    running = [step.hook for _, steps in before for step in steps]
    running += [*(step.hook for step in after), *(hook for _, hook in for_app)]
    has_end = any(hook.is_of_request for hook in running)
    return Chain(
        before=tuple((moment, steps) for moment, steps in before if steps),
        after=after,
        plain_before=_plain(before),
        events=events,
        listeners=listeners,
        for_app_errors=tuple(for_app),
        response_uses_body=any(step.uses_body for step in after),
        waits_after=any(step.hook.is_async for step in after),
        has_end=has_end,
        is_tracked=has_end or bool(for_app),
        has_app=bool(lifecycles),
        hooks=frozenset(hooks),
    )


def _chosen(hooks: Sequence[Hook], moment: HookType, name: str) -> Hook:
    """Of several with one name, the one for this API goes before one for all."""
    matching = [hook for hook in hooks if hook.type is moment and hook.name == name]
    return max(matching, key=lambda hook: hook.api_id is not None)


def _plain(before: Iterable[tuple[HookType, tuple[Step, ...]]]) -> tuple[Hook, ...] | None:
    if any(steps for moment, steps in before if moment is HookType.CustomKeyCheck):
        return None  # It admits the caller, or nobody.
    found = [step for _, steps in before for step in steps]
    return None if any(step.uses_body for step in found) else tuple(step.hook for step in found)


def _named(hooks: Sequence[Hook], moment: HookType, names: Any, key: str) -> list[Hook]:
    found = []
    for name in _texts(names, f"chain[{key!r}]"):
        matching = [hook for hook in hooks if hook.type is moment and hook.name == name]
        if not matching:
            there = ", ".join(sorted({hook.name for hook in hooks if hook.type is moment})) or "none"
            raise ConfigError(
                f"chain[{key!r}]: no {moment.name} handler {name!r} is loaded; there are: {there}"
            )
        found.append(_chosen(hooks, moment, name))
    return found


def _events(hooks: Sequence[Hook], events: Any) -> dict[str, tuple[str, ...]] | None:
    if events is None:
        return None
    if not isinstance(events, Mapping):
        raise ConfigError(
            f'chain["events"]: {events!r}. Expected: a dict of event types and names of functions'
        )
    return {
        str(event_type): tuple(
            hook.name for hook in _named(hooks, HookType.Event, names, f"events.{event_type}")
        )
        for event_type, names in events.items()
    }


def _texts(names: Any, where: str) -> list[str]:
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: {names!r}. Expected: names of handlers")
    return list(names)


def _step(hook: Hook) -> Step:
    return Step(hook, hook_uses_body(hook))
