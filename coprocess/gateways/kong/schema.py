"""A plugin's schema, as Kong checks it at start, and a configuration against it, with its defaults."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any

from coprocess.bounded import repr_of
from coprocess.gateways.kong.schema_attributes import attribute_problems

TYPES = ("string", "integer", "number", "boolean", "array", "set", "map", "record", "json", "foreign")
#: What a field may say of itself. Kong refuses to start on any other.
ATTRIBUTES = frozenset(
    {
        *("type", "required", "default", "description", "examples", "unique", "auto", "indexed", "nilable"),
        *("abstract", "reference", "on_delete", "eq", "ne", "gt", "between", "len_eq", "len_min", "len_max"),
        *("match", "match_none", "match_all", "match_any", "not_match", "one_of", "not_one_of", "contains"),
        *("is_regex", "starts_with", "uuid", "timestamp", "timezone", "elements", "keys", "values"),
        *(
            "fields",
            "entity_checks",
            "shorthands",
            "shorthand_fields",
            "unique_across_ws",
            "generate_admin_api",
        ),
        *("referenceable", "encrypted", "immutable", "err"),
        *("custom_validator", "mutually_exclusive_subsets", "deprecation", "json_schema", "transformations"),
        *("legacy", "transient", "endpoint_key", "dict_key", "prefix_ws", "hostname", "computed"),
    }
)


def schema_problems(fields: Any, place: str = "Schema") -> Iterator[str]:
    """What Kong does not start with, of a list of one-key maps."""
    if isinstance(fields, dict) and not fields:
        # An empty list and an empty object are one to Lua.
        return
    if not isinstance(fields, (list, tuple)):
        yield f"{place}: expected a list of fields, got {_kind(fields)}"
        return
    seen: set[str] = set()
    for index, entry in enumerate(fields):
        if not isinstance(entry, dict) or len(entry) != 1:
            yield f"{place}[{index}]: expected a map with one field, got {repr_of(entry, 60)}"
            continue
        name, definition = next(iter(entry.items()))
        if not isinstance(name, str):
            yield f"{place}[{index}]: expected a name, got {repr_of(name, 60)}"
            continue
        if name in seen:
            yield f"{place}.{name}: there are two fields of this name"
        seen.add(name)
        yield from _field_problems(definition, f"{place}.{name}")


def _field_problems(definition: Any, place: str) -> Iterator[str]:
    if not isinstance(definition, dict):
        yield f"{place}: expected a map with a type, got {_kind(definition)}"
        return
    for attribute in definition:
        if attribute not in ATTRIBUTES:
            yield f"{place}: unknown attribute {attribute!r}"
    kind = definition.get("type")
    if kind is None:
        yield f"{place}: has no type"
        return
    if kind not in TYPES:
        yield f"{place}: unknown type {kind!r}. Expected one of: {', '.join(TYPES)}"
        return
    yield from (f"{place}: {problem}" for problem in attribute_problems(definition, kind))
    for needed, of in (("elements", ("array", "set")), ("keys", ("map",)), ("values", ("map",))):
        if kind not in of:
            continue
        if needed in definition:
            yield from _field_problems(definition[needed], f"{place}.{needed}")
        else:
            yield f"{place}: a field of type {kind} needs {needed!r}"
    if kind == "record":
        if "fields" in definition:
            yield from schema_problems(definition["fields"], place)
        else:
            yield f"{place}: a field of type record needs 'fields'"
    if definition.get("default") is not None and not list(_type_problems(definition, definition["default"])):
        return
    if definition.get("default") is not None:
        yield f"{place}: the default {repr_of(definition['default'], 60)} is no {kind}"


def configured(fields: Any, config: Any) -> tuple[dict[str, Any], list[str]]:
    """The configuration that a plugin gets, with all defaults; and what Kong refuses of it.

    A field without value and default is left out, as Kong does.
    """
    if config is None:
        config = {}
    if not isinstance(config, dict):
        return {}, [f"config: expected a record, got {_kind(config)}"]
    filled = _filled(fields, config)
    return filled, list(_record_problems(fields, filled, "config"))


def as_text(problems: Iterable[str]) -> str:
    """What `configured` told, each with its field at the end.

    What stands behind `secret: ` is redacted, and of an error that would be a word of its text.
    """
    parts = (problem.partition(": ") for problem in problems)
    return "; ".join(f"{what}, at {place}" for place, _, what in parts)


def _entries(fields: Any) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(fields, (list, tuple)):
        return []
    return [
        (name, definition)
        for entry in fields
        if isinstance(entry, dict)
        for name, definition in entry.items()
        if isinstance(definition, dict)
    ]


def _filled(fields: Any, values: dict[str, Any]) -> dict[str, Any]:
    filled = {name: value for name, value in values.items() if value is not None}
    for name, definition in _entries(fields):
        if name not in filled:
            if definition.get("default") is not None:
                filled[name] = copy.deepcopy(definition["default"])
            elif definition.get("type") == "record":
                inner = _filled(definition.get("fields"), {})
                if inner or definition.get("required"):
                    filled[name] = inner
        elif definition.get("type") == "record" and isinstance(filled[name], dict):
            filled[name] = _filled(definition.get("fields"), filled[name])
        if name in filled:
            filled[name] = _coerced(definition, filled[name])
    return filled


def _coerced(definition: dict[str, Any], value: Any) -> Any:
    if definition.get("type") == "set" and isinstance(value, (list, tuple)):
        unique: list[Any] = []
        for item in value:
            if item not in unique:
                unique.append(item)
        return unique
    return list(value) if isinstance(value, tuple) else value


def _record_problems(fields: Any, values: dict[str, Any], place: str) -> Iterator[str]:
    known = dict(_entries(fields))
    for name in values:
        if name not in known:
            yield f"{place}.{name}: unknown field"
    for name, definition in known.items():
        value = values.get(name)
        if value is None:
            if definition.get("required"):
                yield f"{place}.{name}: required field missing"
            continue
        yield from (f"{place}.{name}{problem}" for problem in _value_problems(definition, value))


def _value_problems(definition: dict[str, Any], value: Any) -> Iterator[str]:
    wrong = list(_type_problems(definition, value))
    yield from wrong
    if wrong:
        return
    for text in _limits(definition, value):
        yield f": {definition['err']}" if isinstance(definition.get("err"), str) else f": {text}"


def _type_problems(definition: dict[str, Any], value: Any) -> Iterator[str]:
    kind = definition.get("type")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        "string": isinstance(value, str),
        "integer": is_number and (isinstance(value, int) or value.is_integer()),
        "number": is_number,
        "boolean": isinstance(value, bool),
        "array": isinstance(value, (list, tuple)),
        "set": isinstance(value, (list, tuple)),
        "map": isinstance(value, dict) or value == [],
        "record": isinstance(value, dict) or value == [],
    }
    if not fits.get(str(kind), True):
        yield f": expected {'an' if str(kind)[0] in 'aio' else 'a'} {kind}, got {_kind(value)}"
        return
    if kind in ("array", "set") and isinstance(definition.get("elements"), dict):
        for index, item in enumerate(value, 1):
            yield from (f"[{index}]{text}" for text in _value_problems(definition["elements"], item))
    elif kind == "map" and isinstance(value, dict):
        for key, item in value.items():
            for which, each in (("keys", key), ("values", item)):
                if isinstance(definition.get(which), dict):
                    yield from (f".{key}{text}" for text in _value_problems(definition[which], each))
    elif kind == "record" and isinstance(value, dict):
        filled = _filled(definition.get("fields"), value)
        yield from _record_problems(definition.get("fields"), filled, "")


def _limits(definition: dict[str, Any], value: Any) -> Iterator[str]:
    """What is of the right type, and still not allowed."""
    get = definition.get
    if (allowed := _listed(get("one_of"))) is not None and value not in allowed:
        yield f"expected one of: {', '.join(map(str, allowed))}"
    if value in (_listed(get("not_one_of")) or ()):
        yield f"must not be one of: {', '.join(map(str, definition['not_one_of']))}"
    if get("eq") is not None and value != definition["eq"]:
        yield f"value must be {definition['eq']}"
    if get("ne") is not None and value == definition["ne"]:
        yield f"value must not be {definition['ne']}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(get("gt"), (int, float)) and value <= definition["gt"]:
            yield f"value must be greater than {definition['gt']}"
        between = _listed(get("between"))
        if between and len(between) == 2 and not between[0] <= value <= between[1]:
            yield f"value should be between {between[0]} and {between[1]}"
    if isinstance(value, (str, list, tuple)):
        size = len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else len(value)
        # An empty text is none to Kong, unless the schema says otherwise.
        least = get("len_min", 1 if isinstance(value, str) and get("len_eq") is None else 0)
        if isinstance(least, int) and size < least:
            yield f"length must be at least {least}"
        if isinstance(get("len_max"), int) and size > definition["len_max"]:
            yield f"length must be at most {definition['len_max']}"
        if isinstance(get("len_eq"), int) and size != definition["len_eq"]:
            yield f"length must be {definition['len_eq']}"
    if isinstance(value, str):
        yield from _text_limits(definition, value)
    if (
        get("contains") is not None
        and isinstance(value, (list, tuple))
        and definition["contains"] not in value
    ):
        yield f"expected to contain: {definition['contains']}"


def _text_limits(definition: dict[str, Any], value: str) -> Iterator[str]:
    get = definition.get
    if isinstance(get("starts_with"), str) and not value.startswith(definition["starts_with"]):
        yield f"should start with: {definition['starts_with']}"
    if get("uuid"):
        import uuid

        try:
            uuid.UUID(value)
        except ValueError:
            yield "expected a valid UUID"
    if get("is_regex"):
        try:
            re.compile(value)
        except re.error:
            yield "not a valid regex"
    if isinstance(get("match"), str) and _matches(definition["match"], value) is False:
        yield f"invalid value. Expected: one that matches {definition['match']}"
    if isinstance(get("not_match"), str) and _matches(definition["not_match"], value):
        yield f"invalid value. Expected: one that does not match {definition['not_match']}"


_CLASSES = {"a": "A-Za-z", "d": "0-9", "l": "a-z", "u": "A-Z", "w": "A-Za-z0-9", "x": "A-Fa-f0-9"}
_CLASSES |= {"s": r"\s", "p": r"!-/:-@\[-`{-~", "c": r"\x00-\x1f\x7f"}


def _matches(pattern: str, value: str) -> bool | None:
    """Whether Lua's pattern is found in the text; None for a pattern that has no like in Python."""
    translated, index, within = "", 0, False
    while index < len(pattern):
        char = pattern[index]
        if char == "%" and index + 1 < len(pattern):
            index += 1
            following = pattern[index]
            if following in "bf0123456789":
                return None
            content = _CLASSES.get(following.lower())
            if content is None:
                translated += re.escape(following)
            elif following.isupper():
                if within:
                    return None
                translated += f"[^{content}]"
            else:
                translated += content if within else f"[{content}]"
        elif within:
            within = char != "]"
            translated += "\\[" if char == "[" else char
        elif char == "[":
            within = True
            translated += char
            if pattern[index + 1 : index + 2] == "^":
                translated, index = translated + "^", index + 1
        elif char == "-":
            translated += "*?"
        elif char in "{}|\\":
            translated += re.escape(char)
        elif char == "$" and index + 1 == len(pattern):
            translated += r"\Z"
        else:
            translated += char
        index += 1
    try:
        return re.search(translated, value, re.DOTALL) is not None
    except re.error:
        return None


def _listed(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, (list, tuple)) else None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    for kinds, name in ((str, "a string"), ((list, tuple), "a list"), (dict, "a map")):
        if isinstance(value, kinds):
            return name
    return f"a {type(value).__name__}"
