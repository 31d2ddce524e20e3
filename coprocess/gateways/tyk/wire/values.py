"""Two habits of protobuf's Python classes that handlers stumble over, mended for the messages of our pool.

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

from contextlib import suppress
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from coprocess.expected import wrong_type

_MISSING: Any = object()


def mend_text_maps(of: Any, pool: Any) -> None:
    """Mend the class of the text map `of`, for the maps whose messages `pool` describes."""
    text_map = type(of)
    if hasattr(text_map, "__coprocess_pools__"):
        text_map.__coprocess_pools__.append(pool)
        return
    pools = [pool]
    get, look, put, pop = text_map.__getitem__, text_map.get, text_map.__setitem__, text_map.pop

    def is_ours(container: Any) -> bool:
        return container.GetEntryClass().DESCRIPTOR.file.pool in pools

    def __getitem__(self: Any, key: Any) -> Any:
        value = look(self, key, _MISSING)  # One step where the key is there: this is asked for each header.
        if value is not _MISSING:
            return value
        return "" if is_ours(self) else get(self, key)

    def __setitem__(self: Any, key: Any, value: Any) -> None:
        try:
            put(self, key, value)
        except TypeError:
            if not is_ours(self):
                raise
            if not isinstance(key, str):
                raise wrong_type("a key", "a str", key) from None
            raise wrong_type(f"{key}: the value", "a str", value) from None

    def pop_(self: Any, key: Any, default: Any = _MISSING) -> Any:
        # protobuf's own asks for the key, and then deletes what that has added.
        if key in self or not is_ours(self):
            return pop(self, key) if default is _MISSING else pop(self, key, default)
        return "" if default is _MISSING else default

    # Some release may close its class: then it keeps its habits.
    with suppress(TypeError):
        text_map.__coprocess_pools__ = pools
        text_map.__getitem__, text_map.__setitem__, text_map.pop = __getitem__, __setitem__, pop_


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
