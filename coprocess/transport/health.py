"""`grpc.health.v1`: whether this service should get calls, for gateways, load balancers and probes."""

from __future__ import annotations

import threading

from google.protobuf.message import DecodeError

# Only the messages: the package's service would import grpcio, which our engine does without.
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from coprocess.errors import Status
from coprocess.transport.engine import Methods, Rpc, StreamRpc

SERVICE = "grpc.health.v1.Health"
CHECK = f"/{SERVICE}/Check"
WATCH = f"/{SERVICE}/Watch"

#: Streams of Watch that are open at one time; further ones are refused.
MAX_WATCHERS = 100

_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()
_SERVICE_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


class Health:
    """Answers Check and Watch. NOT_SERVING until told otherwise."""

    def __init__(self, services: tuple[str, ...]) -> None:
        """`services` have a status besides "", the whole server's; it is the same for all."""
        self._services = frozenset(("", *services))
        self._lock = threading.Lock()
        self._serving = False
        #: Set once the service is told to stop, also from a signal handler: it takes no lock. Who watches is
        #: told by `set_serving`.
        self.stopping = False
        self._closed = False
        #: Whether the service that each asked for is known.
        self._watchers: dict[StreamRpc, bool] = {}
        self.methods = Methods(unary={CHECK: self._check}, server_streaming={WATCH: self._watch})

    @property
    def serving(self) -> bool:
        return self._serving and not self.stopping

    @property
    def watchers(self) -> int:
        """Streams of Watch that are open."""
        return len(self._watchers)

    def set_serving(self, serving: bool) -> None:
        with self._lock:
            if serving == self._serving:
                return
            self._serving = serving
            status = self._status
            for watcher in [watcher for watcher, known in self._watchers.items() if known]:
                if not watcher.send(status):
                    del self._watchers[watcher]
                    watcher.fail(Status.UNAVAILABLE, "the stream is not read")

    def close(self) -> None:
        """End all streams."""
        with self._lock:
            self._closed = True
            watchers, self._watchers = self._watchers, {}
        for watcher in watchers:
            watcher.fail(Status.UNAVAILABLE, "the service is shutting down")

    def _check(self, rpc: Rpc) -> None:
        known = self._knows(rpc)
        if known:
            rpc.respond(self._status)
        elif known is not None:
            rpc.fail(Status.NOT_FOUND, "unknown service")

    def _knows(self, rpc: Rpc) -> bool | None:
        """Whether the service that is asked for is known; None: that was no request, and it is answered."""
        try:
            return HealthCheckRequest.FromString(rpc.payload).service in self._services
        except DecodeError:
            rpc.fail(Status.INVALID_ARGUMENT, "not a grpc.health.v1.HealthCheckRequest")
            return None

    @property
    def _status(self) -> bytes:
        return _SERVING if self.serving else _NOT_SERVING

    def _watch(self, rpc: StreamRpc) -> None:
        known = self._knows(rpc)
        if known is None:
            return
        rpc.on_cancel(lambda: self._forget(rpc))
        with self._lock:
            refused = self._closed or len(self._watchers) >= MAX_WATCHERS
            # Under the lock, so that no change overtakes the first status. The protocol keeps the stream of
            # an unknown service open, too.
            if not refused and rpc.send(self._status if known else _SERVICE_UNKNOWN):
                self._watchers[rpc] = known
        if refused:
            rpc.fail(Status.RESOURCE_EXHAUSTED, "too many streams watch the health")

    def _forget(self, rpc: StreamRpc) -> None:
        with self._lock:
            self._watchers.pop(rpc, None)
