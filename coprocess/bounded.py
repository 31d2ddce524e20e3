"""Values and texts of others, cut before anything else is done with them: they cost no more than so much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, TypeVar

#: Characters of one text, or of one value with all that is in it.
LONGEST_VALUE = 16_384
_DEEPEST = 6
_MOST_ITEMS = 200
_MOST_BITS = 4096
# A word that begins so close before the cut goes with it: half a secret would not be known as one.
_LONGEST_WORD = 256


def cut(text: str, longest: int) -> str:
    """The first `longest` characters of `text`, with a note where there are more."""
    length = len(text)
    if length <= longest:
        return text
    # Of a class derived from str, too.
    kept = str.__getitem__(text, slice(0, longest))
    space = max(kept.rfind(" "), kept.rfind("\n"))
    if space > longest - _LONGEST_WORD:
        kept = kept[:space]
    return f"{kept}… ({length} characters)"


def cut_middle(text: str, longest: int) -> str:
    """As `cut`, for texts whose end says most."""
    if len(text) <= longest:
        return text
    head = longest // 4
    return f"{text[:head]}\n… ({len(text)} characters) …\n{text[head - longest :]}"


def bounded(value: Any, longest: int = LONGEST_VALUE) -> Any:
    """`value`, of the same form, with `longest` characters in it at most; other objects as their repr."""
    return _Copy(longest).of(value, 0)


def repr_of(value: object, longest: int) -> str:
    """`repr(value)`, cut. Large values of Python's own types are cut before."""
    shown = bounded(value, longest)
    is_shown = isinstance(shown, str) and not isinstance(value, str)
    return cut(shown if is_shown else _repr(shown), longest)


def form_of(value: object) -> str:
    """The kind of `value`, and its size, where it may be a secret: `a str of 12`."""
    kind = type(value).__name__[:100]
    if kind == "NoneType":
        return "None"
    size = f" of {len(value)}" if isinstance(value, str | bytes | bytearray | Mapping | list | tuple) else ""
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}{size}"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except BaseException as error:  # noqa: BLE001 - a repr of a handler's own may raise anything
        return f"<{type(value).__name__[:100]}, whose repr raised {type(error).__name__[:100]}>"


class _Copy:
    def __init__(self, longest: int) -> None:
        self._left = longest

    def of(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool | float):
            self._left -= 8
            return value
        if isinstance(value, int):
            self._left -= 8
            bits = value.bit_length()
            return value if bits <= _MOST_BITS else f"<int of {bits} bits>"
        if isinstance(value, bytes | bytearray):
            if len(value) <= self._left:
                return self._text(_repr(value))
            return self._text(f"{bytes(value[: max(self._left, 0)])!r}… ({len(value)} bytes)")
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            if depth >= _DEEPEST or self._left <= 0:
                return "…"
            try:
                return self._items(value, depth)
            except BaseException as error:  # noqa: BLE001 - a class of a handler's own may raise anything
                return f"<{type(value).__name__[:100]}, which raised {type(error).__name__[:100]}>"
        return self._text(_repr(value))

    def _text(self, text: str) -> str:
        text = cut(text, max(self._left, 1))
        self._left -= len(text)
        return text

    def _items(self, value: Any, depth: int) -> Any:
        kept: Any
        if isinstance(value, Mapping):
            kept = {}
            for key, item in islice(value.items(), _MOST_ITEMS):
                if self._left <= 0:
                    break
                shown = self.of(key, depth + 1)
                is_plain = shown is None or isinstance(shown, str | int | float)
                kept[shown if is_plain else _repr(shown)] = self.of(item, depth + 1)
            if len(kept) < len(value):
                kept["…"] = f"{len(value)} in all"
            return kept
        kept = []
        for item in islice(value, _MOST_ITEMS):
            if self._left <= 0:
                break
            kept.append(self.of(item, depth + 1))
        if len(kept) < len(value):
            kept.append(f"… {len(value)} in all")
        return (
            kept
            if isinstance(value, list)
            else tuple(kept)
            if isinstance(value, tuple)
            else _set_of(kept, value)
        )


def _set_of(kept: list[Any], value: Any) -> Any:
    """`kept` as the kind of set that `value` is; as a list where it holds what no set can."""
    try:
        return type(value)(kept)
    except TypeError:
        return kept


Name = TypeVar("Name", str, bytes)
Made = TypeVar("Made")

#: Of names that strangers choose: so many, and no longer, are kept.
MOST_NAMES, LONGEST_NAME = 4096, 64


class _ByName(dict[Any, Any]):
    """Its `__getitem__` is quicker than a function, and than `lru_cache`, which keeps long names, too."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: Any) -> Any:
        made = self._make(name)
        if len(name) <= LONGEST_NAME:
            if len(self) >= MOST_NAMES:
                self.clear()
            self[name] = made
        return made


def kept_by_name(make: Callable[[Name], Made]) -> Callable[[Name], Made]:
    """Decorates a function of a name: what it gives is kept, in bounded memory whatever names come."""
    found: Callable[[Name], Made] = _ByName(make).__getitem__
    return found
