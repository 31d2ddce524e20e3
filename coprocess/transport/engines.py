"""Which engine runs, and why."""

from __future__ import annotations

import importlib.util
from typing import Literal

from coprocess.errors import ConfigError
from coprocess.transport.engine import Engine, EngineOptions

EngineChoice = Literal["auto", "http2", "native", "grpcio"]


def make_engine(choice: EngineChoice, options: EngineOptions) -> tuple[Engine, str]:
    """The engine, and in words why this one. Raises ConfigError where the choice cannot be had."""
    if choice == "http2":
        # Imported when chosen, as all of them: each brings a library of some size.
        from coprocess.transport.http2_engine import Http2Engine

        return Http2Engine(options), "asked for"
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if choice == "native" and options.tls is not None:
        raise ConfigError("engine native has no TLS. Expected: engine auto or grpcio where tls_cert is set")
    if choice == "native" or (choice == "auto" and installed and options.tls is None):
        if not installed:
            raise ConfigError(
                "engine native: pygrpc-native is not installed. Expected: pip install coprocess[native]"
            )
        from coprocess.transport.native import NativeEngine

        return NativeEngine(options), "asked for" if choice == "native" else "installed, and fastest"
    from coprocess.transport.grpcio import GrpcioEngine

    if choice == "grpcio":
        return GrpcioEngine(options), "asked for"
    without = "native has no TLS" if options.tls is not None else "pygrpc-native is not installed"
    return GrpcioEngine(options), without
