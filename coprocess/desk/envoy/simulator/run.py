"""One request's way through the simulated Envoy: its time, route and metadata, which all filters share."""

from __future__ import annotations

from typing import Any

from coprocess.desk.envoy.simulator.config import EnvoyConfig, Route
from coprocess.desk.envoy.simulator.exchange import ClientLeft, Exchange, HttpRequest
from coprocess.desk.envoy.simulator.headers import HeaderMap
from coprocess.desk.envoy.simulator.server import Server
from coprocess.gateways.envoy import wire


class Run:
    """Time begins at 0 when the headers arrive."""

    def __init__(
        self,
        config: EnvoyConfig,
        server: Server,
        request: HttpRequest,
        *,
        client_address: str = "127.0.0.1",
        partial_body_bytes: int | None = None,
    ) -> None:
        self.config = config
        self.server = server
        self.request = request
        self.exchange = Exchange()
        self.client_address = client_address
        #: How much of a body over the limit is there when BUFFERED_PARTIAL sends it: chance, in Envoy.
        self.partial_body_bytes = partial_body_bytes
        self.now_s = 0.0
        self.route: Route | None = None
        #: The request's, with the edits so far.
        self.request_headers = HeaderMap()
        #: The response's, once there is one.
        self.response_headers: HeaderMap | None = None
        #: Only the router is left, and it has an answer of its own.
        self.answers_next = False
        #: When each part of the client's body arrives, and its size.
        self.arrivals: list[tuple[float, int]] = []

    @property
    def metadata(self) -> dict[str, dict[str, Any]]:
        return self.exchange.dynamic_metadata

    @property
    def is_grpc(self) -> bool:
        return is_grpc(self.request_headers)

    @property
    def received_bytes(self) -> int:
        """Of the client's body, up to now."""
        return sum(size for arrives_at_s, size in self.arrivals if arrives_at_s <= self.now_s)

    def pass_time(self, seconds: float) -> None:
        self.until(self.now_s + seconds)

    def until(self, moment_s: float) -> None:
        """Raises ClientLeft where the client goes before that."""
        leaves_at_s = self.request.leaves_after_s
        if leaves_at_s is not None and moment_s >= leaves_at_s:
            self.now_s = leaves_at_s
            raise ClientLeft
        self.now_s = max(self.now_s, moment_s)

    def choose_route(self) -> None:
        self.route = self.config.route_of(self.request_headers.get(":path") or "")
        if self.route is not None:
            self.exchange.route_name = self.route.name

    def set_metadata(self, namespace: str, values: dict[str, Any]) -> None:
        """Merged key by key."""
        self.metadata.setdefault(namespace, {}).update(values)

    def metadata_context(self, namespaces: tuple[str, ...]) -> wire.Metadata:
        return as_metadata({name: self.metadata[name] for name in namespaces if name in self.metadata})


def is_grpc(headers: HeaderMap) -> bool:
    kind = headers.get("content-type") or ""
    return kind == "application/grpc" or kind.startswith("application/grpc+")


def as_metadata(namespaces: dict[str, Any]) -> wire.Metadata:
    context = wire.Metadata()
    for name, values in namespaces.items():
        fill_struct(context.filter_metadata[name], values)
    return context


def fill_struct(struct: wire.Struct, values: dict[str, Any]) -> None:
    """Numbers become doubles."""
    for key, value in values.items():
        _fill_value(struct.fields[key], value)


def _fill_value(into: wire.Value, value: Any) -> None:
    if value is None:
        into.null_value = 0  # type: ignore[assignment]  # the only value of the enum
    elif isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, (int, float)):
        into.number_value = value
    elif isinstance(value, str):
        into.string_value = value
    elif isinstance(value, dict):
        into.struct_value.SetInParent()
        fill_struct(into.struct_value, value)
    else:
        into.list_value.SetInParent()
        for item in value:
            _fill_value(into.list_value.values.add(), item)


def plain_struct(struct: wire.Struct) -> dict[str, Any]:
    return {key: _plain(struct.fields[key]) for key in struct.fields}


def _plain(value: wire.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain_struct(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)
