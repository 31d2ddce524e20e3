"""Which engine runs, and why."""

from __future__ import annotations

import importlib.util
from typing import Literal

from coprocess.errors import ConfigError
from coprocess.transport.engine import Engine, EngineOptions

EngineChoice = Literal["auto", "http2", "native", "grpcio"]


def make_engine(
    choice: EngineChoice, options: EngineOptions, *, needs_bidi: bool = False
) -> tuple[Engine, str]:
    """The engine, and in words why this one. Raises ConfigError where the choice cannot be had.

    `needs_bidi`: the gateway's `bidi_methods` must be served, which the native engine cannot.
    """
    if needs_bidi and choice == "native":
        raise ConfigError("engine native has no streams. Expected: engine auto, http2 or grpcio for Envoy")
    if choice == "http2" or (choice == "auto" and needs_bidi):
        # Imported when chosen, as all of them: each brings a library of some size.
        from coprocess.transport.http2_engine import Http2Engine

        return Http2Engine(options), "asked for" if choice == "http2" else "it has streams"
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
