"""A service for Envoy in a process of its own, and good load: of a gRPC client, and of the real Envoy."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

from coprocess.gateways.envoy import wire
from tests.chaos.load import HANG_S, Figures
from tests.envoy.call import Call
from tests.envoy.drive import GET, POST, edits, header_map
from tests.envoy.world import Envoy, Json, Listener, Upstream, cluster, ext_proc, find_envoy
from tests.serve_process import ServeProcess, write
from tests.server import Client, status_of

HANDLERS = """
import asyncio
from coprocess import CustomKeyCheck, Post, Pre, Reject, Response

@Pre
def first(request, state):
    state.path = request.path

@CustomKeyCheck
def check(request, session):
    if request.headers.get("Authorization") != "good":
        raise Reject(401, "no such key")
    session.allow("good")

@Post
def guard(request):
    request.headers["X-Guard"] = "1"

@Response
def stamp(response, state):
    response.headers["X-Path"] = state.get("path", "none")

@Post
def shout(request):
    request.headers["X-Guard"] = "1"
    request.body = request.body.upper()

@Post
async def pieces(request):
    request.headers["X-Guard"] = "1"
    body = request.stream(replace=True)
    async for piece in body:
        body.write(piece.upper())

@Post
async def never():
    await asyncio.sleep(3600)

@Post
def fails():
    raise ValueError("as it is told to")
"""
CHAIN = {"pre": "first", "auth-check": "check", "post": "guard", "response": "stamp"}
GOOD_GET = [*GET, ("authorization", "good")]
GOOD_POST = [*POST, ("authorization", "good")]
GUARDED = ("x-guard", b"1", False)
#: What Envoy answers where the service is away, stops, or leaves in the middle.
CLOSED = {500, 503, 504}


def request(pairs: object = None, *, end: bool = True) -> wire.ProcessingRequest:
    headers = header_map(GOOD_GET if pairs is None else pairs)  # type: ignore[arg-type]  # they are Pairs
    return wire.ProcessingRequest(request_headers=wire.HttpHeaders(headers=headers, end_of_stream=end))


@contextmanager
def serving(folder: Path, *flags: str, address: str = "127.0.0.1:0") -> Iterator[ServeProcess]:
    """Must stop by itself at the end: a stream that is held for ever would keep it."""
    handlers = write(folder / "handlers", envoy=HANDLERS)
    with ServeProcess(handlers, "--envoy", "--drain-s=0", *flags, listen=address) as service:
        yield service
        if service.process.poll() is None:
            assert service.end() == 0
            assert not any(line["event"] in LEFT for line in service.lines), service.text[-3000:]


#: What a service logs that did not let go, or failed by itself.
LEFT = {
    "calls were still running",
    "a message of a stream could not be answered",
    "a stream's callback failed",
    "a task raised what it should have kept to itself",
    "the end of a request failed",
}


class Good:
    """Good streams one after the other, on some connections, within `with`."""

    def __init__(self, address: str, connections: int = 2, *, may_be_killed: bool = False) -> None:
        self.answered = 0
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._address = address
        self._may_be_killed = may_be_killed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(connections)]

    def _work(self) -> None:
        while not self._stop.is_set():
            # Anew after an error: a channel waits for a second and more before it tries again.
            with Client(self._address) as client:
                while not self._stop.is_set():
                    end = self._one(client)
                    with self._lock:
                        self.answered += not end
                        if end:
                            self.ends[end] += 1
                        if end and not (self._may_be_killed and end in _KILLED):
                            self.wrong.append(end)
                    if end:
                        time.sleep(0.1)
                        break

    def _one(self, client: Client) -> str:
        """What is wrong."""
        call = Call(client.channel, **CHAIN)
        try:
            reply = call.request(GOOD_GET)
            if GUARDED not in edits(reply.request_headers.response):
                return f"no guard ran: {reply}"
            reply = call.response()
            if ("x-path", b"/a", False) not in edits(reply.response_headers.response):
                return f"no Response handler ran: {reply}"
            return "more came" if call.end() else ""
        except StopIteration:
            return "ended with OK, and owes a reply"
        except grpc.RpcError as error:
            return status_of(error)[0].name

    def __enter__(self) -> Good:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * HANG_S)
        assert kind is not None or not any(thread.is_alive() for thread in self._threads), "a stream hangs"

    def wait_for(self, more: int) -> None:
        """Until so many more were answered: the server is whole then."""
        wait_until(lambda aim=self.answered + more: self.answered >= aim, lambda: f"{self.wrong[:3]}")  # type: ignore[misc]  # its default

    def check(self) -> None:
        assert self.answered, "no good stream ended"
        assert not self.wrong, f"{len(self.wrong)} streams are wrong: {self.wrong[:3]}"

    @property
    def figures(self) -> Figures:
        return {"good_calls": self.answered, "good_failed": len(self.wrong)}


#: How streams end whose server is killed; UNKNOWN: the connection broke in the middle of the reply.
_KILLED = {"UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL"}


def wait_until(condition: Callable[[], bool], about: Callable[[], str] = str) -> None:
    until_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < until_s, f"it never came to that {about()}"
        time.sleep(0.01)


class ThroughEnvoy:
    """Requests through the real Envoy, within `with`, on some connections; none where it does not run."""

    def __init__(self, *addresses: str, connections: int = 2) -> None:
        self.passed = 0
        self.closed = 0
        self.wrong: list[str] = []
        self._addresses = addresses
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(number % 2 == 1,), daemon=True)
            for number in range(connections if find_envoy() is not None else 0)
        ]

    @property
    def runs(self) -> bool:
        return bool(self._threads)

    def _work(self, has_body: bool) -> None:
        while not self._stop.is_set():
            try:
                answered = self._envoy.request(
                    "body" if has_body else "chain",
                    "POST" if has_body else "GET",
                    headers={"Authorization": "good"},
                    body=b"hello" if has_body else None,
                )
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                continue
            guarded = answered.status == 200 and answered.header("x-path") == "/a"
            with self._lock:
                self.passed += guarded
                self.closed += answered.status in CLOSED
            if not guarded and answered.status not in CLOSED:
                self.wrong.append(f"{answered.status} {answered.headers}")
            if not guarded:
                time.sleep(0.05)

    def __enter__(self) -> ThroughEnvoy:
        if self.runs:
            self._upstream = Upstream()
            says = {f"x-coprocess-{key}": value for key, value in CHAIN.items()}
            body = {**says, "x-coprocess-post": "shout"}
            filters = {"chain": ext_proc(says), "body": ext_proc(body, allow_mode_override=True)}
            for each in filters.values():
                each["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = _SERVICES
            self._upstream.__enter__()
            self._envoy = Envoy(
                self._addresses[0],
                self._upstream.port,
                {name: Listener([each]) for name, each in filters.items()},
                [_services(self._addresses)],
            )
            self._envoy.__enter__()
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * HANG_S)
        if self.runs:
            self._envoy.__exit__()
            self._upstream.__exit__()

    @property
    def healthy(self) -> int:
        """How many of the services Envoy sends streams to."""
        return self._envoy.healthy(_SERVICES)

    def wait_for(self, more: int) -> None:
        if self.runs:
            wait_until(lambda aim=self.passed + more: self.passed >= aim, lambda: f"{self.wrong[:3]}")  # type: ignore[misc]  # its default

    def check(self) -> None:
        """No request reached the upstream that the guard did not see."""
        if not self.runs:
            return
        assert not self.wrong, f"{len(self.wrong)} answers are wrong: {self.wrong[:3]}"
        unguarded = [each for each in self._upstream.requests if ["x-guard", "1"] not in _lists(each)]
        assert not unguarded, f"{len(unguarded)} requests went by without the guard: {unguarded[:2]}"
        assert self.passed

    @property
    def figures(self) -> Figures:
        return {"through_envoy": self.passed, "closed_by_envoy": self.closed} if self.runs else {}


_SERVICES = "services"


def _services(addresses: Sequence[str]) -> Json:
    """All at once, as Envoy sees their health."""
    found: Json | None = None
    for address in addresses:
        host, _, port = address.rpartition(":")
        each = cluster(_SERVICES, host, int(port), is_http2=True)
        if found is None:
            found = each
        else:
            found["load_assignment"]["endpoints"] += each["load_assignment"]["endpoints"]
    assert found is not None
    if len(addresses) > 1:
        # Without the second interval, Envoy asks once a minute until the cluster has had traffic.
        check: Json = {"timeout": "1s", "interval": "0.2s", "no_traffic_interval": "0.2s"}
        check |= {"unhealthy_threshold": 1, "healthy_threshold": 1}
        found["health_checks"] = [{**check, "grpc_health_check": {}}]
    return found


def _lists(seen: dict[str, object]) -> list[list[str]]:
    pairs = seen["headers"]
    assert isinstance(pairs, list)
    return [list(pair) for pair in pairs]
