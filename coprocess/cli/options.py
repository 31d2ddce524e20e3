"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coprocess.config import Settings


def describe(name: str) -> str:
    """The manual's text for a setting, with its default."""
    field = Settings.model_fields[name]
    default = field.default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    shown = "" if default in (None, "", False) or "Default:" in (field.description or "") else f" [{default}]"
    return f"{field.description}{shown}"


Handlers = Annotated[
    list[Path] | None,
    typer.Option("--handlers", metavar="DIR", help=f"{describe('handlers')} Repeatable."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file. Default: coprocess.toml, if there."),
]
