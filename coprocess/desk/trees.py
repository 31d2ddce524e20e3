"""Where two trees of plain values (maps, lists, leaves) are not the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from coprocess.bounded import repr_of

_LONGEST_SHOWN = 200


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


#: What stands for a value that is not there.
ABSENT: Any = _Absent()

#: Keys of maps as text, places in lists as numbers.
TreePath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is another. `before` or `after` is ABSENT where there is none."""

    path: TreePath
    before: Any
    after: Any

    def __str__(self) -> str:
        """For two trees of which the first is what was expected."""
        before, after = repr_of(self.before, _LONGEST_SHOWN), repr_of(self.after, _LONGEST_SHOWN)
        return f"{dotted(self.path) or 'value'}: expected {before}, got {after}"


#: Judges a pair of values by other rules than equality: its differences. None: by the usual ones.
Judge = Callable[[TreePath, Any, Any], Iterable[Difference] | None]


def differences(
    before: Any, after: Any, judge: Judge | None = None, path: TreePath = ()
) -> Iterator[Difference]:
    """By place, maps in the order of their keys. A list of another length differs as a whole.

    `judge` is asked for each pair first, also where one value is ABSENT.
    """
    judged = judge(path, before, after) if judge is not None else None
    if judged is not None:
        yield from judged
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys(), key=str):
            one, other = before.get(key, ABSENT), after.get(key, ABSENT)
            yield from differences(one, other, judge, (*path, str(key)))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, judge, (*path, index))
    else:
        yield from leaf(path, before, after)


def leaf(path: TreePath, before: Any, after: Any) -> Iterator[Difference]:
    """Of two values as wholes: 1, 1.0 and true are not the same."""
    if type(before) is not type(after) or before != after:
        yield Difference(path, before, after)


def dotted(path: TreePath) -> str:
    """`request.headers[0].key`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")
