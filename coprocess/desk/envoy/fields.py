"""Envoy's configuration as plain values, read field by field: what nobody asks for is an error.

Names may be in snake_case or lowerCamelCase, as protobuf's JSON allows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from coprocess.errors import ConfigError
from coprocess.gateways.envoy import wire

_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s\Z")


def snake(name: str) -> str:
    """Only names of fields: keys of maps, which have points, stay as they are."""
    if not name.isidentifier():
        return name
    return _CAMEL.sub(lambda match: f"_{match[1].lower()}", name)


def list_of(value: Any) -> list[Any]:
    """`value`; empty where it is no list: whoever looks through a file takes what there is."""
    return value if isinstance(value, list) else []


def object_of(value: Any) -> dict[str, Any]:
    """The same of an object."""
    return value if isinstance(value, dict) else {}


class Fields:
    """One message of the configuration. `where` is its place, for errors, which are ConfigError."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, got {_kind(value)}")
        self.where = where
        self._values = {snake(str(name)): item for name, item in value.items()}
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def raw(self, name: str, default: Any = None) -> Any:
        self._asked.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def text(self, name: str, default: str = "") -> str:
        value = self.raw(name, default)
        if not isinstance(value, str):
            self._wrong(name, "text", value)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name, default)
        if not isinstance(value, bool):
            self._wrong(name, "true or false", value)
        return value

    def whole(self, name: str, default: int = 0) -> int:
        value = self.raw(name, default)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._wrong(name, "a whole number", value)
        return value

    def seconds(self, name: str, default: float | None = None) -> float | None:
        """A duration: `0.25s`."""
        value = self.raw(name)
        if value is None:
            return default
        match = _DURATION.match(value) if isinstance(value, str) else None
        if match is None:
            self._wrong(name, "a duration such as 0.25s", value)
        return float(match[1])

    def words(self, name: str) -> tuple[str, ...]:
        value = self.raw(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(name, "a list of texts", value)
        return tuple(value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of `choices`, of which the first is the default; numbers stand for their order."""
        value = self.raw(name, choices[0])
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
            return choices[value]
        if not isinstance(value, str) or value not in choices:
            self._wrong(name, f"one of {', '.join(choices)}", value)
        return value

    def status(self, name: str, default: int) -> int:
        """An `HttpStatus`, by the name or the number of its code."""
        fields = self.message(name)
        if fields is None:
            return default
        code = fields.raw("code", 0)
        fields.finish()
        kind = wire.HttpStatus.DESCRIPTOR.fields_by_name["code"].enum_type
        known = {} if kind is None else {value.name: value.number for value in kind.values}
        number: object = known.get(code, code) if isinstance(code, str) else code
        if isinstance(number, bool) or not isinstance(number, int):
            self._wrong(f"{name}.code", "the name or number of a status", code)
        return number

    def message(self, name: str) -> Fields | None:
        """None where it is not set."""
        value = self.raw(name)
        return None if value is None else Fields(value, f"{self.where}.{name}")

    def messages(self, name: str) -> Iterator[Fields]:
        value = self.raw(name, [])
        if not isinstance(value, list):
            self._wrong(name, "a list", value)
        for index, item in enumerate(value):
            yield Fields(item, f"{self.where}.{name}[{index}]")

    def named(self, name: str) -> Iterator[tuple[str, Any]]:
        """The entries of a map."""
        value = self.raw(name, {})
        if not isinstance(value, dict):
            self._wrong(name, "an object", value)
        yield from value.items()

    def data(self, name: str) -> bytes:
        try:
            return base64.b64decode(self.text(name), validate=True)
        except ValueError:
            self._wrong(name, "base64", self.text(name))

    def pattern(self, name: str) -> re.Pattern[str] | None:
        """A `RegexMatcher`."""
        fields = self.message(name)
        if fields is None:
            return None
        text = fields.text("regex")
        fields.ignore("google_re2", "engine_type")
        fields.finish()
        try:
            return re.compile(text)
        except re.error as error:
            raise ConfigError(f"{self.where}.{name}: {text!r} is no pattern: {error}") from None

    def ignore(self, *names: str) -> None:
        """These change nothing that is looked at."""
        self._asked.update(names)

    def finish(self) -> None:
        """Raises ConfigError where a field was not asked for."""
        unknown = sorted(
            name for name, value in self._values.items() if name not in self._asked and value is not None
        )
        if unknown:
            raise ConfigError(
                f"{self.where}: {', '.join(unknown)}: the simulated Envoy does not know this field"
            )

    def _wrong(self, name: str, expected: str, value: object) -> NoReturn:
        raise ConfigError(f"{self.where}.{name}: expected {expected}, got {value!r:.80}")


def seconds_or(value: float | None, default: float) -> float:
    return default if value is None else value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"
