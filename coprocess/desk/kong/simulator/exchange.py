"""One request on its way through Kong, as Lua code sees it; and what such code waits for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from coprocess.desk.kong.simulator.entities import Consumer, PluginEntity, Route, Service
from coprocess.desk.kong.simulator.http import (
    ClientRequest,
    ClientResponse,
    Headers,
    UpstreamReply,
    UpstreamRequest,
)
from coprocess.desk.kong.simulator.lua import to_wire
from coprocess.desk.kong.simulator.pages import error_page, media_type
from coprocess.desk.kong.simulator.paths import Match
from coprocess.errors import CoprocessError
from coprocess.gateways.kong.wire import pack_as_kong

if TYPE_CHECKING:
    from coprocess.desk.kong.simulator.gateway import Kong
    from coprocess.desk.kong.simulator.rpc import Worker

T = TypeVar("T")
#: Kong's code as a generator: it yields what it waits for, and whoever runs it answers.
Task = Generator["Wait", Any, T]


class Wait:
    """What a task waits for."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Send(Wait):
    """Take a connection to the plugin's server, from the worker's pool or a new one, and send a request.

    The answer is the request's number, which is given when it goes out. Raises ConnectionError where nobody
    listens.
    """

    worker: Worker
    plugin: str
    method: str
    argument: Any

    def frame(self, message_id: int) -> bytes:
        return pack_as_kong([0, message_id, self.method, [to_wire(self.argument)]])


@dataclass(frozen=True, slots=True)
class Receive(Wait):
    """The next value on the task's connection. Raises EndOfStream, LuaError."""


@dataclass(frozen=True, slots=True)
class Release(Wait):
    """Give the task's connection back to the pool; `broken`: close it."""

    broken: bool = False


@dataclass(frozen=True, slots=True)
class AwaitBody(Wait):
    """The whole body of the request. Raises ClientGone."""


@dataclass(frozen=True, slots=True)
class Sleep(Wait):
    """Some time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Spawn(Wait):
    """Another task, which nobody waits for: a timer."""

    task: Task[None]


@dataclass(frozen=True, slots=True)
class AskUpstream(Wait):
    """The service's answer. Raises ConnectionError."""

    request: UpstreamRequest


class EndOfStream(Exception):
    """The plugin server closed, or was silent for too long, before an answer had begun."""


class ClientGone(Exception):
    """The client went away while its body was waited for."""


class NotSimulated(CoprocessError):
    """Something that a real Kong has, and this one does not."""


class Exit(Exception):
    """The request is answered: `kong.response.exit` and `error` end what runs."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """What goes to Kong's error.log."""

    level: str
    plugin: str
    text: bytes


@dataclass(slots=True)
class PdkCall:
    """One call of a plugin, and what became of it."""

    plugin: str
    phase: str
    method: Any
    args: Any
    result: Any = None
    error: str | None = None


@dataclass(eq=False, slots=True)
class Exchange:
    """The state of one request: `ngx.ctx`, `ngx.var` and what is around them."""

    kong: Kong
    worker: Worker
    request: ClientRequest
    request_id: bytes
    phase: str = "rewrite"
    subsystem: str = "http"
    sni: str | None = None
    plugin: PluginEntity | None = None
    match: Match | None = None
    #: Of this configuration, or a table that a plugin passed.
    consumer: Consumer | dict[Any, Any] | None = None
    credential: dict[Any, Any] | None = None
    started: float = 0.0
    shared: dict[Any, Any] = field(default_factory=dict)
    ngx_ctx: dict[Any, Any] = field(default_factory=dict)
    serialize_values: dict[bytes, Any] = field(default_factory=dict)
    # What goes to the service.
    forwarded_host: bytes = b""
    upstream_host: bytes | None = None
    upstream_scheme: str | None = None
    upstream_uri: bytes | None = None
    target: tuple[str, int] | None = None
    upstream_name: str | None = None
    buffered: bool = False
    sent: UpstreamRequest | None = None
    #: Whether Kong had begun to choose an address of the service.
    balanced: bool = False
    # What goes to the client.
    status: int | None = None
    headers: Headers = field(default_factory=Headers)
    reply: UpstreamReply | None = None
    exited: bool = False
    failed: bool = False
    body: bytes | None = None
    response: ClientResponse | None = None
    #: Why a TLS handshake fails here.
    handshake_error: str | None = None
    log: list[LogLine] = field(default_factory=list)
    calls: list[PdkCall] = field(default_factory=list)
    #: What happened otherwise than meant, in words.
    incidents: list[Incident] = field(default_factory=list)

    @property
    def route(self) -> Route | None:
        return self.match.route if self.match else None

    @property
    def service(self) -> Service | None:
        return self.match.route.service if self.match else None

    @property
    def is_closing(self) -> bool:
        """Whether the client's connection ends with this request."""
        wish = (self.request.headers.get(b"connection") or b"").lower()
        return b"close" in wish or (self.request.version < 1.1 and b"keep-alive" not in wish)

    @property
    def accept(self) -> bytes | None:
        return self.request.headers.get(b"accept")

    def write_log(self, level: str, text: bytes) -> None:
        self.log.append(LogLine(level, self.plugin.name if self.plugin else "", text))

    def incident(self, kind: str, text: str) -> None:
        self.incidents.append(Incident(kind, self.plugin.name if self.plugin else "", self.phase, text))

    def answer(self, status: int, message: bytes) -> None:
        """An error of Kong's own, in the form that the client accepts."""
        kind, body = error_page(message, self.request_id, self.accept)
        self.put(status, kind, body)

    def nginx_error(self, status: int, message: bytes) -> None:
        """As `answer`, where nginx has the request: plain text for who accepts nothing special."""
        accept = self.accept
        if accept is None:
            accept = self.request.headers.get(b"content-type") or b"text/plain"
        kind, body = error_page(message, self.request_id, media_type(accept))
        self.put(status, kind, body)
        self.exited = True

    def put(self, status: int, content_type: bytes | None, body: bytes) -> None:
        self.status = status
        if content_type is not None:
            self.headers.set(b"Content-Type", [content_type])
        self.headers.set(b"Content-Length", [b"%d" % len(body)])
        self.body = body


@dataclass(frozen=True, slots=True)
class Incident:
    """`open`: the request went on without the plugin. `error`: Lua raised. `lost`: the event got no Step."""

    kind: str
    plugin: str
    phase: str
    text: str


@dataclass(slots=True)
class Facts:
    """What only the place and time of a Kong tell."""

    http_port: int = 8000
    https_port: int = 8443
    stream_port: int = 9000
    client_ip: str = "127.0.0.1"
    client_port: int = 40000
    node_id: str = "9d1f4e4b-6e0c-4f0d-8a57-6d5fd8f5a1c2"
    hostname: str = "kong"
    version: str = "3.9.1"
    clock: Callable[[], float] = field(default=lambda: 0.0)
    new_request_id: Callable[[], bytes] = field(default=lambda: b"0" * 32)
    #: When its entities were made.
    created_at: int = 1_700_000_000
    tls_version: str = "TLSv1.3"
    trusted_ips: tuple[str, ...] = ()
    #: Of what the client's body may be held in memory; a longer one goes to a file.
    body_buffer_bytes: int = 10 * 1024
    #: Answers of calls that nothing here can tell, by method: what a recording saw.
    told: dict[str, Any] = field(default_factory=dict)
