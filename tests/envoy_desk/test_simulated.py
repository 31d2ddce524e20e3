"""What the real Envoy was seen to do, beyond the recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coprocess.desk.envoy.simulator import (
    Envoy,
    EnvoyConfig,
    Exchange,
    HttpRequest,
    ProcessStream,
    ServerEnd,
    ServerMessage,
    UpstreamReply,
)
from coprocess.gateways.envoy import wire
from tests.envoy.world import ext_authz, ext_proc

Headers = tuple[tuple[str, str], ...]


class Replies:
    """Answers each message by its kind; what has none gets an empty reply of its kind."""

    def __init__(self, by_kind: dict[str, wire.ProcessingResponse], check: wire.CheckResponse | None) -> None:
        self.by_kind = by_kind
        self.check_reply = check

    def process(self, cluster: str, metadata: Headers) -> ProcessStream:
        return _Stream(self.by_kind)

    def check(
        self, cluster: str, metadata: Headers, payload: bytes, timeout_s: float | None
    ) -> tuple[ServerMessage | ServerEnd | None, float]:
        assert self.check_reply is not None
        return ServerMessage(self.check_reply.SerializeToString()), 0.001


class _Stream(ProcessStream):
    def __init__(self, by_kind: dict[str, wire.ProcessingResponse]) -> None:
        self._by_kind = by_kind
        self._waiting: list[ServerMessage] = []

    def send(self, payload: bytes) -> bool:
        kind = wire.ProcessingRequest.FromString(payload).WhichOneof("request") or ""
        reply = self._by_kind.get(kind, wire.ProcessingResponse())
        if reply.WhichOneof("response") is None:
            getattr(reply, kind).SetInParent()
        self._waiting.append(ServerMessage(reply.SerializeToString()))
        return True

    def receive(self, timeout_s: float) -> tuple[ServerMessage | ServerEnd | None, float]:
        return (self._waiting.pop(0), 0.001) if self._waiting else (None, timeout_s)

    def poll(self) -> ServerMessage | ServerEnd | None:
        return self._waiting.pop(0) if self._waiting else None

    def close(self) -> None:
        pass


def run(
    entry: Any,
    replies: dict[str, wire.ProcessingResponse] | None = None,
    *,
    check: wire.CheckResponse | None = None,
    method: str = "GET",
    headers: Headers = (),
) -> Exchange:
    config = EnvoyConfig.read(
        {"http_filters": [entry], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}
    )
    reply = UpstreamReply(200, (("content-length", "5"),), b"hello")
    envoy = Envoy(config, Replies(replies or {}, check), lambda request: reply)
    return envoy.request(HttpRequest(method, "/a?b=1", (("host", "example.test"), *headers)))


def editing(kind: str, edit: Callable[[Any], None]) -> dict[str, wire.ProcessingResponse]:
    reply = wire.ProcessingResponse()
    edit(getattr(reply, kind).response.header_mutation)
    return {kind: reply}


def append(name: str, value: bytes) -> Callable[[Any], None]:
    def edit(mutation: Any) -> None:
        option = mutation.set_headers.add()
        option.header.key, option.header.raw_value = name, value
        option.append.value = True

    return edit


def test_a_pseudo_header_takes_no_second_value() -> None:
    exchange = run(ext_proc(), editing("request_headers", append(":path", b"/other")))

    assert exchange.upstream_request is not None
    assert exchange.upstream_request.target == "/a?b=1"
    assert exchange.calls[0].refused_edits == 1


def test_of_some_headers_there_is_one_line() -> None:
    given = (("user-agent", "one"),)
    exchange = run(ext_proc(), editing("request_headers", append("user-agent", b"two")), headers=given)

    assert exchange.upstream_request is not None
    assert ("user-agent", "one,two") in exchange.upstream_request.headers


def test_host_is_a_header_of_responses() -> None:
    rules = {"allow_all_routing": True}
    exchange = run(ext_proc(mutation_rules=rules), editing("response_headers", append("host", b"x")))

    assert ("host", "x") in exchange.http_response.headers


def test_a_client_reads_as_much_as_it_is_told_of() -> None:
    def shorten(mutation: Any) -> None:
        option = mutation.set_headers.add()
        option.header.key, option.header.raw_value = "content-length", b"3"

    exchange = run(ext_proc(), editing("response_headers", shorten))

    assert exchange.http_response.body == b"hel"


def test_a_check_whose_parameters_are_encoded_is_refused_where_it_is_validated() -> None:
    check = wire.CheckResponse()
    check.status.code = 0
    parameter = check.ok_response.query_parameters_to_set.add()
    parameter.key, parameter.value = "q", "a%20b"

    assert run(ext_authz(validate_mutations=True), check=check).http_response.status == 500
    asked = run(ext_authz(), check=check).upstream_request
    assert asked is not None
    assert asked.target == "/a?b=1&q=a%20b"


def test_line_breaks_split_a_response_of_a_check() -> None:
    check = wire.CheckResponse()
    check.status.code = 0
    option = check.ok_response.response_headers_to_add.add()
    option.header.key, option.header.value = "x-a", "1\r\nx-injected: 2"

    assert ("x-injected", "2") in run(ext_authz(), check=check).http_response.headers


def test_in_the_mode_grpc_only_what_came_with_the_headers_is_sent() -> None:
    mode = {"request_body_mode": "GRPC", "response_body_mode": "GRPC"}
    exchange = run(ext_proc(processing_mode=mode))

    sent = [message.WhichOneof("request") for message in exchange.calls[0].sent]
    assert sent == ["request_headers", "response_headers", "response_body"]
    assert exchange.http_response.body == b"hello"


def test_a_streamed_response_in_the_place_of_a_body_is_of_no_length() -> None:
    """As the real one says, where there is a content-length."""
    mutated = wire.ProcessingResponse()
    mutated.response_body.response.body_mutation.streamed_response.body = b"hello"

    exchange = run(ext_proc(processing_mode={"response_body_mode": "BUFFERED"}), {"response_body": mutated})

    assert exchange.http_response.status == 500


def test_connect_and_upgrades_that_are_not_configured_go_nowhere() -> None:
    """As the real one: 404 where no route is CONNECT's, 403 for another upgrade; filters see the answer."""
    upgrade = (("connection", "upgrade"), ("upgrade", "websocket"))
    for refused, status in (
        (run(ext_proc(), method="CONNECT"), 404),
        (run(ext_proc(), headers=upgrade), 403),
    ):
        assert (refused.http_response.status, refused.upstream_request) == (status, None)
        sent = [message.WhichOneof("request") for call in refused.calls for message in call.sent]
        assert sent == ["response_headers"]
