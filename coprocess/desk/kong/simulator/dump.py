"""What a plugin's query command prints: whether Kong starts with it, and what it takes from it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from coprocess.bounded import repr_of
from coprocess.errors import ConfigError
from coprocess.gateways.kong.schema import schema_problems

PHASES = ("certificate", "rewrite", "access", "response", "preread", "log")
#: A plugin server that says it has one of these ends every request without an answer.
FATAL_PHASES = ("init_worker", "header_filter", "body_filter")
PROTOCOL = "MsgPack:1"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin, as its server describes it."""

    name: str
    phases: tuple[str, ...]
    priority: int
    version: str
    #: The fields of its configuration: a list of one-key maps.
    fields: Any
    protocol: str = PROTOCOL
    #: Whether the schema has the field `config`: without it, none is checked.
    has_config: bool = True

    @property
    def breaks_requests(self) -> bool:
        return any(phase in FATAL_PHASES for phase in self.phases)


def read_dump(text: str) -> PluginInfo:
    """The plugin that a query command's whole standard output describes; the first, if there are more.

    Raises ConfigError for what Kong does not start with.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the dump is not one JSON value: {_reason(text, error)}") from None
    return plugin_info(value)


def _reason(text: str, error: ValueError) -> str:
    if not text.strip():
        return "it is empty"
    if isinstance(error, json.JSONDecodeError):
        start = max(error.pos - 10, 0)
        return f"{error.msg}, at {repr_of(text[start : error.pos + 30], 50)}"
    return str(error)


def plugin_info(value: Any) -> PluginInfo:
    """As `read_dump`, of the JSON value."""
    protocol = PROTOCOL
    if isinstance(value, dict) and isinstance(value.get("Plugins"), list):
        protocol = str(value.get("Protocol", PROTOCOL))
        value = value["Plugins"]
    if isinstance(value, dict) and "Name" in value:
        raise ConfigError("the dump: a plugin that is not in a list")
    if not isinstance(value, list) or not value:
        raise ConfigError(f"the dump: expected a list with one plugin, got {repr_of(value, 60)}")
    plugin = value[0]
    if not isinstance(plugin, dict):
        raise ConfigError(f"the dump: expected a map for the plugin, got {repr_of(plugin, 60)}")
    name = plugin.get("Name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"the dump: Name is {repr_of(name, 60)}, expected text")
    phases, priority, version = _phases(plugin), _priority(plugin), _version(plugin)
    fields, has_config = _schema(plugin)
    return PluginInfo(name, phases, priority, version, fields, protocol, has_config)


def _phases(plugin: dict[str, Any]) -> tuple[str, ...]:
    phases = plugin.get("Phases")
    if phases == {}:
        return ()
    if not isinstance(phases, list):
        raise ConfigError(f"the dump: Phases is {repr_of(phases, 60)}, expected a list")
    return tuple(phase for phase in phases if isinstance(phase, str))


def _priority(plugin: dict[str, Any]) -> int:
    priority: Any = plugin.get("Priority")
    is_number = isinstance(priority, (int, float)) and not isinstance(priority, bool)
    if not is_number or not float(priority).is_integer():
        raise ConfigError(f"the dump: Priority is {repr_of(priority, 60)}, expected a whole number")
    return int(priority)


def _version(plugin: dict[str, Any]) -> str:
    version = plugin.get("Version")
    if not isinstance(version, str) or not _VERSION.match(version):
        raise ConfigError(f'the dump: Version is {repr_of(version, 60)}, expected text as "1.0.0"')
    return version


def _schema(plugin: dict[str, Any]) -> tuple[Any, bool]:
    """The fields of `config`, and whether there is such a field."""
    schema = plugin.get("Schema")
    if not isinstance(schema, dict):
        raise ConfigError(f"the dump: Schema is {repr_of(schema, 60)}, expected a map")
    for entry in schema.get("fields") or ():
        if isinstance(entry, dict) and isinstance(entry.get("config"), dict):
            fields = entry["config"].get("fields", [])
            if problems := list(schema_problems(fields)):
                raise ConfigError(f"the dump: {'; '.join(problems)}")
            return fields, True
    return [], False
