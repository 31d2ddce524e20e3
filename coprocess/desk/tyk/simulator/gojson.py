"""JSON text as Go's `encoding/json` writes it: compact, keys sorted, HTML's characters escaped."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

_ESCAPED = re.compile("[<>&\u2028\u2029]")


def _string(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)


def _number(value: int | float) -> str:
    # Go reads every number of a map[string]interface{} as a float64.
    number = float(value)
    if number == 0:
        return "-0" if str(number).startswith("-") else "0"
    digits = Decimal(repr(number))
    if 1e-6 <= abs(number) < 1e21:
        text = format(digits, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = format(digits.normalize(), "e").partition("e")
    sign = "-" if int(exponent) < 0 else "+"
    return f"{mantissa}e{sign}{abs(int(exponent))}"


def go_json(value: Any) -> str:
    """`value`, as `json.load` gave it, in Go's spelling."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: str(key).encode("utf-8", "surrogatepass"))
        return "{" + ",".join(f"{_string(key)}:{go_json(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(go_json(item) for item in value) + "]"
    if isinstance(value, str):
        return _string(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _number(value)
