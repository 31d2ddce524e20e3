"""Values of the wrong type: an error that names what was set, the type that came, and what to write."""

from __future__ import annotations

from typing import Any

#: What makes one type of another, by what is expected and what came.
_CONVERSIONS = {
    ("text", "int"): "str(…)",
    ("text", "float"): "str(…)",
    ("text", "bool"): "str(…)",
    ("text", "bytes"): "….decode()",
    ("a str", "int"): "str(…)",
    ("a str", "float"): "str(…)",
    ("a str", "bool"): "str(…)",
    ("a str", "UUID"): "str(…)",
    ("a str", "bytes"): "….decode()",
    ("an int", "float"): "int(…)",
    ("an int", "str"): "int(…)",
    ("a number", "str"): "float(…)",
    ("bytes", "str"): "….encode()",
}


def wrong_type(what: str, expected: str, value: object) -> TypeError:
    """The error to raise. `what` names the key or field: the value itself may be a secret."""
    kind = type(value).__name__
    conversion = _CONVERSIONS.get((expected, kind))
    return TypeError(f"{what} is {expected}, not {kind}{f': write {conversion}' if conversion else ''}")


def expect_int(what: str, value: Any) -> int:
    """`value`, if it is an int. Raises TypeError."""
    if not isinstance(value, int):
        raise wrong_type(what, "an int", value)
    return value


def expect_rate(name: str, value: Any) -> float:
    """`value`, if it is a number that can limit something. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, "a number", value)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is a number from 0 on, not {value!r}")
    return float(value)


def expect_text(what: str, value: Any) -> str:
    """`value`, if it is a str. Raises TypeError."""
    if not isinstance(value, str):
        raise wrong_type(what, "a str", value)
    return value
