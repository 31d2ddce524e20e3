"""`tyk.session`: the session's messages, under the names that plugins import."""

from coprocess.gateways.tyk.wire import (
    AccessDefinition,
    AccessSpec,
    BasicAuthData,
    JWTData,
    Monitor,
    SessionState,
)

TykSession = SessionState

__all__ = [
    "AccessDefinition",
    "AccessSpec",
    "BasicAuthData",
    "JWTData",
    "Monitor",
    "SessionState",
    "TykSession",
]
