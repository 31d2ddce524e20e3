"""The tables `[routes.NAME]` of the settings file: read again upon reload, unlike all other settings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, ValidationInfo, field_validator

from coprocess.api.http import header_name
from coprocess.errors import ConfigError
from coprocess.loading.routes import DEFAULT_KEY_HEADERS, Route
from coprocess.process.config import ROUTES
from coprocess.process.settings_loading import expectation, settings_file


class RouteSettings(BaseModel):
    """A table `[routes.NAME]` of the settings file."""

    model_config = ConfigDict(extra="forbid")

    handlers: list[Path] = Field(min_length=1)
    weight_percent: Annotated[float, Strict()] = Field(ge=0, le=100)
    apis: list[str] | None = Field(default=None, min_length=1)
    key_headers: list[str] = Field(default=list(DEFAULT_KEY_HEADERS), min_length=1)

    @field_validator("handlers")
    @classmethod
    def _folders(cls, value: list[Path], info: ValidationInfo) -> list[Path]:
        context = info.context or {}
        base: Path = context.get("base", Path())
        for folder in value:
            if context.get("must_exist", True) and not (base / folder).is_dir():
                raise ValueError(f"{folder}: no such folder. Expected: a folder with handler modules")
        return [base / folder for folder in value]

    @field_validator("key_headers")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        return [header_name(name) for name in value]


def load_routes(
    config_file: Path | None = None, base: Path = Path(), *, must_exist: bool = True
) -> tuple[Route, ...]:
    """What `[routes]` of the settings file says, checked. The file is found as by `load_settings`.

    `base` is the folder that relative paths begin at. Raises ConfigError, with `must_exist` also for a folder
    that is not there.
    """
    path, from_file = settings_file(config_file, base)
    tables = from_file.get(ROUTES, {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: routes: expected tables, such as [routes.canary] (got {tables!r})")
    problems: list[str] = []
    routes: list[Route] = []
    for name, table in tables.items():
        place = f"{path}: routes.{name}"
        if not isinstance(table, dict):
            problems.append(f"{place}: expected a table, such as [routes.canary] (got {table!r})")
        elif not _ROUTE_NAME.fullmatch(name):
            problems.append(f"{place}: expected a name of up to 64 letters, digits and _ . -")
        else:
            try:
                context = {"base": base, "must_exist": must_exist}
                routes.append(_route(name, RouteSettings.model_validate(table, context=context)))
            except ValidationError as error:
                for detail in error.errors():
                    key = str(detail["loc"][0])
                    problems.append(f"{place}.{key}: {expectation(detail, key, RouteSettings)}")
    problems += [f"{path}: {problem}" for problem in _overfull(routes)]
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(routes)


_ROUTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _route(name: str, settings: RouteSettings) -> Route:
    return Route(
        name,
        folders=tuple(settings.handlers),
        weight_percent=settings.weight_percent,
        apis=None if settings.apis is None else frozenset(settings.apis),
        key_headers=tuple(settings.key_headers),
    )


def _overfull(routes: Sequence[Route]) -> Iterator[str]:
    """What is wrong where routes promise more calls of an API than there are."""
    named = {api_id for route in routes for api_id in route.apis or ()}
    for api_id in (*sorted(named), None):
        taking = [route for route in routes if route.takes(api_id)]
        total = math.fsum(route.weight_percent for route in taking)
        if total > 100:
            names = ", ".join(f"routes.{route.name}" for route in taking)
            of = "" if api_id is None else f' of API "{api_id}"'
            yield f"{names}: weight_percent adds up to {total:g}. Expected: at most 100 % of the calls{of}"
            return
