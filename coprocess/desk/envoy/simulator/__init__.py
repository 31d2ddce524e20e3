"""Envoy's own side of ext_proc and ext_authz: to try and test handlers where there is no Envoy.

It sends what the filters send, does with the replies what Envoy does, and is held to recordings of a real
one (`replay`).
"""

from __future__ import annotations

from coprocess.desk.envoy.simulator.config import EnvoyConfig
from coprocess.desk.envoy.simulator.envoy import Envoy
from coprocess.desk.envoy.simulator.exchange import (
    Exchange,
    HttpRequest,
    HttpResponse,
    ServerCall,
    Upstream,
    UpstreamReply,
    UpstreamRequest,
)
from coprocess.desk.envoy.simulator.replay import replay
from coprocess.desk.envoy.simulator.server import ProcessStream, Server, ServerEnd, ServerMessage
from coprocess.desk.replay import ReplayReport

__all__ = [
    "Envoy",
    "EnvoyConfig",
    "Exchange",
    "HttpRequest",
    "HttpResponse",
    "ProcessStream",
    "ReplayReport",
    "Server",
    "ServerCall",
    "ServerEnd",
    "ServerMessage",
    "Upstream",
    "UpstreamReply",
    "UpstreamRequest",
    "replay",
]
