"""What passes through the simulated Envoy, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.message import Message

from coprocess.desk.envoy.simulator.headers import HeaderMap

Pairs = tuple[tuple[str, str], ...]

#: Between the chunks of a message that comes in chunks.
CHUNK_GAP_S = 0.03
#: Between headers and a body that is sent with them: they come in one piece.
ARRIVAL_S = 1e-5


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a client sends. `chunks`: the body comes so, with time between."""

    method: str
    target: str
    headers: Pairs
    body: bytes = b""
    chunks: tuple[bytes, ...] = ()
    trailers: Pairs = ()
    is_http2: bool = False
    #: What it sends after an upgrade was granted.
    frames: tuple[bytes, ...] = ()
    #: After so long it goes, whatever comes.
    leaves_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What reached the upstream. `error`: why it is not whole."""

    method: str
    target: str
    headers: Pairs
    body: bytes
    trailers: Pairs = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """What the upstream answers; after a 101, `frames` has one answer for each of the client's."""

    status: int
    headers: Pairs = ()
    body: bytes = b""
    chunks: tuple[bytes, ...] = ()
    trailers: Pairs = ()
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What the client got. `status` is None where it got nothing; `error`: how the connection ended."""

    status: int | None
    headers: Pairs = ()
    body: bytes = b""
    trailers: Pairs = ()
    error: str | None = None


#: Raises OSError where it cannot be reached, TimeoutError where it does not answer.
Upstream = Callable[[UpstreamRequest], UpstreamReply]


@dataclass(slots=True)
class ServerCall:
    """One RPC to a server: a stream of ext_proc, or a check of ext_authz."""

    service: str
    #: The filter's name in the chain.
    filter_name: str
    initial_metadata: Pairs
    sent: list[Message] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)
    #: Header edits that Envoy left out without a word.
    refused_edits: int = 0
    #: What came otherwise than it should, in words.
    errors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Exchange:
    """One request, and all that came of it."""

    calls: list[ServerCall] = field(default_factory=list)
    upstream_request: UpstreamRequest | None = None
    upstream_reply: UpstreamReply | None = None
    http_response: HttpResponse = HttpResponse(None)
    route_name: str = ""
    #: Envoy's reason, as `%RESPONSE_CODE_DETAILS%` has it, where it is one of the filters'.
    details: str = ""
    dynamic_metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def log_status(self) -> int:
        """As the access log has it: 0 where the client left."""
        return self.http_response.status or 0


@dataclass(slots=True)
class HttpMessage:
    """A request or response on its way through the filters."""

    headers: HeaderMap
    #: Body chunks, with when each arrives.
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    #: Nothing follows the headers.
    ends_with_headers: bool = False
    #: When the end arrives.
    ends_at_s: float = 0.0
    #: None: there are none.
    trailers: HeaderMap | None = None
    #: It has no end: an upgraded connection.
    is_tunnel: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(chunk for _, chunk in self.chunks)

    def arrival_of(self, number: int) -> float:
        """When the byte of that number arrives."""
        for arrives_at_s, chunk in self.chunks:
            number -= len(chunk)
            if number <= 0:
                return arrives_at_s
        return self.ends_at_s

    def replace_body(self, body: bytes, now_s: float) -> None:
        self.chunks = [(now_s, body)] if body else []
        self.ends_at_s = now_s


class Clock(Protocol):
    """The simulated time of one request."""

    now_s: float


class LocalReply(Exception):
    """Envoy answers itself, with this status; `edit` changes the headers first."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        *,
        details: str = "",
        edit: Callable[[HeaderMap], None] | None = None,
        grpc_status: int | None = None,
        is_immediate: bool = False,
    ) -> None:
        super().__init__(details)
        self.status = status
        self.body = body
        self.details = details
        self.edit = edit
        self.grpc_status = grpc_status
        #: The part of the body that just came is what it is for: the request has not ended yet.
        self.is_immediate = is_immediate
        #: What had left for the upstream by then.
        self.request_left: HttpMessage | None = None
        #: What had left for the client by then: its connection breaks.
        self.response_left: HttpMessage | None = None


class ClientLeft(Exception):
    """The client is gone."""


class NeverEnds(Exception):
    """Envoy waits for something that never comes."""
