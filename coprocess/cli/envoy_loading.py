"""Handlers for the commands of `coprocess envoy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coprocess.process.config import Settings

if TYPE_CHECKING:
    from coprocess.loading.loaded import Loaded


def loaded_handlers(settings: Settings, config: Path | None) -> Loaded:
    """Raises LoadError for a folder that does not exist, ConfigError for the settings file."""
    from coprocess.api.app import configuring
    from coprocess.gateways.envoy.home import HOME
    from coprocess.loading import loader
    from coprocess.process.app_settings import load_app_settings

    with configuring(load_app_settings(config)):
        return loader.load(settings.folders, HOME)
