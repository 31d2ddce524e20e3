"""Habits of protobuf's Python classes that handlers stumble over, mended for the messages of our pool.

A map adds each key that is asked for, with an empty value. So a handler that looks for a header would send
an empty one, and nothing tells that from `headers["X"] = ""`, which the gateway does send. Here, asking
gives the empty value and adds nothing.

A value of the wrong type is refused with "bad argument type for built-in operation". Here, the error names
the key, or the field, and the type.

Maps of text have one class in the whole process, which can have no subclass. So its methods are replaced,
and maps of other pools get what they got before. Maps of messages keep their habit: `map[key].field = …` is
how a message gets into one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from coprocess.expected import expect_text, wrong_type

_MISSING: Any = object()


def mend_text_maps(of: Any, pool: Any) -> None:
    """Mend the class of the text map `of`, for the maps whose messages `pool` describes."""
    text_map = type(of)
    if hasattr(text_map, "__coprocess_pools__"):
        text_map.__coprocess_pools__.append(pool)
        return
    pools = [pool]
    get, look, put, pop = text_map.__getitem__, text_map.get, text_map.__setitem__, text_map.pop
    delete, put_default = text_map.__delitem__, text_map.setdefault

    def is_ours(container: Any) -> bool:
        return container.GetEntryClass().DESCRIPTOR.file.pool in pools

    # `get` and `in` stay as they are: they are asked more often than all others together.
    def __getitem__(self: Any, key: Any) -> Any:
        try:
            # One step where the key is there: this is asked for each header.
            value = look(self, key, _MISSING)
        except TypeError:
            expect_text("a key", key)
            raise
        if value is not _MISSING:
            return value
        return "" if is_ours(self) else get(self, key)

    def naming(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, key: Any, *values: Any) -> Any:
            try:
                return method(self, key, *values)
            except TypeError:
                if not is_ours(self):
                    raise
                expect_text("a key", key)
                for value in values:
                    expect_text(f"{key}: the value", value)
                raise

        return call

    def pop_(self: Any, key: Any, default: Any = _MISSING) -> Any:
        # protobuf's own asks for the key, and then deletes what that has added.
        expect_text("a key", key)
        if key in self or not is_ours(self):
            return pop(self, key) if default is _MISSING else pop(self, key, default)
        return "" if default is _MISSING else default

    # Some release may close its class: then it keeps its habits.
    with suppress(TypeError):
        text_map.__coprocess_pools__ = pools
        text_map.__getitem__, text_map.__setitem__, text_map.pop = __getitem__, naming(put), pop_
        text_map.__delitem__, text_map.setdefault = naming(delete), naming(put_default)


def name_types_in_lists(of: Any) -> None:
    """Have the class of the list `of` name what it expects: one class for all lists in the process."""
    kind = type(of)
    if hasattr(kind, "__coprocess_names__"):
        return

    def naming(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, *arguments: Any) -> Any:
            try:
                return method(self, *arguments)
            except TypeError as error:
                if str(error) != _OF_TEXT:  # Lists of numbers say it themselves.
                    raise
                for value in arguments[-1] if isinstance(arguments[-1], list | tuple) else arguments[-1:]:
                    expect_text("a value of the list", value)
                raise

        return call

    with suppress(TypeError):
        kind.__coprocess_names__ = True
        for name in ("append", "extend", "insert", "__setitem__"):
            setattr(kind, name, naming(getattr(kind, name)))


_OF_TEXT = "bad argument type for built-in operation"


def name_fields_in_errors(message_class: Any) -> None:
    """Have the class name the field to which a wrong value is assigned."""
    fields = message_class.DESCRIPTOR.fields_by_name
    put = message_class.__setattr__

    def __setattr__(self: Any, name: str, value: Any) -> None:
        try:
            put(self, name, value)
        except TypeError:
            if name not in fields:
                raise
            raise wrong_type(name, _kind(fields[name]), value) from None
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise ValueError(f"{name}: {error}") from None

    with suppress(TypeError):
        message_class.__setattr__ = __setattr__


def _kind(field: FieldDescriptor) -> str:
    return (
        "bytes" if field.type == FieldDescriptor.TYPE_BYTES else _KINDS.get(field.cpp_type, "of another type")
    )


_KINDS = {
    FieldDescriptor.CPPTYPE_INT32: "an int",
    FieldDescriptor.CPPTYPE_INT64: "an int",
    FieldDescriptor.CPPTYPE_UINT32: "an int",
    FieldDescriptor.CPPTYPE_UINT64: "an int",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "a bool",
    FieldDescriptor.CPPTYPE_STRING: "a str",
}
