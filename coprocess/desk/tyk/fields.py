"""A JSON value that knows where it stands, so that every complaint names file and path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coprocess.errors import ConfigError

_KINDS: dict[type, str] = {str: "a string", bool: "true or false", int: "a whole number", list: "a list"}


class Field:
    """One value of a JSON document. Reading it as what it is not raises ConfigError."""

    __slots__ = ("path", "source", "value")

    def __init__(self, value: Any, source: str, path: str = "") -> None:
        self.value = value
        self.source = source
        self.path = path

    def error(self, text: str) -> ConfigError:
        return ConfigError(f"{self.source}: {self.path or 'the document'}: {text}")

    def __bool__(self) -> bool:
        """Whether it is there; `null` is not."""
        return self.value is not None

    def __getitem__(self, key: str) -> Field:
        """A member of an object; of what is not there, one that is not there either."""
        path = f"{self.path}.{key}" if self.path else key
        if self.value is None:
            return Field(None, self.source, path)
        if not isinstance(self.value, dict):
            raise self.error(f"must be an object, is {self.value!r:.60}")
        return Field(self.value.get(key), self.source, path)

    def __iter__(self) -> Iterator[Field]:
        if self.value is None:
            return
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, is {self.value!r:.60}")
        for index, item in enumerate(self.value):
            yield Field(item, self.source, f"{self.path}[{index}]")

    def members(self) -> dict[str, Field]:
        """The members of an object; none where it is not there."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.error(f"must be an object, is {self.value!r:.60}")
        return {str(key): self[str(key)] for key in self.value}

    def absent_if(self, is_absent: bool) -> Field:
        """This one, or one at the same place that is not there."""
        return Field(None, self.source, self.path) if is_absent else self

    def _as(self, kind: type) -> Any:
        # JSON's true is an int in Python, and must not pass as a number.
        if not isinstance(self.value, kind) or (kind is int and isinstance(self.value, bool)):
            raise self.error(f"must be {_KINDS[kind]}, is {self.value!r:.60}")
        return self.value

    def text(self, default: str = "") -> str:
        return default if self.value is None else str(self._as(str))

    def flag(self, default: bool = False) -> bool:
        return default if self.value is None else bool(self._as(bool))

    def number(self, default: int = 0) -> int:
        return default if self.value is None else int(self._as(int))

    def required(self) -> str:
        """A string that must be there and not be empty."""
        if not self.text():
            raise self.error("is required")
        return self.text()
