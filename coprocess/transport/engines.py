"""Which engine runs, and why."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from coprocess.transport.engine import Engine, EngineOptions

#: `native` was an engine of its own in earlier versions.
EngineChoice = Literal["auto", "http2", "grpcio", "native"]

_REASONS = {
    "auto": "the fastest",
    "native": "engine native is gone: http2 serves in its place. Write engine = auto",
}


def make_engine(choice: EngineChoice, options: EngineOptions) -> tuple[Engine, str]:
    """The engine, and in words why this one."""
    reason = _REASONS.get(choice, "asked for")
    # Imported when chosen: each brings a library of some size.
    if choice == "grpcio":
        from coprocess.transport.grpcio import GrpcioEngine

        return GrpcioEngine(options), reason
    from coprocess.transport.http2_engine import Http2Engine

    return Http2Engine(options), reason


def is_compiled() -> bool:
    """Whether the http2 engine is that of a compiled wheel (hatch_build.py). Nothing is loaded for that."""
    spec = find_spec("coprocess.transport.http2_engine")
    return spec is not None and not str(spec.origin).endswith(".py")
