"""What the pytest fixtures `gateway`, `envoy`, `kong`, `store` and `dispatch` give; for annotations.

from coprocess.testing import Gateway

def test_stamp(gateway: Gateway) -> None:
    assert gateway.get("/x").upstream.headers["X-Stamp"] == "1"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coprocess.store import Store as Store
    from coprocess.testing.dispatch import Dispatch as Dispatch
    from coprocess.testing.dispatch import DispatchReply as DispatchReply
    from coprocess.testing.envoy import Envoy as Envoy
    from coprocess.testing.envoy import EnvoyResult as EnvoyResult
    from coprocess.testing.envoy import EnvoyUpstreamRequest as EnvoyUpstreamRequest
    from coprocess.testing.gateway import Gateway as Gateway
    from coprocess.testing.gateway import Result as Result
    from coprocess.testing.gateway import SentRequest as SentRequest
    from coprocess.testing.kong import Kong as Kong
    from coprocess.testing.kong import KongResult as KongResult
    from coprocess.testing.kong import KongUpstreamRequest as KongUpstreamRequest
    from coprocess.testing.kong import LogLine as LogLine
    from coprocess.testing.kong import PdkCall as PdkCall
    from coprocess.testing.readable import DispatchedRequest as DispatchedRequest
    from coprocess.testing.readable import DispatchedResponse as DispatchedResponse

__all__ = [
    "Dispatch",
    "DispatchReply",
    "DispatchedRequest",
    "DispatchedResponse",
    "Envoy",
    "EnvoyResult",
    "EnvoyUpstreamRequest",
    "Gateway",
    "Kong",
    "KongResult",
    "KongUpstreamRequest",
    "LogLine",
    "PdkCall",
    "Result",
    "SentRequest",
    "Store",
]

_HOMES = {
    "Dispatch": "coprocess.testing.dispatch",
    "DispatchReply": "coprocess.testing.dispatch",
    "DispatchedRequest": "coprocess.testing.readable",
    "DispatchedResponse": "coprocess.testing.readable",
    **dict.fromkeys(("Envoy", "EnvoyResult", "EnvoyUpstreamRequest"), "coprocess.testing.envoy"),
    "Gateway": "coprocess.testing.gateway",
    **dict.fromkeys(
        ("Kong", "KongResult", "KongUpstreamRequest", "LogLine", "PdkCall"), "coprocess.testing.kong"
    ),
    "Result": "coprocess.testing.gateway",
    "SentRequest": "coprocess.testing.gateway",
    "Store": "coprocess.store",
}


def __getattr__(name: str) -> Any:
    # pytest imports this package at every start, also where nothing of it is used.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
