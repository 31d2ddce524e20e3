"""What recordings were made with, again: the real Envoy; a client, upstream and server go by script."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from coprocess.desk.envoy.simulator.bodies import body_of
from coprocess.desk.envoy.simulator.exchange import (
    CHUNK_GAP_S,
    Exchange,
    HttpRequest,
    HttpResponse,
    ServerCall,
    UpstreamReply,
    UpstreamRequest,
)
from coprocess.desk.envoy.simulator.recording import Recording, Stream
from coprocess.gateways.envoy import wire
from tests.envoy.world import Envoy, Listener, cluster
from tests.server import PATIENCE_S

Pairs = list[tuple[str, str]]
#: A reply that came later than that after the message before it was held back on purpose.
_HELD_BACK_MS = 15.0
#: What Envoy sends without waiting is there by then, unless the machine is slow: then it is played again.
_LATE_S = 1.0
#: Envoy's own limits, of seconds, end before that.
_SILENCE_S = 10.0
_BODYLESS = ("100", "204", "304")
#: Envoy says so where it cannot connect.
_AWAY = b"remote connection failure"
#: What gRPC's client in Envoy says of itself.
_OF_GRPC = ("user-agent",)


class HttpMessage(NamedTuple):
    """A request or a response as it was read. `error`: why it is not whole."""

    first_line: str
    headers: Pairs
    body: bytes
    trailers: Pairs
    error: str | None = None


def read_message(file: Any, *, is_bodyless: bool = False, lasts: bool = False) -> HttpMessage:
    """Of HTTP/1.1. `lasts`: where no length is given, the end of the connection ends it."""
    first_line = file.readline().decode("latin-1").strip()
    if not first_line:
        raise ConnectionResetError("the connection was closed")
    headers = _read_headers(file)
    named = {name.lower(): value for name, value in headers}
    body, trailers = b"", []
    try:
        if is_bodyless or first_line.split(" ")[1] in _BODYLESS:
            pass
        elif named.get("transfer-encoding") == "chunked":
            while size := int(file.readline(), 16):
                body += _exactly(file, size)
                file.readline()
            trailers = _read_headers(file)
        elif "content-length" in named:
            body = _exactly(file, int(named["content-length"]))
        elif lasts:
            body = file.read()
    except (ValueError, OSError) as error:
        return HttpMessage(first_line, headers, body, trailers, repr(error))
    return HttpMessage(first_line, headers, body, trailers)


def _exactly(file: Any, size: int) -> bytes:
    content: bytes = file.read(size)
    if len(content) < size:
        raise ConnectionResetError("the connection was closed")
    return content


def _read_headers(file: Any) -> Pairs:
    found = []
    while line := file.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = line.partition(":")
        found.append((name, value.strip()))
    return found


def _lines(first_line: str, headers: Sequence[tuple[str, str]]) -> bytes:
    return "".join(
        [f"{first_line}\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]
    ).encode("latin-1")


def _send(
    connection: socket.socket,
    head: bytes,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    chunks: Sequence[bytes],
    trailers: Sequence[tuple[str, str]],
) -> None:
    if not chunks:
        connection.sendall(head + body)
        return
    is_chunked = any(name.lower() == "transfer-encoding" for name, _ in headers)
    connection.sendall(head)
    for chunk in chunks:  # As the recorder did.
        connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk) if is_chunked else chunk)
        time.sleep(CHUNK_GAP_S)
    if is_chunked:
        connection.sendall(_lines("0", trailers))


class Upstream:
    """Answers as the recording that is played says, and keeps what it got."""

    def __init__(self) -> None:
        self.reply: UpstreamReply | None = None
        self.request: UpstreamRequest | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One request: after a wrong length, nobody could tell where the next one begins."""
        with connection, connection.makefile("rb") as file, suppress(OSError):
            came = read_message(file)
            if came.first_line.count(" ") != 2 or any(not name for name, _ in came.headers):
                return
            method, target, _ = came.first_line.split(" ")
            self.request = UpstreamRequest(
                method, target, tuple(came.headers), came.body, tuple(came.trailers), came.error
            )
            reply = self.reply
            if reply is not None and came.error is None:
                head = _lines(f"HTTP/1.1 {reply.status} Recorded", reply.headers)
                body, chunks = (b"", ()) if method == "HEAD" else (reply.body, reply.chunks)
                _send(connection, head, reply.headers, body, chunks, reply.trailers)
                connection.shutdown(socket.SHUT_WR)
            file.read()  # Until Envoy hangs up.

    def close(self) -> None:
        self._listener.close()


class _Script(grpc.GenericRpcHandler):
    """Plays the streams of a recording, in their order."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.calls: list[ServerCall] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == wire.PROCESS:
            return grpc.stream_stream_rpc_method_handler(self._process)
        if details.method == wire.CHECK:
            return grpc.unary_unary_rpc_method_handler(self._check)
        return None

    def _begin(self, service: str, context: grpc.ServicerContext) -> tuple[ServerCall, Stream]:
        metadata = tuple(
            (key, value if isinstance(value, str) else value.decode("latin-1"))
            for key, value in context.invocation_metadata()
            if key not in _OF_GRPC
        )
        call = ServerCall(service, "", metadata)
        self.calls.append(call)
        for index, stream in enumerate(self.streams):
            if stream.service == service:
                return call, self.streams.pop(index)
        return call, Stream(service, (), ())

    def _process(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        call, stream = self._begin("ext_proc", context)
        came = _read(messages, call)
        last_ms = 0.0
        for entry in stream.entries:
            if entry.event:
                break  # Envoy ends it.
            if entry.is_envoys:
                if next(came, None) is None:
                    return
                last_ms = entry.ms
                continue
            if entry.ms - last_ms > _HELD_BACK_MS:
                time.sleep((entry.ms - last_ms) / 1000)
            last_ms = entry.ms
            if entry.status:
                _end(entry.status, entry.message, context)
                return
            yield entry.raw or b""
        for _ in came:
            pass

    def _check(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        call, stream = self._begin("ext_authz", context)
        call.sent.append(wire.CheckRequest.FromString(payload))
        for entry in stream.entries:
            if entry.is_envoys:
                continue
            if entry.ms > _HELD_BACK_MS:
                time.sleep(entry.ms / 1000)
            if entry.status:
                _end(entry.status, entry.message, context)
            return entry.raw or b""
        time.sleep(1.0)  # There was none: Envoy's time-out is shorter.
        return b""


def _read(messages: Iterator[bytes], call: ServerCall) -> Iterator[Message]:
    with suppress(grpc.RpcError, Exception):  # It was cancelled: which one comes is grpcio's affair.
        for payload in messages:
            message = wire.ProcessingRequest.FromString(payload)
            call.sent.append(message)
            yield message


def _end(status: str, message: str, context: grpc.ServicerContext) -> None:
    if status != "OK":
        context.abort(getattr(grpc.StatusCode, status), message)


#: What is seen of them is chance: a reset may overtake a message, and two answers come one after the other.
_CHANCE = {"fail_two_answers", "full_duplex_plain_reply", "resp_buffered_too_big"}


def is_playable(recording: Recording) -> bool:
    """gRPC and upgraded connections are not: they need clients and upstreams of their own."""
    if recording.name in _CHANCE:
        return False
    is_upgrade = any(name.lower() == "upgrade" for name, _ in recording.http_request.get("headers", ()))
    return not recording.is_grpc and not is_upgrade


def upstream_cluster(name: str, port: int) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        **cluster(name, "127.0.0.1", port),
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
            }
        },
    }


class RecordedWorld:
    """One Envoy for all recordings, within `with`; they are played one after the other."""

    def __init__(self, recordings: Sequence[tuple[Recording, dict[str, Any]]]) -> None:
        """Each with the content of its file."""
        self._upstream = Upstream()
        self._script = _Script()
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self._script])
        port = self._server.add_insecure_port("127.0.0.1:0")
        listeners, clusters = {}, {}
        with socket.create_server(("127.0.0.1", 0)) as closed:
            closed_port = closed.getsockname()[1]
        for recording, content in recordings:
            recorded = content["envoy"]
            listeners[recording.name] = Listener(
                recorded["http_filters"],
                settings={
                    "generate_request_id": False,
                    **recorded.get("hcm", {}),
                    "route_config": {
                        "virtual_hosts": [
                            {
                                "name": "v",
                                "domains": ["*"],
                                "routes": recorded["routes"],
                                **recorded.get("vhost", {}),
                            }
                        ]
                    },
                },
                listener=recorded.get("listener", {}),
                router={"suppress_envoy_headers": True},
            )
            for route in recorded["routes"]:
                name = route.get("route", {}).get("cluster")
                if name:
                    is_away = _AWAY in body_of(content["http_response"].get("body"))
                    clusters[name] = upstream_cluster(name, closed_port if is_away else self._upstream.port)
        clusters["extproc"] = cluster("extproc", "127.0.0.1", port, is_http2=True)
        self._envoy = Envoy(f"127.0.0.1:{port}", self._upstream.port, listeners, list(clusters.values()))

    def __enter__(self) -> RecordedWorld:
        self._server.start()
        self._envoy.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._envoy.__exit__(*exception)
        self._server.stop(None).wait(PATIENCE_S)
        self._upstream.close()

    def play(self, recording: Recording) -> Exchange:
        """What really comes of its request."""
        script, upstream = self._script, self._upstream
        script.streams, script.calls = list(recording.streams), []
        upstream.reply, upstream.request = recording.reply(), None
        response = ask(self._envoy.ports[recording.name], recording.request())
        # What Envoy does not wait for comes later.
        expected = [len(stream.sent) for stream in recording.streams], recording.upstream_request is not None
        until_s = time.monotonic() + _LATE_S
        while time.monotonic() < until_s:
            if ([len(call.sent) for call in script.calls], upstream.request is not None) == expected:
                break
            time.sleep(0.005)
        return Exchange(
            calls=script.calls,
            upstream_request=upstream.request,
            upstream_reply=upstream.reply,
            http_response=response,
        )


def ask(port: int, request: HttpRequest) -> HttpResponse:
    """What a client gets from that port of this machine."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        head = _lines(f"{request.method} {request.target} HTTP/1.1", request.headers)
        with suppress(ConnectionError):  # It was answered before it was read.
            _send(client, head, request.headers, request.body, request.chunks, request.trailers)
        if request.leaves_after_s is not None:
            time.sleep(request.leaves_after_s)
            return HttpResponse(None)
        client.settimeout(_SILENCE_S)
        with client.makefile("rb") as file:
            is_bodyless = request.method == "HEAD"
            try:
                came = read_message(file, is_bodyless=is_bodyless, lasts=True)
                if came.first_line.split(" ")[1] == "100":
                    came = read_message(file, is_bodyless=is_bodyless, lasts=True)
            except OSError as error:
                return HttpResponse(None, error=repr(error))
    status = came.first_line.split(" ")[1]
    if len(status) != 3:
        return HttpResponse(None, error=f"illegal status line: {came.first_line}")
    return HttpResponse(int(status), tuple(came.headers), came.body, tuple(came.trailers), came.error)
