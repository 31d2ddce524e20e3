"""Values as Lua has them, and what becomes of them on the way between Kong and a plugin server.

Lua has one kind of number, one of string and one of table. Here a string is `bytes`, a number an `int` or,
where it is no whole number below 2^53, a `float`; a table is a `dict` without nil in it, a list in it has
the keys 1, 2, 3, …
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgpack

from coprocess.errors import CoprocessError

_EXACT = 2**53


class LuaError(CoprocessError):
    """What Lua code raises: Kong answers 500, or only logs it, by phase."""


class Binary(bytes):
    """A string that Kong sends as MessagePack's bin: bodies, and nothing else."""


class MultiMap(dict[Any, Any]):
    """A table that is sent as a map even when it is empty."""


class _JsonNull:
    def __repr__(self) -> str:
        return "null"


#: What JSON's null is in a Lua table: there, unlike nil.
JSON_NULL = _JsonNull()


def number(value: float) -> float:
    """A number as Lua's double, whole ones below 2^53 as `int`."""
    try:
        double = float(value)
    except OverflowError:
        double = math.inf if value > 0 else -math.inf
    return int(double) if double.is_integer() and abs(double) < _EXACT else double


def from_wire(value: Any) -> Any:
    """A decoded MessagePack value, as Lua gets it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (list, tuple)):
        return {index: from_wire(item) for index, item in enumerate(value, 1) if from_wire(item) is not None}
    if isinstance(value, dict):
        table = {}
        for key, item in value.items():
            name = from_wire(key)
            if name is None:
                raise LuaError("table index is nil")
            if (content := from_wire(item)) is not None:
                table[name] = content
        return table
    # Kong's unpacker knows no extension type: it gives nil.
    return None


def table(value: Any) -> Any:
    """A Python value (text as UTF-8) as Lua would have it; None in a dict or list is JSON's null."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    if isinstance(value, (list, tuple)):
        return {index: JSON_NULL if item is None else table(item) for index, item in enumerate(value, 1)}
    if isinstance(value, dict):
        return {table(key): JSON_NULL if item is None else table(item) for key, item in value.items()}
    return value


def python(value: Any) -> Any:
    """A Lua value as plain Python, for people to read: text, lists, dicts."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if value is JSON_NULL:
        return None
    if isinstance(value, dict):
        if value and is_list(value):
            return [python(value[index]) for index in range(1, len(value) + 1)]
        return {python(key): python(item) for key, item in value.items()}
    return value


def is_list(value: dict[Any, Any]) -> bool:
    """Whether the keys are 1 to n. An empty table is one."""
    return all(type(key) is int and 1 <= key <= len(value) for key in value)


def type_name(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, bytes):
        return "string"
    if isinstance(value, (int, float)):
        return "number"
    return "table" if isinstance(value, dict) else "userdata"


def tostring(value: Any) -> bytes:
    """As Lua prints it."""
    if value is None:
        return b"nil"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, bytes):
        return value
    if isinstance(value, (int, float)):
        return number_text(value, 14).encode()
    if isinstance(value, dict):
        return f"table: 0x{id(value):012x}".encode()
    return b"userdata: NULL"


def number_text(value: float, digits: int) -> str:
    """As C's `%.14g` writes it."""
    if math.isinf(value) or math.isnan(value):
        return str(value)
    return f"{float(value):.{digits}g}"


def to_wire(value: Any) -> Any:
    """A Lua value as Kong's MessagePack library sends it: what `wire.pack_as_kong` takes."""
    if value is None or value is JSON_NULL:
        return None
    if isinstance(value, Binary):
        return bytes(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        if is_list(value) and not isinstance(value, MultiMap):
            return [to_wire(value[index]) for index in range(1, len(value) + 1)]
        return {to_wire(key): to_wire(item) for key, item in value.items()}
    return value


class Reader:
    """Decodes what a plugin server sent, value by value.

    Strings are `str` with surrogates for bytes that are no UTF-8, bin is `bytes`: so they stay apart.
    """

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", strict_map_key=False, max_buffer_size=2**31 - 1
        )
        self.began = False

    def feed(self, data: bytes) -> None:
        self.began = True
        self._unpacker.feed(data)

    def next(self) -> Any:
        """The next value. Raises NeedMore where it is not complete, LuaError where it is none."""
        try:
            return self._unpacker.unpack()
        except msgpack.OutOfData:
            raise NeedMore from None
        except (msgpack.UnpackException, ValueError, TypeError, RecursionError) as error:
            raise LuaError(f"lualib/MessagePack.lua: {error or type(error).__name__}") from None


class NeedMore(Exception):
    """The value has not come as a whole."""


def decode(data: bytes) -> Any:
    """One MessagePack value, its strings as `Reader` has them. Raises LuaError, NeedMore."""
    reader = Reader()
    reader.feed(data)
    return reader.next()


# JSON, as Kong's cjson writes it.

_ESCAPES = {b'"': b'\\"', b"\\": b"\\\\", b"/": b"\\/", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n"}
_ESCAPES |= {b"\r": b"\\r", b"\t": b"\\t", b"\x7f": b"\\u007f"}
_TO_ESCAPE = re.compile(rb'["\\/\x00-\x1f\x7f]')


def encode_json(value: Any, depth: int = 0) -> bytes:
    """Raises LuaError for what JSON cannot hold. Key order is that of the table; Kong's is random."""
    if value is None or value is JSON_NULL:
        return b"null"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, bytes):
        return b'"' + _TO_ESCAPE.sub(_escaped, value) + b'"'
    if isinstance(value, (int, float)):
        if math.isinf(value) or math.isnan(value):
            raise LuaError("Cannot serialise number: must not be NaN or Infinity")
        return number_text(value, 16).encode()
    if depth >= 1000:
        raise LuaError("Cannot serialise, excessive depth")
    if value and all(type(key) is int and key > 0 for key in value):
        # Holes are kept, as null: but for the ones at the end, which no table has.
        items = (encode_json(value.get(index), depth + 1) for index in range(1, max(value) + 1))
        return b"[" + b",".join(items) + b"]"
    pairs = (
        encode_json(tostring(key), depth + 1) + b":" + encode_json(item, depth + 1)
        for key, item in value.items()
    )
    return b"{" + b",".join(pairs) + b"}"


def _escaped(found: re.Match[bytes]) -> bytes:
    return _ESCAPES.get(found[0], b"\\u%04x" % found[0][0])


def decode_json(text: bytes) -> Any:
    """A Lua value; bytes in it that are no UTF-8 stay as they are. Raises ValueError."""
    import json

    return table(json.loads(text.decode("utf-8", "surrogateescape")))
