"""The tables `[chains.NAME]` of the settings file: which handlers run for a route that names the chain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coprocess.api.moments import HookType
from coprocess.errors import ConfigError
from coprocess.loading.chains import MOMENT_OF_KEY
from coprocess.process.config import CHAINS
from coprocess.process.settings_loading import settings_file

#: Names of handlers, by the chain's name and by moment.
Chains = Mapping[str, Mapping[HookType, tuple[str, ...]]]


def load_chains(config_file: Path | None = None, base: Path = Path()) -> Chains:
    """The chains; the file is found as by `load_settings`. Raises ConfigError."""
    path, from_file = settings_file(config_file, base)
    tables = from_file.get(CHAINS, {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: {CHAINS}: expected tables, [{CHAINS}.NAME]")
    return {name: _chain(path, f"{CHAINS}.{name}", table) for name, table in tables.items()}


def _chain(path: Path, where: str, table: Any) -> dict[HookType, tuple[str, ...]]:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {where}: expected a table, [{where}]")
    chain = {}
    for key, names in table.items():
        moment = MOMENT_OF_KEY.get(key)
        if moment is None:
            raise ConfigError(
                f"{path}: {where}.{key}: no moment. Expected: one of {', '.join(MOMENT_OF_KEY)}"
            )
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"{path}: {where}.{key}: expected names of handlers")
        chain[moment] = tuple(names)
    return chain
