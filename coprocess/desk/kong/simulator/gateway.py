"""One request's way through Kong: TLS, rewrite, route, access, service, response, log."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from email.utils import formatdate

from coprocess.desk.kong.simulator.bundled import RUN_BUNDLED
from coprocess.desk.kong.simulator.entities import (
    WORKSPACE,
    Consumer,
    Entities,
    PluginEntity,
    Service,
    in_order,
)
from coprocess.desk.kong.simulator.exchange import (
    AskUpstream,
    AwaitBody,
    ClientGone,
    Exchange,
    Exit,
    Facts,
    Spawn,
    Task,
)
from coprocess.desk.kong.simulator.http import (
    HOP_BY_HOP,
    ClientRequest,
    ClientResponse,
    Headers,
    UpstreamReply,
    UpstreamRequest,
)
from coprocess.desk.kong.simulator.lua import LuaError
from coprocess.desk.kong.simulator.pages import UNEXPECTED, message_of
from coprocess.desk.kong.simulator.paths import escape, find_route, normalize, upstream_path
from coprocess.desk.kong.simulator.pdk.request import forwarded_prefix, host_of, port_of
from coprocess.desk.kong.simulator.rpc import Worker, handle_event

_NO_ROUTE = b"no Route matched with those values"
#: Of these, nginx sends one: the upstream's.
_SINGLE = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"date", b"server", b"location", b"etag"}
)
#: Which statuses nginx sends no body with.
_WITHOUT_BODY = frozenset({204, 304})
#: Which media types nginx adds its charset to.
_CHARSET_TYPES = frozenset(
    {b"text/html", b"text/xml", b"text/plain", b"text/vnd.wap.wml", b"application/javascript"}
    | {b"application/rss+xml"}
)
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}


class Kong:
    """Kong Gateway 3.9, as far as plugins can tell, with nothing on the network.

    `serve` and `serve_stream` make tasks; who runs them does what they wait for. Not for several threads.
    """

    workspace = WORKSPACE

    def __init__(
        self, entities: Entities, facts: Facts | None = None, *, vault: Mapping[bytes, bytes] | None = None
    ) -> None:
        self.entities = entities
        self.facts = Facts() if facts is None else facts
        self.vault = dict(vault or {})
        self.workers = [Worker(0)]

    def exchange(self, request: ClientRequest, worker: Worker | None = None) -> Exchange:
        """The state of a request that has come."""
        request = copy.copy(request)
        request.headers = request.headers.copy()
        return Exchange(
            kong=self,
            worker=self.workers[0] if worker is None else worker,
            request=request,
            request_id=self.facts.new_request_id(),
            started=self.facts.clock(),
        )

    def serve(self, x: Exchange) -> Task[None]:
        """Take an HTTP request through; `x.response` is what the client gets, None where it gets nothing."""
        if x.sni is not None:
            yield from self._handshake(x)
            if x.handshake_error is not None:
                return
        if any(entity.info is not None and entity.info.breaks_requests for entity in self.entities.plugins):
            x.incident(
                "error", "a plugin has a phase that external plugins cannot have: no request is answered"
            )
            return
        try:
            yield from self._serve(x)
        except ClientGone:
            x.incident("lost", "the client went away while a call waited for the body: no Step comes")
            x.status = 400
        else:
            if x.request.is_left:
                x.status, x.reply = 499, None
        _finish(x)
        yield from self._log_phase(x)

    def serve_stream(self, x: Exchange, service: Service, data: bytes) -> Task[None]:
        """Take a TCP connection through: `preread`, the service, `log`."""
        x.subsystem, x.request.scheme, x.phase = "stream", "tcp", "preread"
        try:
            for entity in self._plugins(x):
                yield from self._run(x, entity)
            x.sent = UpstreamRequest(service.host, service.port, "tcp", "", b"", Headers(), data)
            if x.target:
                x.sent.host, x.sent.port = x.target
            x.reply = yield AskUpstream(x.sent)
            x.response = ClientResponse(x.reply.status, x.reply.headers, x.reply.body, x.reply.reason)
        except Exit:
            x.response = ClientResponse(x.status or 200, Headers(), x.body or b"")
        except (LuaError, ConnectionError) as error:
            x.incident("error", str(error))
        yield from self._log_phase(x)

    # Phases

    def _handshake(self, x: Exchange) -> Task[None]:
        # A context of its own: the request is not there yet.
        y = copy.copy(x)
        y.phase, y.shared, y.ngx_ctx = "certificate", {}, {}
        try:
            for entity in self._plugins(y, everywhere=True):
                yield from self._run(y, entity)
        except LuaError as error:
            self._failed(y, error)
            x.handshake_error = str(error)
        except Exit:
            x.handshake_error = "exit"

    def _serve(self, x: Exchange) -> Task[None]:
        x.phase = "rewrite"
        try:
            for entity in self._plugins(x, everywhere=True):
                yield from self._run(x, entity)
        except Exit:
            return
        except LuaError as error:
            self._failed(x, error)
            x.nginx_error(500, UNEXPECTED)
            return
        path = normalize(x.request.path)
        headers = {name: values[0] for name, values in x.request.headers.multi(0).items()}
        x.match = find_route(
            self.entities.routes, x.request.scheme, x.request.method, host_of(x), path, headers
        )
        x.phase, x.forwarded_host = "access", host_of(x).lower()
        if x.match is None:
            x.answer(404, _NO_ROUTE)
            x.exited = True
            return
        x.upstream_uri = escape(upstream_path(x.match, path))
        if not (yield from self._access(x)):
            return
        yield AwaitBody()
        if x.request.is_left:
            return
        if x.service is None and x.target is None:
            x.answer(503, b"no Service found with those values")
            x.exited = True
            return
        if (yield from self._ask_upstream(x)):
            yield from self._response(x)

    def _access(self, x: Exchange) -> Task[bool]:
        """Whether the request goes on."""
        done: set[str] = set()
        try:
            # A plugin before may have found out who calls, and others are for that consumer.
            while entity := next((each for each in self._plugins(x) if each.name not in done), None):
                done.add(entity.name)
                yield from self._run(x, entity)
        except Exit:
            return False
        except LuaError as error:
            self._failed(x, error)
            x.answer(500, UNEXPECTED)
            x.failed = True
            return False
        return True

    def _ask_upstream(self, x: Exchange) -> Task[bool]:
        x.balanced = True
        x.buffered = x.buffered or any(
            entity.info is not None and "response" in entity.info.phases for entity in self._chosen(x)
        )
        try:
            x.sent = self._upstream_request(x)
        except ValueError as error:
            x.incident("error", str(error))
            x.nginx_error(500, UNEXPECTED)
            return False
        try:
            x.reply = yield AskUpstream(x.sent)
        except ConnectionError as error:
            x.incident("error", f"the service does not answer: {error}")
            x.nginx_error(502, message_of(502))
            return False
        x.status = x.reply.status
        return True

    def _response(self, x: Exchange) -> Task[None]:
        reply: UpstreamReply = x.reply  # type: ignore[assignment]  # it has just come
        kept = [line for line in reply.headers.lines if line[0].lower() not in HOP_BY_HOP]
        if not x.buffered:
            given = [line for line in x.headers.lines if line[0].lower() not in _SINGLE]
            x.headers = Headers([*given, *kept])
            x.body = reply.body
            return
        for name, values in Headers(kept).multi(0).items():
            x.headers.set(next(line[0] for line in kept if line[0].lower() == name), values)
        x.body = reply.body
        x.phase = "response"
        try:
            for entity in self._plugins(x):
                yield from self._run(x, entity)
        except Exit:
            return
        except LuaError as error:
            self._failed(x, error)
            x.nginx_error(500, UNEXPECTED)

    def _log_phase(self, x: Exchange) -> Task[None]:
        x.phase = "log"
        for entity in self._plugins(x, everywhere=x.match is None and x.subsystem == "http"):
            yield Spawn(self._log(copy.copy(x), entity))

    def _log(self, x: Exchange, entity: PluginEntity) -> Task[None]:
        try:
            yield from self._run(x, entity)
        except LuaError as error:
            self._failed(x, error)

    def _run(self, x: Exchange, entity: PluginEntity) -> Task[None]:
        x.plugin = entity
        if entity.info is None:
            if x.phase == "access":
                RUN_BUNDLED[entity.name](x, entity)
        else:
            yield from handle_event(x, entity)

    def _failed(self, x: Exchange, error: LuaError) -> None:
        x.write_log("error", str(error).encode())
        x.incident("error", str(error))

    # Which plugins

    def _plugins(self, x: Exchange, *, everywhere: bool = False) -> list[PluginEntity]:
        """Those that run in this phase, in order. `everywhere`: before the route is known."""
        return [
            entity
            for entity in self._chosen(x, everywhere=everywhere)
            if entity.info is None or x.phase in entity.info.phases
        ]

    def _chosen(self, x: Exchange, *, everywhere: bool = False) -> list[PluginEntity]:
        """Of the entities of one plugin, the one that is put on the most special part."""
        best: dict[str, tuple[int, PluginEntity]] = {}
        for entity in self.entities.plugins:
            is_global = entity.route is None and entity.service is None and entity.consumer is None
            if x.request.scheme not in entity.protocols or (everywhere and not is_global):
                continue
            if entity.route is not None and entity.route is not x.route:
                continue
            if entity.service is not None and entity.service is not x.service:
                continue
            caller = x.consumer.id if isinstance(x.consumer, Consumer) else None
            if entity.consumer is not None and entity.consumer != caller:
                continue
            parts = (entity.consumer is not None, entity.route is not None, entity.service is not None)
            rank = 8 * sum(parts) + 4 * parts[0] + 2 * parts[1] + parts[2]
            if entity.name not in best or rank > best[entity.name][0]:
                best[entity.name] = rank, entity
        return in_order(entity for _, entity in best.values())

    # What goes to the service

    def _upstream_request(self, x: Exchange) -> UpstreamRequest:
        request, service = x.request, x.service
        scheme = x.upstream_scheme or (service.protocol if service else "http")
        host, port, shown = self._address(x, service)
        target = (x.upstream_uri or b"/") + (b"?" + request.query if request.query else b"")
        headers = Headers(self._own_headers(x))
        named = (request.headers.get(b"connection") or b"").lower().replace(b" ", b"").split(b",")
        dropped = {
            *HOP_BY_HOP,
            *named,
            b"host",
            b"content-length",
            b"via",
            b"x-real-ip",
            b"x-kong-request-id",
        }
        dropped |= {
            b"x-forwarded-" + part for part in (b"for", b"proto", b"host", b"port", b"path", b"prefix")
        }
        headers.set(b"Host", [x.upstream_host or shown])
        has_length = request.headers.get(b"content-length") is not None
        if request.body or has_length or request.headers.get(b"transfer-encoding") is not None:
            headers.set(b"Content-Length", [b"%d" % len(request.body)])
        headers.lines += [line for line in request.headers.lines if line[0].lower() not in dropped]
        return UpstreamRequest(host, port, scheme, request.method, target, headers, request.body)

    def _address(self, x: Exchange, service: Service | None) -> tuple[str, int, bytes]:
        """Host and port, and the Host header. Raises ValueError where there is no address."""
        if x.target is not None:
            return *x.target, x.target[0].encode()
        name = x.upstream_name or (service.host if service else "")
        if targets := self.entities.upstreams.get(name):
            if x.upstream_name and service and _is_address(service.host):
                raise ValueError(f"address: {name}: no host allowed, as the service's own is an IP address")
            host, _, port = targets[0].rpartition(":")
            return host, int(port), targets[0].encode()
        if service is None:
            raise ValueError("there is no service")
        shown = service.host
        if service.port != _DEFAULT_PORTS.get(service.protocol):
            shown += f":{service.port}"
        if x.route is not None and x.route.preserve_host:
            shown = (x.request.headers.get(b"host") or b"").decode("latin-1")
        return service.host, service.port, shown.encode("latin-1")

    def _own_headers(self, x: Exchange) -> Iterator[tuple[bytes, bytes]]:
        client = self.facts.client_ip.encode()
        before = x.request.headers.all(b"x-forwarded-for")
        yield b"Via", b"%.1f kong/%s" % (x.request.version, self.facts.version.encode())
        yield b"Connection", b"keep-alive"
        yield b"X-Forwarded-For", b", ".join([*before, client])
        yield b"X-Forwarded-Proto", x.request.scheme.encode()
        yield b"X-Forwarded-Host", x.forwarded_host
        yield b"X-Forwarded-Port", b"%d" % port_of(x)
        yield b"X-Forwarded-Path", x.request.path
        if prefix := forwarded_prefix(x):
            yield b"X-Forwarded-Prefix", prefix
        yield b"X-Real-IP", client
        yield b"X-Kong-Request-Id", x.request_id


def _is_address(host: str) -> bool:
    return host.replace(".", "").isdigit() or ":" in host


def _finish(x: Exchange) -> None:
    """Put the client's response together."""
    headers = x.headers
    is_proxied = x.reply is not None and not x.buffered and not x.exited
    headers.remove(b"Connection")
    headers.add(b"Connection", [b"close" if x.is_closing else b"keep-alive"])
    if not is_proxied and headers.get(b"date") is None:
        headers.add(b"Date", [formatdate(x.kong.facts.clock(), usegmt=True).encode()])
    _add_charset(headers)
    server = f"kong/{x.kong.facts.version}".encode()
    if x.balanced:
        headers.set(b"X-Kong-Upstream-Latency", [b"0"])
        headers.set(b"X-Kong-Proxy-Latency", [b"0"])
        headers.add(b"Via", [b"1.1 " + server])
    else:
        headers.set(b"X-Kong-Response-Latency", [b"0"])
    if headers.get(b"server") is None:
        headers.add(b"Server", [server])
    headers.set(b"X-Kong-Request-Id", [x.request_id])
    status = x.status or 200
    if status == 204:
        # As nginx, whatever a plugin or an upstream gave.
        for name in (b"Content-Type", b"Content-Length", b"Last-Modified"):
            headers.remove(name)
    body = b"" if x.request.method == "HEAD" or status in _WITHOUT_BODY else (x.body or b"")
    reason = x.reply.reason if is_proxied and x.reply is not None else None
    x.response = ClientResponse(status, headers, body, reason)


def _add_charset(headers: Headers) -> None:
    kind = headers.get(b"content-type")
    if kind is None or b";" in kind or headers.get(b"content-encoding") is not None:
        return
    if kind.strip().lower() in _CHARSET_TYPES:
        headers.set(b"Content-Type", [kind + b"; charset=UTF-8"])
