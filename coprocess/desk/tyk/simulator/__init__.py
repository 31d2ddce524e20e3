"""Tyk Gateway's own side of the coprocess protocol: to try and test plugins where there is no gateway.

It builds the Objects that a gateway sends, does with the replies what a gateway does, and is held to
recordings of a real one (`replay`).
"""

from __future__ import annotations

from coprocess.desk.replay import ReplayReport
from coprocess.desk.tyk.simulator.definition import ApiDefinition, HookDefinition, IdExtractorDefinition
from coprocess.desk.tyk.simulator.exchange import (
    Dispatcher,
    Exchange,
    HookCall,
    HttpResponse,
    RpcError,
)
from coprocess.desk.tyk.simulator.gateway import Gateway
from coprocess.desk.tyk.simulator.replay import replay
from coprocess.desk.tyk.simulator.session import GatewayState
from coprocess.desk.upstreams import (
    AsgiUpstream,
    CannedUpstream,
    Upstream,
    UpstreamReply,
    UpstreamRequest,
    UrlUpstream,
    WsgiUpstream,
)

__all__ = [
    "ApiDefinition",
    "AsgiUpstream",
    "CannedUpstream",
    "Dispatcher",
    "Exchange",
    "Gateway",
    "GatewayState",
    "HookCall",
    "HookDefinition",
    "HttpResponse",
    "IdExtractorDefinition",
    "ReplayReport",
    "RpcError",
    "Upstream",
    "UpstreamReply",
    "UpstreamRequest",
    "UrlUpstream",
    "WsgiUpstream",
    "replay",
]
