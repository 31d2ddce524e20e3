"""Where settings come from, flags, variables and the file, and what is said of those that cannot be taken."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from coprocess.errors import ConfigError
from coprocess.process.config import APP, APP_PREFIX, CHAINS, CONFIG_FILE, PREFIX, ROUTES, Settings
from coprocess.text import printable


def load_settings(flags: Mapping[str, Any], config_file: Path | None = None, base: Path = Path()) -> Settings:
    """The settings out of `flags` (None: not given), the environment and the file.

    `config_file` None: `coprocess.toml` of the folder `base`, if there is one. Raises ConfigError.
    """
    flags = {name: value for name, value in flags.items() if value is not None}
    path, from_file = settings_file(config_file, base)
    # They can change while the service runs: see `route_settings`, `app_settings`.
    from_file.pop(ROUTES, None)
    from_file.pop(APP, None)
    from_file.pop(CHAINS, None)
    variables = {name: f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    # Variables are read whatever their case.
    set_variables = {variable.upper() for variable, value in os.environ.items() if value}
    from_file = {name: value for name, value in from_file.items() if variables.get(name) not in set_variables}

    def source(name: str) -> str:
        if name in flags:
            return f"--{name.replace('_', '-')}"
        return variables[name] if variables.get(name) in set_variables else f"{path}: {name}"

    def is_given(name: str) -> bool:
        return name in flags or name in from_file or variables[name] in set_variables

    problems = list(_misspelt_variables(set_variables))
    settings: Settings | None = None
    try:
        settings = Settings(**{**from_file, **flags})
    except ValidationError as error:
        for detail in error.errors():
            # What is wrong with several settings together has no place of its own, but names them.
            names = [str(place) for place in detail["loc"][:1]] or [
                name for name in variables if is_given(name) and re.search(rf"\b{name}\b", detail["msg"])
            ]
            sources = ", ".join(map(source, names)) or "settings"
            problems.append(f"{sources}: {expectation(detail, names[0] if names else '')}")
    if problems or settings is None:
        raise ConfigError("\n".join(problems))
    return settings


def _misspelt_variables(names: Iterable[str]) -> Iterator[str]:
    """What is wrong with variables that are named like settings, and are none. Their values are not shown."""
    for variable in sorted(names):
        name = variable.removeprefix(PREFIX).lower()
        is_ours = variable.startswith(PREFIX) and not _OTHERS_VARIABLE.fullmatch(variable)
        is_ours = is_ours and not variable.startswith(APP_PREFIX)
        if is_ours and name == ROUTES:
            where = f"routes are tables of {CONFIG_FILE}: [{ROUTES}.NAME]"
            yield f"{printable(variable)}: no such setting; {where}"
        elif is_ours and name not in Settings.model_fields:
            near = _near(name, Settings.model_fields)
            hint = f"; did you mean {PREFIX}{near.upper()}?" if near else ""
            yield f"{printable(variable)}: no such setting{hint}"


# Of a new project's Makefile, and those that Kubernetes sets for services whose name begins with "coprocess".
_OTHERS_VARIABLE = re.compile(
    rf"{PREFIX}(VERSION|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))"
)


def expectation(detail: Any, name: str, model: type[BaseModel] = Settings) -> str:
    """What an error of pydantic says of the setting `name`."""
    if detail["type"] == "extra_forbidden":
        return "no such setting" + _hint(name, detail["input"], model)
    if detail["type"] == "missing":
        return "is not set"
    message: str = detail["msg"].removeprefix("Value error, ")
    # A secret is not shown; a URL may hold a password.
    given = (
        ""
        if name in ("redis", "events_secret") or detail["type"] == "value_error"
        else f" (got {detail['input']!r})"
    )
    return message + given


def _hint(name: str, value: Any, model: type[BaseModel]) -> str:
    """The setting that may be meant by an unknown one. Tables are for routes alone."""
    known = list(model.model_fields)
    if model is Settings:
        known = [ROUTES] if isinstance(value, dict) else [*known, ROUTES]
    near = _near(name, known)
    if near == ROUTES:
        return f"; did you mean [{ROUTES}.NAME]?"
    if near:
        return f"; did you mean {near}?"
    if isinstance(value, dict):
        return f". The only tables are [{APP}] and those of routes: [{ROUTES}.{name}]"
    return ""


def _near(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` is a misspelling of; not one that means something else.

    Most names share words with others: `web_listen` is near to `worker_listen`, and is none of it.
    """
    for near in difflib.get_close_matches(name.lower(), list(known), n=5):
        words, its_words = name.lower().split("_"), near.split("_")
        if _is_alike("".join(words), "".join(its_words), 0.9):
            return near
        said = [next((its for its in its_words if _is_alike(word, its, 0.7)), None) for word in words]
        # A unit at the end is what people leave out.
        if None not in said and {*its_words, *_UNITS} == {*said, *_UNITS}:
            return near
    return None


_UNITS = ("s", "bytes", "percent")


def _is_alike(word: str, other: str, ratio: float) -> bool:
    return difflib.SequenceMatcher(None, word, other).ratio() >= ratio


def settings_file(config_file: Path | None, base: Path = Path()) -> tuple[Path, dict[str, Any]]:
    """The settings file and what it says; nothing where none was named, and the default one is not there.

    `base` is the folder that a relative path begins at.
    """
    path = base / (config_file or CONFIG_FILE)
    try:
        # Also a link that leads nowhere, as while a volume is mounted: to go on without settings would open
        # what they close.
        is_there = config_file is not None or path.exists() or path.is_symlink()
        if config_file is None and path.exists() and not (path.is_file() or path.is_dir()):
            # A pipe would be waited for.
            raise ConfigError(f"{path}: is no file. Expected: settings, as TOML")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return path, _read_file(path) if is_there else {}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # Of TOML, of UTF-8, and of numbers with too many digits.
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply. Expected: settings, as lines or tables") from None
