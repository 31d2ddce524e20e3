"""The gateway's gRPC client: one message out, one back, within its limits."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from coprocess.desk.tyk.simulator.exchange import Dispatcher, RpcError
from coprocess.gateways.tyk import wire

#: gRPC's default limit for a message that is received, which both ends have.
_MESSAGE_LIMIT = 4 * 1024 * 1024


def call(dispatcher: Dispatcher, serialized: bytes) -> wire.Object:
    """Raises RpcError, also where a message is above the limit or the answer is none."""
    if len(serialized) > _MESSAGE_LIMIT:
        raise RpcError("RESOURCE_EXHAUSTED", "the Object is larger than the plugin server takes")
    answer = dispatcher.dispatch(serialized)
    if len(answer) > _MESSAGE_LIMIT:
        raise RpcError("RESOURCE_EXHAUSTED", "the reply is larger than the gateway takes")
    try:
        return wire.Object.FromString(answer)
    except DecodeError as error:
        raise RpcError("INTERNAL", f"the reply is no Object: {error}") from error
