"""The tables `[app]` and `[app.NAME]` of the settings file, with variables over them: an App's `config`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coprocess.errors import ConfigError
from coprocess.process.config import APP, APP_PREFIX
from coprocess.process.settings_loading import settings_file

ConfigOf = Callable[[str], Mapping[str, Any]]


def load_app_settings(config_file: Path | None = None, base: Path = Path()) -> ConfigOf:
    """What gives the settings of an App by its name. The file is found as by `load_settings`.

    Read again upon reload. Raises ConfigError where `app` is no table.
    """
    path, from_file = settings_file(config_file, base)
    table = from_file.get(APP, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: app: expected a table, [app] or [app.NAME]")
    return lambda name: _with_variables(path, name, _table_of(path, table, name))


def _table_of(path: Path, table: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not name:
        return {key: value for key, value in table.items() if not isinstance(value, dict)}
    own = table.get(name, {})
    if not isinstance(own, dict):
        raise ConfigError(f"{path}: app.{name}: expected a table, [app.{name}]")
    return own


def _with_variables(path: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    prefix = APP_PREFIX + (f"{name.upper()}_" if name else "")
    for variable, text in os.environ.items():
        key = variable.removeprefix(prefix).lower()
        if variable.startswith(prefix) and key:
            settings[key] = _like(settings.get(key), text, variable)
    return settings


def _like(value: Any, text: str, variable: str) -> Any:
    """`text`, of the type that the file's value has: a variable is text otherwise."""
    if value is None or isinstance(value, str):
        return text
    try:
        read = json.loads(text)
    except ValueError:
        read = text
    wanted = (int, float) if isinstance(value, float) else type(value)
    if not isinstance(read, wanted) or isinstance(read, bool) is not isinstance(value, bool):
        # Not the value itself: it may be a secret.
        raise ConfigError(f"{variable}: expected a value such as the file's, a {type(value).__name__}")
    return read
