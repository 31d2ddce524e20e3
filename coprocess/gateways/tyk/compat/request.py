"""`tyk.request`: the request as handlers of the embedded driver know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.message import Message

from coprocess.expected import expect_text, wrong_type
from coprocess.gateways.tyk.request import spelling_in
from coprocess.gateways.tyk.wire import MiniRequestObject

__all__ = ["TykCoProcessRequest"]

_FIELDS = frozenset(field.name for field in MiniRequestObject.DESCRIPTOR.fields)
#: To those that hold others, protobuf lets nobody assign.
_HOLDING = frozenset(
    name for name in _FIELDS if not isinstance(getattr(MiniRequestObject(), name), str | bytes | int)
)


class TykCoProcessRequest:
    """A wrapper of the message, which is its `object`. The message's fields are attributes here too."""

    # No __slots__: plugins leave attributes of their own on a request.

    object: MiniRequestObject

    def __init__(self, request: MiniRequestObject) -> None:
        object.__setattr__(self, "object", request)

    def __getattr__(self, name: str) -> Any:
        if name in _FIELDS:
            return getattr(self.object, name)
        raise AttributeError(f"the request has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOLDING:
            # Dicts and lists are what they were in the driver's first versions.
            if not isinstance(value, Mapping | list | tuple | Message):
                raise wrong_type(name, "a dict, a list or a message", value)
            given: dict[str, Any] = {name: value}
            made = MiniRequestObject(**given)
            self.object.ClearField(cast(Any, name))
            self.object.MergeFrom(made)
        elif name in _FIELDS:
            setattr(self.object, name, value)
        else:
            object.__setattr__(self, name, value)

    def get_header(self, key: str) -> str | None:
        """The header's first value; None where it is absent."""
        expect_text("the header's name", key)
        headers = self.object.headers
        spelling = spelling_in(headers, key)
        return None if spelling is None else headers.get(spelling)

    def add_header(self, key: str, value: str) -> None:
        """Set the header, in place of all its values."""
        if not isinstance(key, str):
            raise wrong_type("the header's name", "a str", key)
        if not isinstance(value, str):
            raise wrong_type(f"header {key}: the value", "a str", value)
        self.object.set_headers[key] = value

    def delete_header(self, key: str) -> None:
        self.object.delete_headers.append(expect_text("the header's name", key))

    def add_param(self, key: str, value: str) -> None:
        """Set the query parameter, in place of all its values."""
        if not isinstance(key, str):
            raise wrong_type("the query parameter's name", "a str", key)
        if not isinstance(value, str):
            raise wrong_type(f"query parameter {key}: the value", "a str", value)
        self.object.add_params[key] = value

    def delete_param(self, key: str) -> None:
        self.object.delete_params.append(expect_text("the query parameter's name", key))

    def __repr__(self) -> str:
        # Not the headers: plugins print their request, and credentials are among them.
        return f"<TykCoProcessRequest {self.object.method} {self.object.url}>"
