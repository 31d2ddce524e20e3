"""Two versions of the handlers side by side: a route sends a share of the calls to another version.

The hooks of one request are calls of their own, and nothing that the gateway sends joins them. So the
version is chosen by what all of them carry: a header that names the caller, such as Authorization. Its
hash is a point between 0 and 1; the callers below the route's weight are the route's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from coprocess.api.app import App
from coprocess.loading.hooks import NO_HEADERS, Hook, HookTable

#: The first of these that a request has is its key. The last ones may change from request to request of
#: one caller, but not from hook to hook of one request.
DEFAULT_KEY_HEADERS = ("Authorization", "X-Api-Key", "Cookie", "X-Request-Id")


@dataclass(frozen=True, slots=True)
class Route:
    """What an operator wants: so many percent of the calls go to the handlers in these folders."""

    #: Also the name of the version.
    name: str
    folders: tuple[Path, ...]
    weight_percent: float
    #: API ids; None: every API.
    apis: frozenset[str] | None = None
    #: In their canonical spelling.
    key_headers: tuple[str, ...] = DEFAULT_KEY_HEADERS

    def takes(self, api_id: str | None) -> bool:
        """Whether calls of that API are among those it has a share of. None: an API that no route names."""
        return self.apis is None or api_id in self.apis

    def point(self, headers: Mapping[str, str]) -> float:
        """Where a request is between 0 and 1: the same for the same key, and random without one.

        Each route has an order of its own, so that it is not always the same callers who try what is new.
        """
        for name in self.key_headers:
            if value := headers.get(name):
                # Not hash(): it differs between the worker processes.
                digest = blake2b(value.encode(errors="replace"), digest_size=8, key=self.name.encode())
                return (int.from_bytes(digest.digest()) >> 11) / _POINTS
        return random.random()  # noqa: S311 - no secret


#: As many as a float tells apart.
_POINTS = 2**53


def choose_route(routes: Iterable[Route], api_id: str, headers: Mapping[str, str]) -> Route | None:
    """The route whose version a call of that API goes to; None: the default version.

    Raising a route's weight takes no caller from it: each stays below the limit.
    """
    left_percent = 100.0
    for route in routes:
        if route.weight_percent > 0 and route.takes(api_id):
            # Its share of what the routes before it leave over.
            if route.point(headers) * left_percent < route.weight_percent:
                return route
            left_percent -= route.weight_percent
    return None


class RoutedTable(HookTable):
    """The default version's handlers, and those of routes.

    A call that goes to a route's version, and for which that has no handler, gets the default version's.
    """

    def __init__(self, default: Iterable[Hook], versions: Sequence[tuple[Route, HookTable]]) -> None:
        super().__init__(default)
        self._versions = tuple(versions)
        self.routes = tuple(route for route, _ in versions)
        self._tables = {route.name: table for route, table in versions}
        self._routed = frozenset(
            (hook.type, hook.name) for route, table in versions if route.weight_percent > 0 for hook in table
        )

    def __iter__(self) -> Iterator[Hook]:
        yield from super().__iter__()
        for table in self._tables.values():
            yield from table

    def __len__(self) -> int:
        return super().__len__() + sum(map(len, self._tables.values()))

    def find(self, hook_type: int, name: str) -> Hook | None:
        return None if (hook_type, name) in self._routed else super().find(hook_type, name)

    def choose(
        self,
        hook_type: int,
        name: str,
        api_id: str = "",
        bundle: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
        version: str | None = None,
    ) -> Hook:
        if version is None:
            route = choose_route(self.routes, api_id, headers)
            version = "" if route is None else route.name
        if (table := self._tables.get(version)) is not None:
            found = table.candidates(hook_type, name, api_id, bundle)
            if len(found) == 1:
                return found[0]
        return super().choose(hook_type, name, api_id, bundle)

    def renewed(self) -> RoutedTable:
        versions = [(route, table.renewed()) for route, table in self._versions]
        return RoutedTable((replace(hook) for hook in super().__iter__()), versions)

    def without(self, app: App) -> RoutedTable:
        versions = [(route, table.without(app)) for route, table in self._versions]
        return RoutedTable((hook for hook in super().__iter__() if hook.app is not app), versions)

    @property
    def has_shares(self) -> bool:
        """Whether any route gets calls."""
        return any(route.weight_percent > 0 for route in self.routes)

    def without_shares(self) -> RoutedTable:
        """The same handlers, with all calls going to the default version."""
        versions = [(replace(route, weight_percent=0), table) for route, table in self._versions]
        return RoutedTable(super().__iter__(), versions)
