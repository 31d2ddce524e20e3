"""What a middleware needs of whoever loads its handlers."""

from __future__ import annotations

from typing import Any, Protocol

from coprocess.runtime.around.adapter import Host


class MiddlewareHost(Host, Protocol):
    """A Host that loads anew, and tells what it counts."""

    def reload(self, reason: str) -> Any:
        """Load, open and serve anew: all or nothing. It blocks."""

    def metrics(self) -> bytes:
        """As Prometheus reads them."""

    def collector(self) -> Any:
        """The same, for a registry of the app's own."""
