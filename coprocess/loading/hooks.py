"""Hooks: the moments at which a gateway calls, the functions that run there, and the table of both."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from coprocess.api.app import App
from coprocess.api.declarations import Limits
from coprocess.api.functions import Source
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError, UnknownHook
from coprocess.text import printable

if TYPE_CHECKING:
    from coprocess.loading.lifecycle import Lifecycle


@dataclass(frozen=True, slots=True)
class Plan:
    """How a handler is called, worked out once when it is loaded.

    `arguments` gives the positional arguments for a call; `accept` takes what the handler returned,
    unless that is None, and raises HandlerFailed where it means nothing.
    """

    arguments: Callable[[Any], tuple[Any, ...]]
    accept: Callable[[Any, Any], None]
    #: What is called with the arguments, where that is not the handler itself.
    function: Callable[..., Any] | None = None
    #: The names that the handler asks for; empty where it is called by position.
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Hook:
    """A handler, ready to be called."""

    type: HookType
    name: str
    #: What its author wrote.
    handler: Callable[..., Any]
    #: What is called with the plan's arguments: the handler, or what was compiled around it.
    function: Callable[..., Any]
    plan: Plan
    is_async: bool
    #: `native`, or the name of the gateway driver whose conventions it follows.
    style: str
    source: Source
    #: The API that it is for; None: every API.
    api_id: str | None = None
    #: The bundle that it came in, by the names a gateway may know it by; empty: none.
    bundle: frozenset[str] = frozenset()
    #: Registered for every type; one that names its type goes first.
    any_type: bool = False
    #: Takes other arguments than handlers of its type do; one that takes those goes first.
    misfit: bool = False
    limits: Limits = field(default_factory=Limits)
    #: As its declaration has them.
    order: int = 0
    body: bool | None = None
    #: The version of the handlers that it belongs to: a route's name; empty: the default version.
    version: str = ""
    #: The App of its folder.
    app: App | None = None
    #: That App at work.
    lifecycle: Lifecycle | None = field(default=None, repr=False)
    #: Its calls leave something for the end of their request.
    is_of_request: bool = False

    def __str__(self) -> str:
        return printable(f'{self.type.name} "{self.name}" ({self.source})')


class DuplicateHandler(HandlerError):
    """Two handlers for one type, name, API and bundle. `hook` is the second."""

    def __init__(self, hook: Hook, first: Hook) -> None:
        where = "" if hook.api_id is None else f' for API "{hook.api_id}"'
        super().__init__(
            printable(
                f'{hook.source}: a second {hook.type.name} handler "{hook.name}"{where}; the first is at '
                f"{first.source}. Expected: one handler for each type and name"
            )
        )
        self.hook = hook


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class HookTable:
    """All handlers that are loaded. It never changes: a reload makes a new one.

    Raises DuplicateHandler where two are for the same calls.
    """

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        candidates: dict[tuple[int, str], list[Hook]] = {}
        for hook in hooks:
            candidates.setdefault((hook.type, hook.name), []).append(hook)
        self._only: dict[tuple[int, str], Hook] = {}
        self._several: dict[tuple[int, str], list[Hook]] = {}
        for key, found in candidates.items():
            typed = [hook for hook in found if not hook.any_type]
            found = typed or [hook for hook in found if not hook.misfit] or found
            _refuse_duplicates(found)
            if len(found) == 1 and found[0].api_id is None:
                self._only[key] = found[0]
            else:
                self._several[key] = found

    def __iter__(self) -> Iterator[Hook]:
        yield from self._only.values()
        for hooks in self._several.values():
            yield from hooks

    def __len__(self) -> int:
        return len(self._only) + sum(map(len, self._several.values()))

    def renewed(self) -> HookTable:
        """The same handlers as new hooks, so that the calls of these here can be told from theirs."""
        return HookTable(replace(hook) for hook in self)

    def without(self, app: App) -> HookTable:
        """The same, without the handlers of `app`."""
        return HookTable(hook for hook in self if hook.app is not app)

    def find(self, hook_type: int, name: str) -> Hook | None:
        """The handler of that type and name, where there is one for every API; else None: `choose`."""
        return self._only.get((hook_type, name))

    def choose(
        self,
        hook_type: int,
        name: str,
        api_id: str = "",
        bundle: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
        version: str | None = None,
    ) -> Hook:
        """The handler for a call. Raises UnknownHook, which names what is loaded instead.

        `api_id` and `bundle`, empty where there is none, choose between handlers of one name. The request's
        `headers`, or `version` where the caller knows it, choose between versions, where there are several.
        """
        rest = self.candidates(hook_type, name, api_id, bundle)
        if len(rest) == 1:
            return rest[0]
        raise UnknownHook(printable(self._explain(hook_type, name, api_id, rest)))

    def candidates(self, hook_type: int, name: str, api_id: str, bundle: str) -> list[Hook]:
        """The handlers that fit a call best. Several: they are of bundles, and none is the API's own."""
        if (only := self._only.get((hook_type, name))) is not None:
            return [only]
        found = self._several.get((hook_type, name), ())
        for_api = [hook for hook in found if hook.api_id == api_id]
        rest = for_api or [hook for hook in found if hook.api_id is None]
        exact = [hook for hook in rest if bundle in hook.bundle] or [hook for hook in rest if not hook.bundle]
        return exact or rest

    def _explain(self, hook_type: int, name: str, api_id: str, ambiguous: list[Hook]) -> str:
        kind = HookType(hook_type).name if hook_type in HookType.__members__.values() else f"type {hook_type}"
        asked = f'no {kind} hook "{name}" for API "{api_id}"'
        if ambiguous:
            places = ", ".join(str(hook.source) for hook in ambiguous)
            return f"{asked}: several bundles have one, and none is the API's own: {places}"
        loaded = sorted(self, key=lambda hook: _likeness(hook, hook_type, name), reverse=True)
        if not loaded:
            return f"{asked}: nothing is loaded"
        shown = ", ".join(_label(hook) for hook in loaded[:_SHOWN])
        more = f" and {len(loaded) - _SHOWN} more" if len(loaded) > _SHOWN else ""
        return f"{asked}; loaded, nearest first: {shown}{more}"


_SHOWN = 10


def _label(hook: Hook) -> str:
    label = f'{hook.type.name} "{hook.name}"'
    label = label if hook.api_id is None else f'{label} (API "{hook.api_id}" only)'
    return f'{label} (version "{hook.version}")' if hook.version else label


_SAME_TYPE_BONUS = 0.1


def _likeness(hook: Hook, hook_type: int, name: str) -> tuple[bool, float]:
    ratio = difflib.SequenceMatcher(None, hook.name.lower(), name.lower()).ratio()
    same_type = hook.type == hook_type
    # An event handler cannot be meant by a hook's call, nor the other way round.
    same_kind = same_type or HookType.Event not in (hook.type, hook_type)
    return (same_kind, ratio + (_SAME_TYPE_BONUS if same_type else 0.0))


def _refuse_duplicates(hooks: list[Hook]) -> None:
    seen: dict[tuple[str | None, frozenset[str]], Hook] = {}
    for hook in hooks:
        first = seen.setdefault((hook.api_id, hook.bundle), hook)
        if first is not hook:
            raise DuplicateHandler(hook, first)
