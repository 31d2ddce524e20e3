"""What passes through the simulated gateway, and the seams at which it meets plugin and upstream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from coprocess.desk.tyk.simulator.outcome import FailureReason
from coprocess.desk.upstreams import HeaderPairs, UpstreamReply, UpstreamRequest
from coprocess.gateways.tyk import wire


class RpcError(Exception):
    """A Dispatch that ended with a gRPC status instead of a reply."""

    def __init__(self, code_name: str, message: str = "") -> None:
        super().__init__(f"{code_name}: {message}" if message else code_name)
        self.code_name = code_name
        self.message = message


class Dispatcher(Protocol):
    """The plugin server, as the gateway's gRPC client sees it."""

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        """One Dispatch: Object in, Object out. Raises RpcError where the call fails."""

    def dispatch_event(self, payload_json: str, /) -> None:
        """One DispatchEvent. The gateway ignores its reply, and an RpcError too."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What the gateway's client gets; headers are sorted by name."""

    status: int
    headers: HeaderPairs
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of `name`, in any spelling; None where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class HookCall:
    """One Dispatch. `reply` is None where it failed, and `error` says how."""

    #: As the protocol spells it: `Pre`, `CustomKeyCheck`, …
    hook_type: str
    hook_name: str
    object: wire.Object
    reply: wire.Object | None
    error: RpcError | None
    seconds: float


@dataclass(slots=True)
class Exchange:
    """One HTTP request through the gateway, with all that it caused."""

    #: None where the connection was dropped.
    http_response: HttpResponse | None = None
    #: Why a real gateway would have panicked here, leaving its client without an answer.
    dropped: str | None = None
    #: Why the gateway answered with an error of its own; None where it did not.
    failure: FailureReason | None = None
    hooks: list[HookCall] = field(default_factory=list)
    #: Payloads of DispatchEvent, parsed.
    events: list[dict[str, Any]] = field(default_factory=list)
    upstream_request: UpstreamRequest | None = None
    upstream_reply: UpstreamReply | None = None
