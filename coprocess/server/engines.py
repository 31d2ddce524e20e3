"""Which engine runs, and why."""

from __future__ import annotations

import importlib.util
from typing import Literal

from coprocess.errors import ConfigError
from coprocess.server.engine import Engine, EngineOptions

EngineChoice = Literal["auto", "native", "grpcio"]


def make_engine(choice: EngineChoice, options: EngineOptions) -> tuple[Engine, str]:
    """The engine, and in words why this one. Raises ConfigError where the choice cannot be had."""
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if choice == "native" and options.tls is not None:
        raise ConfigError("engine native has no TLS. Expected: engine auto or grpcio where tls_cert is set")
    # Imported when chosen: each brings a library of some size.
    if choice == "native" or (choice == "auto" and installed and options.tls is None):
        if not installed:
            raise ConfigError(
                "engine native: pygrpc-native is not installed. Expected: pip install coprocess[native]"
            )
        from coprocess.server.native import NativeEngine

        return NativeEngine(options), "asked for" if choice == "native" else "installed, and fastest"
    from coprocess.server.grpcio import GrpcioEngine

    if choice == "grpcio":
        return GrpcioEngine(options), "asked for"
    without = "native has no TLS" if options.tls is not None else "pygrpc-native is not installed"
    return GrpcioEngine(options), without
