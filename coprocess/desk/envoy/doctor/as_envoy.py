"""A filter's configuration as Envoy takes it: it reads `"true"` as true, and `skip` or `2` as SKIP."""

from __future__ import annotations

from typing import Any

from coprocess.desk.envoy.simulator.filter_config import BODY_MODES

_TRUE = frozenset({"true", "t", "yes", "y", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "0"})
_FLAGS = frozenset(
    {
        *("failure_mode_allow", "disabled", "observability_mode", "allow_mode_override"),
        *("disable_immediate_response", "disable_clear_route_cache"),
        "send_body_without_waiting_for_header_response",
        *("encode_raw_headers", "clear_route_cache", "validate_mutations"),
        *("pack_as_bytes", "allow_partial_message", "disable_request_body_buffering"),
        *("disallow_all", "disallow_system", "disallow_is_error", "allow_all_routing", "allow_envoy"),
    }
)
_SENT = ("DEFAULT", "SEND", "SKIP")
_CHOICES = {
    **{f"{side}_{part}_mode": _SENT for side in ("request", "response") for part in ("header", "trailer")},
    **{f"{side}_body_mode": BODY_MODES for side in ("request", "response")},
    "route_cache_action": ("DEFAULT", "CLEAR", "RETAIN"),
    "transport_api_version": ("AUTO", "V2", "V3"),
    "denominator": ("HUNDRED", "TEN_THOUSAND", "MILLION"),
}
_NUMBERS = frozenset({"numerator", "max_request_bytes"})
_DURATIONS = frozenset({"message_timeout", "max_message_timeout", "timeout"})
#: What is in them is not the filter's.
_MAPS = frozenset({"context_extensions", "filter_metadata"})


def as_envoy(value: Any) -> Any:
    """`value`, with the forms of each that the rules look for."""
    if isinstance(value, dict):
        return {name: _field(name, item) for name, item in value.items()}
    return [as_envoy(item) for item in value] if isinstance(value, list) else value


def is_true(value: Any) -> bool:
    return flag(value) is True


def flag(value: Any) -> Any:
    """What is none stays as it is."""
    if isinstance(value, dict) and set(value) <= {"value"}:
        value = value.get("value", False)  # A BoolValue, written as a message.
    if isinstance(value, str):
        text = value.lower()
        return True if text in _TRUE else False if text in _FALSE else value
    return value


def _field(name: Any, value: Any) -> Any:
    if name in _FLAGS:
        return flag(value)
    if name in _CHOICES:
        return _choice(value, _CHOICES[name])
    if name in _NUMBERS:
        return int(value) if isinstance(value, str) and value.isdecimal() else value
    if name in _DURATIONS and isinstance(value, dict):
        return f"{_number(value.get('seconds')) + _number(value.get('nanos')) / 1e9:g}s"
    return value if name in _MAPS else as_envoy(value)


def _choice(value: Any, names: tuple[str, ...]) -> Any:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, int) and not isinstance(number, bool):
        return names[number] if 0 <= number < len(names) else value
    return value.upper() if isinstance(value, str) else value


def _number(value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return 0.0
