"""Where the handlers lie: paths that hold whatever handler code does to the working folder."""

from __future__ import annotations

from pathlib import Path

from coprocess.api.app import configuring
from coprocess.errors import LoadError
from coprocess.loading import loader
from coprocess.loading.home import Home
from coprocess.loading.loaded import Loaded
from coprocess.process.app_settings import load_app_settings
from coprocess.process.chain_settings import Chains, load_chains
from coprocess.process.config import CONFIG_FILE, DEFAULT_FOLDERS, Settings
from coprocess.process.route_settings import load_routes


class Places:
    """The folders with handlers. Links in their paths are followed anew each time."""

    def __init__(self, settings: Settings, config_file: Path | None) -> None:
        """Relative paths begin at the working folder as it is now."""
        self._base = Path.cwd()
        self._given_file = config_file
        self._named = [self._base / folder for folder in settings.handlers]
        #: Of the default folders, those that were there when handlers were loaded last.
        self._known: list[Path] = []

    @property
    def config_file(self) -> Path:
        return self._base / (self._given_file or CONFIG_FILE)

    def folders(self) -> list[Path]:
        """Those of the default version. A default folder that was there once is among them for good."""
        if self._named:
            return self._named
        return [
            folder
            for folder in (self._base / each for each in DEFAULT_FOLDERS)
            if folder.is_dir() or folder in self._known
        ]

    def all_folders(self) -> list[Path]:
        """With those of routes, also those that are gone for a moment, as while they are replaced.

        Raises ConfigError where the settings file is wrong.
        """
        routes = load_routes(self._given_file, self._base, must_exist=False)
        return [*self.folders(), *(folder for route in routes for folder in route.folders)]

    def chains(self) -> Chains:
        """Those of the settings file as it is now. Raises ConfigError where one is wrong."""
        return load_chains(self._given_file, self._base)

    def load(self, home: Home) -> Loaded:
        """Load the folders, and those of the routes in the settings file as it is now.

        Raises LoadError where a folder does not exist, ConfigError where a route is wrong.
        """
        folders = self.folders()
        gone = [folder for folder in folders if folder in self._known and not folder.is_dir()]
        if gone:
            raise LoadError(
                f"{gone[0]}: was there, and is gone. Expected: the folder, be it empty, or a restart"
            )
        with configuring(load_app_settings(self._given_file, self._base)):
            loaded = loader.load(folders, home, load_routes(self._given_file, self._base))
        self._known = folders
        return loaded
