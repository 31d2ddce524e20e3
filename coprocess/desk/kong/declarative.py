"""Kong's declarative configuration, from JSON or YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coprocess.errors import ConfigError


class NoYaml(ConfigError):
    """A file cannot be read for want of the library; nothing is known of the file."""


def read_declarative(path: Path) -> Any:
    """The document. Raises ConfigError where it cannot be read; YAML needs the extra `kong`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    return parse_declarative(text, path)


def parse_declarative(text: str, path: Path) -> Any:
    """As `read_declarative`, of the text."""
    try:
        return json.loads(text)
    except ValueError as error:
        if path.suffix == ".json":
            raise ConfigError(f"{path}: not JSON: {error}") from None
    try:
        import yaml
    except ImportError:
        raise NoYaml(f'{path}: YAML needs PyYAML. Expected: pip install "coprocess[kong]"') from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: not YAML: {getattr(error, 'problem', None) or error}{place}") from None


def plugins_named(document: Any) -> set[str]:
    """Plugins that a declarative configuration names."""
    found: set[str] = set()
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "plugins" and isinstance(value, list):
                found |= {str(each.get("name")) for each in value if isinstance(each, dict)}
            found |= plugins_named(value)
    elif isinstance(document, list):
        for each in document:
            found |= plugins_named(each)
    return found
