"""Which hooks a reload would take away, and whether somebody wanted that or something went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from coprocess.loading.hooks import Hook
from coprocess.loading.loaded import Loaded

#: A path by its folder's place among those that are loaded, and by what comes below: the same file, also
#: where the folder is a link that was switched.
_Place = tuple[int, Path]


def removed_hooks(before: Loaded, after: Loaded) -> list[Hook]:
    """The hooks that `before` has, and `after` has not."""
    left = {_identity(hook) for hook in after.table}
    return [hook for hook in before.table if _identity(hook) not in left]


def lost_hooks(before: Loaded, after: Loaded) -> list[Hook]:
    """Those that nobody took away: the file that they were in is there, and something is wrong with it.

    A hook that is taken out of a file, or whose file is deleted, is not among them.
    """
    troubled = [_place(path, after) for problem in after.problems for path in (problem.path, *problem.also)]
    if not troubled:
        return []
    return [
        hook for hook in removed_hooks(before, after) if _is_hit(_place(hook.source.path, before), troubled)
    ]


def is_known(path: Path, now: Loaded, before: Loaded) -> bool:
    """Whether something was wrong already with the file at `path`, which was loaded `now`."""
    place = _place(path, now)
    if place is None:
        return path in [problem.path for problem in before.problems]
    return place in [_place(problem.path, before) for problem in before.problems]


def _identity(hook: Hook) -> tuple[object, ...]:
    return (hook.type, hook.name, hook.api_id, hook.bundle, hook.version)


def _place(path: Path, loaded: Loaded) -> _Place | None:
    """None where it is in no folder of handlers, as an installed library."""
    for number, root in enumerate(loaded.roots):
        if path.is_relative_to(root):
            return number, path.relative_to(root)
    return None


def _is_hit(place: _Place | None, troubled: Iterable[_Place | None]) -> bool:
    # A library's function is a hook by the module that imports it, and which one that was is not known.
    if place is None:
        return True
    return any(
        each is not None and each[0] == place[0] and place[1].is_relative_to(each[1]) for each in troubled
    )
