"""What the attributes of a schema's field may be, as Kong checks them at its start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from coprocess.bounded import repr_of

_NUMBERS: Final = frozenset(("integer", "number"))
_LISTS: Final = frozenset(("array", "set"))
_SINGLE: Final = _NUMBERS | {"string"}
_TEXT: Final = frozenset(("string",))

#: Attributes that only fields of these types may have.
_OF_TYPES: Final[Mapping[str, frozenset[str]]] = {
    "between": _NUMBERS,
    "timestamp": _NUMBERS,
    "one_of": _SINGLE,
    "unique": _SINGLE | {"foreign"},
    "unique_across_ws": _SINGLE | {"foreign"},
    "len_eq": _LISTS | {"string", "map"},
    "contains": _LISTS,
    "match": _TEXT,
    "is_regex": _TEXT,
    "uuid": _TEXT,
    "json_schema": frozenset(("json",)),
}


def attribute_problems(definition: dict[str, Any], kind: str) -> Iterator[str]:
    """Of a field of the type `kind`: what Kong does not start with, of the attributes' values."""
    for name, value in definition.items():
        if value is None:  # To Kong, as if it were not there.
            continue
        if name in _OF_TYPES and kind not in _OF_TYPES[name]:
            allowed = " or ".join(sorted(_OF_TYPES[name]))
            yield f"a field of type {kind} cannot have {name!r}. Expected: one of type {allowed}"
        elif name in _VALUES:
            expected, fits = _VALUES[name]
            if not fits(value):
                yield f"{name} is {repr_of(value, 60)}. Expected: {expected}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    # An empty object is an empty list to Lua.
    return isinstance(value, list | tuple) or value == {}


def _is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _is_list(value) and all(map(fits, value))


def _is_pattern(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"pattern", "err"}
        and "pattern" in value
        and all(map(_is_text, value.values()))
    )


def _has_patterns(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"patterns", "err"}
        and _is_list_of(_is_text)(value.get("patterns"))
        and _is_text(value.get("err", ""))
    )


_BOOLEAN: Final = ("true or false", lambda value: isinstance(value, bool))
_STRING: Final = ("text", _is_text)
_WHOLE: Final = ("a whole number", _is_whole)
_LIST: Final = ("a list", _is_list)
_PATTERNS: Final = ('a list of {"pattern": text, "err": text}', _is_list_of(_is_pattern))
#: What is said of each, and what it is asked.
_VALUES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    **dict.fromkeys(
        (
            *("required", "auto", "unique", "unique_across_ws", "abstract", "generate_admin_api"),
            *("immutable", "encrypted", "referenceable", "is_regex", "timestamp", "uuid"),
        ),
        _BOOLEAN,
    ),
    **dict.fromkeys(("reference", "description", "err", "match", "not_match", "starts_with"), _STRING),
    **dict.fromkeys(("len_eq", "len_min", "len_max"), _WHOLE),
    **dict.fromkeys(("one_of", "not_one_of", "examples"), _LIST),
    **dict.fromkeys(("match_all", "match_none"), _PATTERNS),
    "match_any": ('{"patterns": a list of text, "err": text}', _has_patterns),
    "gt": ("a number", _is_number),
    "between": ("two numbers", lambda value: _is_list_of(_is_number)(value) and len(value) == 2),
    "on_delete": ("restrict, cascade or null", ("restrict", "cascade", "null").__contains__),
    "mutually_exclusive_subsets": ("a list of lists of text", _is_list_of(_is_list_of(_is_text))),
    "custom_validator": ("none, as only Lua has functions", lambda value: False),
}
