"""YAML files, with the place of each value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coprocess.desk.envoy.fields import snake
from coprocess.errors import ConfigError

#: Keys and indexes from the top of a document.
Where = tuple[str | int, ...]
_MAX_BYTES = 32 << 20
_MAX_DEPTH = 200
#: Aliases make many of a few bytes.
_MAX_VALUES = 1_000_000


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a file. Keys are in snake_case, whatever the file has."""

    path: Path
    value: Any
    #: Line and column, from 1 on.
    places: dict[Where, tuple[int, int]] = field(default_factory=dict)

    def place(self, where: Where) -> tuple[int, int]:
        """Of the value, or of the nearest thing around it."""
        while where and where not in self.places:
            where = where[:-1]
        return self.places.get(where, (0, 0))

    @staticmethod
    def words(where: Where) -> str:
        """As `static_resources.listeners[0]`."""
        text = ""
        for key in where:
            text += f"[{key}]" if isinstance(key, int) else (f".{key}" if text else key)
        return text


def need_yaml() -> Any:
    """PyYAML. Raises ConfigError where it is not installed."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError(
            'PyYAML, which reads YAML, is not installed. Expected: pip install "coprocess[envoy]"'
        ) from None
    return yaml


def read_yaml(path: Path) -> list[YamlDocument]:
    """Its documents; JSON is YAML too. Raises ConfigError for what cannot be read."""
    yaml = need_yaml()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes")
    if path.suffix == ".json":
        content = content.replace(b"\t", b" ")  # YAML takes none, and within JSON's texts there is none.
    try:
        nodes = list(yaml.compose_all(content, Loader=yaml.SafeLoader))
        return [_document(path, node) for node in nodes if node is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or "not to be read"
        raise ConfigError(f"{path}{place}: not YAML: {problem}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None


def _document(path: Path, node: Any) -> YamlDocument:
    import yaml

    places: dict[Where, tuple[int, int]] = {}
    loader = yaml.SafeLoader("")
    try:
        return YamlDocument(path, _value(node, (), places, loader.construct_object), places)
    finally:
        loader.dispose()


def _value(
    node: Any, where: Where, places: dict[Where, tuple[int, int]], construct: Callable[[Any], Any]
) -> Any:
    import yaml

    if len(where) > _MAX_DEPTH:
        raise yaml.YAMLError(f"nested more than {_MAX_DEPTH} levels deep, or by an alias within itself")
    if len(places) > _MAX_VALUES:
        raise yaml.YAMLError(f"more than {_MAX_VALUES} values, aliases counted")
    places[where] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = snake(str(getattr(key, "value", key)))
            found[name] = _value(value, (*where, name), places, construct)
            places[(*where, name)] = (key.start_mark.line + 1, key.start_mark.column + 1)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*where, index), places, construct) for index, item in enumerate(node.value)]
    return construct(node)


def walk(value: Any, where: Where = ()) -> Iterator[tuple[Where, dict[str, Any]]]:
    """Every object in it, from the top down."""
    if isinstance(value, dict):
        yield where, value
        for key, item in value.items():
            yield from walk(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, (*where, index))
