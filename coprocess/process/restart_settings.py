"""Settings that were changed since the start: they take effect at a restart only, and nobody should wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coprocess.errors import ConfigError
from coprocess.process.config import Settings


class RestartSettings:
    """Compares the settings of the start with what they would be now."""

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        """`read` reads all sources again; it may raise ConfigError."""
        self._settings = settings
        self._read = read

    def warnings(self) -> Iterator[str]:
        """Sentences; values are not in them, as the store's URL may have a password."""
        try:
            now = self._read()
        except ConfigError as error:
            for line in str(error).splitlines():
                yield f"the service could not be started with these settings: {line}"
            return
        changed = [
            name for name in Settings.model_fields if getattr(self._settings, name) != getattr(now, name)
        ]
        if changed:
            yield f"changed settings that take effect at a restart only: {', '.join(changed)}"
