"""`from gateway import TykGateway`: what plugins ask of the gateway itself."""

from __future__ import annotations

import logging
import sys

from coprocess.api.context import trigger_event
from coprocess.store import store

__all__ = ["TykGateway"]

_logger = logging.getLogger("tyk")

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class TykGateway:
    """Never made: its methods are called on the class."""

    @staticmethod
    def store_data(key: str, value: str, ttl: int) -> None:
        """Keep `value` for `ttl` seconds; 0 keeps it for good. Raises StoreError."""
        store.set(key, value, ttl_s=ttl if ttl > 0 else None)

    @staticmethod
    def get_data(key: str) -> bytes:
        """What is kept under `key`; b"" where nothing is. Raises StoreError."""
        return store.get(key) or b""

    @staticmethod
    def trigger_event(event_name: str, payload: str) -> None:
        """Run the loaded `@Event` function of that name, apart from this call."""
        trigger_event(event_name, payload)

    @staticmethod
    def log(message: str, level: str = "info") -> None:
        """Log at `level`: debug, info, warning or error; anything else is info."""
        _logger.log(_LEVELS.get(str(level).lower(), logging.INFO), "%s", message)

    @staticmethod
    def log_error(message: str = "") -> None:
        """Log an error, with the exception that is being handled, if one is."""
        _logger.error("%s", message, exc_info=sys.exc_info()[0] is not None)
