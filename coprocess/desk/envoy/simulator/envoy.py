"""The simulated Envoy: one listener that takes a request through its filters to the upstream and back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace

from coprocess.desk.envoy.simulator.config import EnvoyConfig, FilterConfig
from coprocess.desk.envoy.simulator.exchange import (
    ARRIVAL_S,
    CHUNK_GAP_S,
    ClientLeft,
    Exchange,
    HttpMessage,
    HttpRequest,
    HttpResponse,
    LocalReply,
    NeverEnds,
    Upstream,
    UpstreamReply,
)
from coprocess.desk.envoy.simulator.ext_authz import ExtAuthzFilter
from coprocess.desk.envoy.simulator.ext_proc import ExtProcFilter
from coprocess.desk.envoy.simulator.filter_config import ExtAuthzConfig, ExtProcConfig, SetMetadataConfig
from coprocess.desk.envoy.simulator.headers import HeaderMap
from coprocess.desk.envoy.simulator.http import (
    Unreadable,
    fault_of,
    grpc_status_of,
    percent_encoded,
    response_headers,
    upstream_request,
)
from coprocess.desk.envoy.simulator.run import Run, is_grpc
from coprocess.desk.envoy.simulator.server import Server
from coprocess.errors import ConfigError

_BAD_REQUEST = 400
_BODYLESS = (204, 304)
_RESET = b"upstream connect error or disconnect/reset before headers. reset reason: "
#: Of a client's headers, what the filters are not shown.
_NOT_TAKEN = frozenset(
    {"keep-alive", "proxy-connection", "transfer-encoding", "expect", "x-forwarded-client-cert"}
    | {f"x-envoy-{kind}" for kind in ("internal", "force-trace", "ip-tags", "original-url", "retry-on")}
    | {f"x-envoy-{kind}" for kind in ("max-retries", "retry-grpc-on", "hedge-on-per-try-timeout")}
    | {f"x-envoy-{kind}" for kind in ("upstream-alt-stat-name", "upstream-rq-timeout-ms")}
    | {"x-envoy-expected-rq-timeout-ms", "x-envoy-upstream-stream-duration-ms"}
)
#: What Envoy takes for a URL: with a scheme and a host, or a path.
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d+))?([/?][!-~]*)?"
    r"|(?![^/]*:)([\w!$&'()*+,;=.~@%/:-][\w!$&'()*+,;=.~@%/:?-]*|\??)",
    re.ASCII,
)


class Envoy:
    """Asks `server` as the filters of `config` say, and `upstream` for what passes."""

    def __init__(
        self,
        config: EnvoyConfig,
        server: Server,
        upstream: Upstream,
        *,
        clock: Callable[[], float] = time.time,
        partial_body_bytes: int | None = None,
    ) -> None:
        self._config = config
        self._server = server
        self.upstream = upstream
        self._clock = clock
        self._partial_body_bytes = partial_body_bytes

    def request(self, request: HttpRequest) -> Exchange:
        """Take one request through. Raises ConfigError for what is configured and not simulated."""
        run = Run(self._config, self._server, request, partial_body_bytes=self._partial_body_bytes)
        return _Passage(self._config, run, self.upstream, self._clock).result()


class _Passage:
    """One request on its way."""

    def __init__(self, config: EnvoyConfig, run: Run, upstream: Upstream, clock: Callable[[], float]) -> None:
        self._config = config
        self._run = run
        self._upstream = upstream
        self._clock = clock
        self._filters = [(entry, _filter(entry, run)) for entry in config.filters]
        self._request = _received(run.request, config)
        run.request_headers = self._request.headers
        #: Of what the client sends, whatever becomes of it.
        self._ends_at_s = self._request.ends_at_s
        run.arrivals = [(arrives_at_s, len(chunk)) for arrives_at_s, chunk in self._request.chunks]

    def result(self) -> Exchange:
        exchange = self._run.exchange
        try:
            exchange.http_response = self._answered()
        except ClientLeft:
            exchange.http_response = HttpResponse(None, error="the client left")
            exchange.details = "downstream_remote_disconnect"
        except NeverEnds:
            exchange.http_response = HttpResponse(None, error="Envoy waits for the end of the body, for ever")
        finally:
            for _, each in self._filters:
                each.close()
        return exchange

    def _answered(self) -> HttpResponse:
        try:
            reply = self._forward()
        except LocalReply as local:
            self._note_what_left(local)
            response = self._local(local)
            if self._config.processes_local_replies:
                return self._respond(response, local)
            self._through_authorizers(response)
            return self._sent(response, closes=self._closes(local))
        response = self._of_upstream(reply)
        if not response.is_tunnel:
            return self._respond(response)
        sent = self._respond(response)
        return sent if sent.status != 101 else replace(sent, body=self._tunnelled(reply))

    # The request.

    def _forward(self) -> UpstreamReply:
        self._run.choose_route()
        is_connect = self._request.headers.get(":method") == "CONNECT"
        upgrade = "connect" if is_connect else (self._request.headers.get("upgrade") or "").lower()
        if upgrade and upgrade not in self._config.upgrades:
            # Routes are not CONNECT's, unless they say so.
            is_routed = self._run.route is not None and not is_connect
            raise LocalReply(403 if is_routed else 404, details="upgrade_failed")
        if is_connect:
            raise ConfigError("what passes after CONNECT is not simulated")
        for entry, each in self._filters:
            self._begin(entry, each)
            route = self._run.route
            is_local = route is None or route.direct_response is not None
            self._run.answers_next = is_local and each is self._filters[-1][1]
            each.request(self._request)
        return self._ask_upstream()

    def _begin(self, entry: FilterConfig, each: _Filter) -> None:
        settings = entry.on_route(self._run.route, self._config.vhost)
        each.begin(settings)  # type: ignore[arg-type]  # a filter's settings are of its own type

    def _ask_upstream(self) -> UpstreamReply:
        run, headers = self._run, self._request.headers
        route = run.route
        if route is None:
            raise LocalReply(404, details="route_not_found")
        if route.direct_response is not None:
            status, body = route.direct_response
            raise LocalReply(status, body, details="direct_response")
        fault = fault_of(headers)
        if fault is not None:
            details = f"filter_removed_required_request_headers{{{fault.replace(' ', '_')}}}"
            raise LocalReply(503, fault.encode("latin-1"), details=details)
        run.until(self._upstream_has_it_at_s())
        try:
            request = upstream_request(self._request, is_http2=is_grpc(headers))
        except Unreadable:
            raise _reset("connection termination") from None
        run.exchange.upstream_request = request
        if request.error is not None:
            raise self._late(route.timeout_s)
        try:
            reply = self._upstream(request)
        except TimeoutError:
            raise self._late(route.timeout_s) from None
        except ConnectionResetError:
            raise _reset("connection termination") from None
        except OSError:
            run.exchange.upstream_request = None
            raise _reset("remote connection failure") from None
        run.exchange.upstream_reply = reply
        return reply

    def _upstream_has_it_at_s(self) -> float:
        """It answers once it has as much of the body as it was told of."""
        length = self._request.headers.get("content-length") or ""
        if length.isdecimal() and int(length) < len(self._request.body):
            return self._request.arrival_of(int(length)) if int(length) else self._run.now_s
        return self._request.ends_at_s

    def _late(self, timeout_s: float) -> LocalReply:
        """What is due when the upstream does not answer in time: a route's 0 s are no limit."""
        if timeout_s == 0:
            raise NeverEnds
        self._run.pass_time(timeout_s)
        return LocalReply(504, b"upstream request timeout", details="response_timeout")

    def _note_what_left(self, local: LocalReply) -> None:
        route = self._run.route
        left = local.request_left
        if left is None or route is None or route.direct_response is not None:
            return
        try:
            request = upstream_request(left, is_http2=is_grpc(left.headers))
        except Unreadable:
            return
        self._run.exchange.upstream_request = replace(request, trailers=(), error="Envoy broke it off")

    # The response.

    def _of_upstream(self, reply: UpstreamReply) -> HttpMessage:
        headers = HeaderMap([(":status", str(reply.status)), *reply.headers])
        is_head = self._request.headers.get(":method") == "HEAD"
        is_tunnel = reply.status == 101 and self._request.is_tunnel
        has_body = not is_head and reply.status not in (204, 304) and reply.status >= 200
        chunks = (reply.chunks or ((reply.body,) if reply.body else ())) if has_body else ()
        is_chunked = bool(reply.chunks) or "chunked" in (headers.get("transfer-encoding") or "")
        ends = not is_tunnel and not chunks and not (has_body and (is_chunked or reply.trailers))
        trailers = HeaderMap(reply.trailers) if reply.trailers and has_body else None
        return _message(
            *(headers, chunks, self._run.now_s, bool(reply.chunks)),
            ends_with_headers=ends,
            trailers=trailers,
            is_tunnel=is_tunnel,
        )

    def _local(self, local: LocalReply) -> HttpMessage:
        """Envoy's own answer."""
        self._run.exchange.details = local.details
        headers, body = HeaderMap([(":status", str(local.status))]), local.body
        if local.edit is not None:
            local.edit(headers)
        headers.set_in_place(":status", str(local.status))
        if self._run.is_grpc:
            status = local.grpc_status if local.grpc_status is not None else grpc_status_of(local.status)
            headers.set_in_place(":status", "200")
            headers.remove("content-length")
            headers.set_in_place("content-type", "application/grpc")
            headers.set_in_place("grpc-status", str(status))
            if body:
                headers.set_in_place("grpc-message", percent_encoded(body))
            body = b""
        elif body:
            headers.set_in_place("content-length", str(len(body)))
            if "content-type" not in headers:
                headers.add("content-type", "text/plain")
        else:
            headers.remove("content-length")
            headers.remove("content-type")
        if self._run.request.method == "HEAD":
            body = b""
        chunks = (body,) if body else ()
        return _message(headers, chunks, self._run.now_s, False, ends_with_headers=not body)

    def _closes(self, local: LocalReply | None) -> bool:
        """Whether the connection ends with what is sent now. `local`: where it is Envoy's own answer."""
        now_s, ends_at_s = self._run.now_s, self._ends_at_s
        if local is None:
            return now_s < ends_at_s
        is_unread = now_s <= ends_at_s if local.is_immediate else now_s < ends_at_s
        return is_unread or local.status == _BAD_REQUEST

    def _respond(self, response: HttpMessage, own: LocalReply | None = None) -> HttpResponse:
        """Through the filters, last first, to the client. `own`: where it is Envoy's own answer."""
        self._run.response_headers = response.headers
        try:
            for entry, each in reversed(self._filters):
                self._begin(entry, each)
                each.response(response)
        except LocalReply as local:
            if local.response_left is not None:
                self._run.exchange.details = local.details
                sent = self._sent(local.response_left)
                if sent.status in _BODYLESS:
                    return sent
                return replace(sent, trailers=(), error="Envoy broke it off")
            return self._sent(self._local(local), closes=self._closes(local))
        return self._sent(response, closes=self._closes(own))

    def _through_authorizers(self, response: HttpMessage) -> None:
        for entry, each in reversed(self._filters):
            if isinstance(each, ExtAuthzFilter):
                self._begin(entry, each)
                each.response(response)

    def _sent(self, response: HttpMessage, *, closes: bool = False) -> HttpResponse:
        request, headers = self._run.request, response.headers
        text = headers.get(":status") or ""
        if not text.isdecimal():
            body = b"missing required header: :status"
            told = (("content-length", str(len(body))), ("content-type", "text/plain"), ("server", "envoy"))
            return HttpResponse(502, told, body)
        status = int(text)
        is_head = request.method == "HEAD"
        trailers = tuple(response.trailers or ())
        body = b"" if is_head or status in (204, 304) else response.body
        if request.is_http2:
            headers.remove("transfer-encoding")
            headers.set_in_place("date", "")
            headers.set_in_place("server", "envoy")
            return HttpResponse(status, tuple(headers.regular()), body, trailers)
        pairs = response_headers(
            headers,
            now=self._clock(),
            is_head=is_head,
            ends_with_headers=response.ends_with_headers,
            is_upgrade=response.is_tunnel,
            closes=closes,
        )
        if not 100 <= status <= 999:
            return HttpResponse(None, error=f"illegal status line: HTTP/1.1 {status}")
        length = headers.get("content-length") or ""
        has_none = is_head or status < 200 or status in (204, 304)
        if length or has_none:
            trailers = ()  # They would follow chunks.
        if length.isdecimal() and not has_none and not response.is_tunnel:
            # A client reads as much as it is told of.
            error = "the body is shorter than its content-length" if int(length) > len(body) else None
            return HttpResponse(status, pairs, body[: int(length)], trailers, error)
        return HttpResponse(status, pairs, body, trailers)

    def _tunnelled(self, reply: UpstreamReply) -> bytes:
        """What the client gets after a 101, frame by frame."""
        sent, got = b"", b""
        for index, frame in enumerate(self._run.request.frames):
            for _, each in self._filters:
                frame = each.tunnel("request", frame)
            sent += frame
            answer = reply.frames[index] if index < len(reply.frames) else b""
            for _, each in reversed(self._filters):
                answer = each.tunnel("response", answer) if answer else answer
            got += answer
        asked = self._run.exchange.upstream_request
        if asked is not None:
            self._run.exchange.upstream_request = replace(asked, body=sent)
        return got


class SetMetadataFilter:
    """The filter set_metadata."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._config: SetMetadataConfig | None = None

    def begin(self, config: SetMetadataConfig) -> None:
        self._config = self._config or config

    def request(self, message: HttpMessage) -> None:
        if self._config is None or self._config.is_disabled:
            return
        for namespace, values, may_overwrite in self._config.entries:
            if may_overwrite or namespace not in self._run.metadata:
                self._run.set_metadata(namespace, dict(values))

    def response(self, message: HttpMessage) -> None:
        """Nothing."""

    def tunnel(self, direction: str, frame: bytes) -> bytes:
        return frame

    def close(self) -> None:
        """Nothing."""


_Filter = ExtProcFilter | ExtAuthzFilter | SetMetadataFilter


def _filter(entry: FilterConfig, run: Run) -> _Filter:
    if isinstance(entry.settings, ExtProcConfig):
        return ExtProcFilter(entry.name, run)
    if isinstance(entry.settings, ExtAuthzConfig):
        return ExtAuthzFilter(entry.name, run)
    return SetMetadataFilter(run)


def _received(request: HttpRequest, config: EnvoyConfig) -> HttpMessage:
    """The request as the filters see it."""
    given = HeaderMap(request.headers, is_request=True)
    scheme = given.get("x-forwarded-proto") or ""
    pseudo = {
        ":authority": given.get("host"),
        ":path": request.target,
        ":method": request.method,
        ":scheme": scheme if scheme in ("http", "https") else "http",
    }
    order = (":path", ":authority", ":method", ":scheme") if request.is_http2 else tuple(pseudo)
    known = [(name, value) for name in order if (value := pseudo[name]) is not None]
    headers = HeaderMap(known, is_request=True)
    upgrade = (given.get("upgrade") or "").lower()
    for name, value in given.regular():
        if name in _NOT_TAKEN or (name in ("connection", "upgrade") and not upgrade):
            continue
        if name == "te" and value != "trailers":
            continue
        if name == "referer" and not _is_url(value):
            continue
        headers.add(name, value)
    if "x-forwarded-proto" not in headers:
        headers.add("x-forwarded-proto", "http")
    is_tunnel = bool(upgrade) and upgrade in config.upgrades
    is_chunked = bool(request.chunks) or "chunked" in (given.get("transfer-encoding") or "").lower()
    chunks = request.chunks or ((request.body,) if request.body else ())
    return _message(
        *(headers, chunks, 0.0, bool(request.chunks)),
        ends_with_headers=not (chunks or is_chunked or request.trailers or is_tunnel),
        trailers=HeaderMap(request.trailers) if request.trailers else None,
        is_tunnel=is_tunnel,
    )


def _is_url(text: str) -> bool:
    found = _URL.fullmatch(text)
    return found is not None and int(found["port"] or 0) <= _MAX_PORT


_MAX_PORT = 65535


def _message(
    headers: HeaderMap,
    chunks: tuple[bytes, ...],
    now_s: float,
    comes_slowly: bool,
    *,
    ends_with_headers: bool,
    trailers: HeaderMap | None = None,
    is_tunnel: bool = False,
) -> HttpMessage:
    first_s = now_s + ARRIVAL_S
    gap_s = CHUNK_GAP_S if comes_slowly else 0.0
    return HttpMessage(
        headers,
        [(first_s + index * gap_s, chunk) for index, chunk in enumerate(chunks)],
        ends_with_headers,
        now_s if ends_with_headers else first_s + len(chunks) * gap_s,
        trailers,
        is_tunnel,
    )


def _reset(reason: str) -> LocalReply:
    details = f"upstream_reset_before_response_started{{{reason.replace(' ', '_')}}}"
    return LocalReply(503, _RESET + reason.encode(), details=details)
