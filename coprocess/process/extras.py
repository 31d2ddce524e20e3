"""What only works with an extra of this package installed."""

from __future__ import annotations

import importlib.util

from coprocess.errors import ConfigError

_TRACING = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def need_tracing() -> None:
    """Raises ConfigError where the libraries for traces are missing. Imports none of the larger ones."""
    for name in _TRACING:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigError(
                f"traces otlp: {name} is not installed. "
                'Expected: pip install "coprocess[otel]", or traces off'
            )
