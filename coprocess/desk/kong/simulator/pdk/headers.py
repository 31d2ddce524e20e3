"""Header names and values as the PDK takes them."""

from __future__ import annotations

from typing import Any

from coprocess.desk.kong.simulator.lua import LuaError, is_list, tostring, type_name

_EXPECTED = "expected array of string, string, number or boolean"


def header_name(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise LuaError(
            f"invalid header name {tostring(value).decode()!r}: got {type_name(value)}, expected string"
        )
    return value


def header_values(name: bytes, value: Any, *, one: bool = False) -> list[bytes]:
    """Of one header that is set; CR and LF in it are escaped, as nginx does. Raises LuaError."""
    shown = name.decode("utf-8", "replace")
    if isinstance(value, dict) and not one and is_list(value):
        values = []
        for index in range(1, len(value) + 1):
            if not isinstance(value[index], bytes):
                kind = type_name(value[index])
                raise LuaError(f'invalid header value in array "{shown}": got {kind}, expected string')
            values.append(value[index])
    elif isinstance(value, (bytes, int, float)):
        values = [tostring(value)]
    elif isinstance(value, dict) and not one:
        # A map that is no list: Kong finds nothing in it.
        return []
    else:
        raise LuaError(f'invalid header value for "{shown}": got {type_name(value)}, {_EXPECTED}')
    return [harmless(each) for each in values]


def header_table(value: Any) -> list[tuple[bytes, list[bytes]]]:
    if not isinstance(value, dict):
        raise LuaError("headers must be a table")
    return [(header_name(name), header_values(header_name(name), each)) for name, each in value.items()]


def harmless(value: bytes) -> bytes:
    return value.replace(b"\r", b"%0D").replace(b"\n", b"%0A")
