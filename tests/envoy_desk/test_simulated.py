"""What the real Envoy was seen to do, beyond the recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
HELLO = UpstreamReply(200, (("content-length", "5"),), b"hello")


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
    chunks: tuple[bytes, ...] = (),
    trailers: Headers = (),
    reply: UpstreamReply = HELLO,
    action: Any = None,
) -> Exchange:
    config = EnvoyConfig.read(
        {
            "http_filters": entry if isinstance(entry, list) else [entry],
            "routes": [{"match": {"prefix": "/"}, **(action or {"route": {"cluster": "up"}})}],
        }
    )
    envoy = Envoy(config, Replies(replies or {}, check), lambda request: reply)
    given = (("host", "example.test"), *headers, *([("transfer-encoding", "chunked")] if chunks else []))
    return envoy.request(HttpRequest(method, "/a?b=1", given, b"".join(chunks), chunks, trailers))


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


# What a campaign of random exchanges with Envoy 1.40 found.


def answering(status: int) -> dict[str, wire.ProcessingResponse]:
    reply = wire.ProcessingResponse()
    reply.immediate_response.status.code = status  # type: ignore[assignment]  # any number fits
    return {"request_headers": reply}


def set_(name: str, value: bytes) -> Callable[[Any], None]:
    def edit(mutation: Any) -> None:
        option = mutation.set_headers.add()
        option.header.key, option.header.raw_value = name, value

    return edit


def upstream_headers(exchange: Exchange) -> Headers:
    assert exchange.upstream_request is not None
    return exchange.upstream_request.headers


@pytest.mark.parametrize("name", ["accept", "cache-control", "if-match", "referer", "x-forwarded-port"])
def test_a_clients_lines_of_one_name_are_one(name: str) -> None:
    exchange = run(ext_proc(), headers=((name, "1"), (name, "2")))

    assert (name, "1,2") in upstream_headers(exchange)


def test_nothing_is_joined_to_an_empty_value_with_a_comma() -> None:
    exchange = run(
        ext_proc(), editing("request_headers", append("accept", b"two")), headers=(("accept", ""),)
    )

    assert ("accept", "two") in upstream_headers(exchange)


@pytest.mark.parametrize(
    ("referer", "is_kept"),
    [
        *((text, True) for text in ("http://a/b?c", "/a:b", "a", "", "*", "HTTP://X:65535", "http://[::1]/")),
        *((text, False) for text in ("a b", "\xe9", "http://", "a:80", "mailto:a@b", "http://a:65536/")),
        *((text, False) for text in ("http://u@h/", "/a#b", "http://a_b/")),
    ],
)
def test_a_referer_is_a_url_or_nothing(referer: str, is_kept: bool) -> None:
    exchange = run(ext_proc(), headers=(("referer", referer),))

    assert (("referer", referer) in upstream_headers(exchange)) == is_kept


@pytest.mark.parametrize("name", ["x-envoy-retry-on", "x-envoy-max-retries", "x-forwarded-client-cert"])
def test_what_only_envoy_may_say_is_taken_from_clients(name: str) -> None:
    assert name not in dict(upstream_headers(run(ext_proc(), headers=((name, "1"),))))


def test_an_authority_is_one_or_is_refused() -> None:
    rules = {"allow_all_routing": True}
    for value, host in ((b"a b", "example.test"), (b"other:80", "other:80")):
        exchange = run(ext_proc(mutation_rules=rules), editing("request_headers", set_(":authority", value)))
        assert ("host", host) in upstream_headers(exchange)


@pytest.mark.parametrize(("status", "closes"), [(400, True), (403, False)])
def test_a_bad_request_ends_the_connection(status: int, closes: bool) -> None:
    response = run(ext_proc(), answering(status)).http_response

    assert response.status == status
    assert (("connection", "close") in response.headers) == closes


def test_an_answer_before_the_end_of_the_request_ends_the_connection() -> None:
    response = run(ext_proc(), answering(403), method="POST", chunks=(b"a", b"b")).http_response

    assert ("connection", "close") in response.headers


def test_beside_a_length_there_are_no_trailers() -> None:
    mode = {"request_body_mode": "BUFFERED"}
    reply = wire.ProcessingResponse()
    reply.request_body.response.body_mutation.body = b"new"
    set_("content-length", b"3")(reply.request_body.response.header_mutation)
    exchange = run(
        ext_proc(processing_mode=mode),
        {"request_body": reply},
        method="POST",
        chunks=(b"ab", b"c"),
        trailers=(("x-t", "1"),),
    )

    assert exchange.upstream_request is not None
    assert (exchange.upstream_request.body, exchange.upstream_request.trailers) == (b"new", ())


def test_envoy_says_its_transfer_encoding_beside_a_servers() -> None:
    exchange = run(
        ext_proc(),
        editing("request_headers", set_("transfer-encoding", b"chunked")),
        method="POST",
        chunks=(b"a",),
    )

    assert [name for name, _ in upstream_headers(exchange)].count("transfer-encoding") == 2


def test_a_length_beyond_the_body_is_waited_for_also_where_there_is_none() -> None:
    empty = UpstreamReply(200, (("content-length", "0"),))
    response = run(
        ext_proc(), editing("response_headers", set_("content-length", b"50")), reply=empty
    ).http_response

    assert response.error is not None


def test_an_authority_that_is_set_in_a_response_is_a_host() -> None:
    rules = {"allow_all_routing": True}
    exchange = run(ext_proc(mutation_rules=rules), editing("response_headers", set_(":authority", b"two")))

    assert ("host", "two") in exchange.http_response.headers


def test_a_route_that_answers_by_itself_waits_for_no_body() -> None:
    mode = {"request_header_mode": "SKIP", "request_body_mode": "BUFFERED"}
    exchange = run(
        ext_proc(processing_mode=mode),
        method="POST",
        chunks=(b"a", b"b"),
        action={"direct_response": {"status": 403}},
    )

    assert [message.WhichOneof("request") for message in exchange.calls[0].sent] == ["response_headers"]
    assert exchange.http_response.status == 403


def test_what_is_replaced_in_full_duplex_goes_on() -> None:
    mode = {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}
    reply = wire.ProcessingResponse()
    reply.request_headers.response.status = wire.CommonResponse.CONTINUE_AND_REPLACE
    exchange = run(ext_proc(processing_mode=mode), {"request_headers": reply}, method="POST", chunks=(b"a",))

    assert [message.WhichOneof("request") for message in exchange.calls[0].sent][:2] == [
        "request_headers",
        "request_body",
    ]
    # A plain reply to a body is none there.
    assert exchange.http_response.status == 500


DUPLEX = {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}


def test_without_a_body_one_is_put_in_also_in_full_duplex() -> None:
    reply = wire.ProcessingResponse()
    common = reply.request_headers.response
    common.status = wire.CommonResponse.CONTINUE_AND_REPLACE
    common.body_mutation.body = b"made"
    exchange = run(ext_proc(processing_mode=DUPLEX), {"request_headers": reply})

    assert exchange.upstream_request is not None
    assert exchange.upstream_request.body == b"made"


@pytest.mark.parametrize("mode", ["BUFFERED", "BUFFERED_PARTIAL", "STREAMED", "FULL_DUPLEX_STREAMED"])
@pytest.mark.parametrize("trailer_mode", ["SEND", "SKIP"])
def test_of_a_body_of_no_chunks_before_trailers_nothing_is_sent(mode: str, trailer_mode: str) -> None:
    if mode == "FULL_DUPLEX_STREAMED":
        trailer_mode = "SEND"
    exchange = run(
        ext_proc(processing_mode={"request_body_mode": mode, "request_trailer_mode": trailer_mode}),
        method="POST",
        headers=(("transfer-encoding", "chunked"),),
        trailers=(("x-t", "1"),),
    )

    sent = [message.WhichOneof("request") for message in exchange.calls[0].sent]
    trailers = ["request_trailers"] if trailer_mode == "SEND" else []
    assert sent == ["request_headers", *trailers, "response_headers"]
    assert exchange.upstream_request is not None
    assert exchange.upstream_request.trailers == (("x-t", "1"),)


@pytest.mark.parametrize(("is_lenient", "status"), [(False, 500), (True, 200)])
def test_a_piece_where_none_came_is_a_failure_that_may_let_by(*, is_lenient: bool, status: int) -> None:
    piece = wire.ProcessingResponse()
    piece.request_body.response.body_mutation.streamed_response.body = b"made"
    exchange = run(
        ext_proc(processing_mode=DUPLEX, failure_mode_allow=is_lenient),
        {"request_trailers": piece},
        method="POST",
        headers=(("transfer-encoding", "chunked"),),
        trailers=(("x-t", "1"),),
    )

    assert exchange.http_response.status == status
    asked = exchange.upstream_request
    assert (None if asked is None else asked.body) == (b"" if is_lenient else None)


def test_what_has_passed_in_pieces_is_broken_off_by_an_answer_to_the_trailers() -> None:
    answer = answering(403)["request_headers"]
    both = {"request_trailers": answer, "response_trailers": answer}
    trailers = {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}
    given = (("x-t", "1"),)
    streamed = ext_proc(processing_mode={"request_body_mode": "STREAMED", **trailers})
    exchange = run(streamed, both, method="POST", chunks=(b"a", b"b"), trailers=given)
    asked = exchange.upstream_request
    assert asked is not None
    assert (asked.body, asked.trailers, asked.error is None) == (b"ab", (), False)

    streamed = ext_proc(processing_mode={"response_body_mode": "STREAMED", **trailers})
    reply = UpstreamReply(200, (("transfer-encoding", "chunked"),), b"ab", (b"a", b"b"), given)
    got = run(streamed, both, reply=reply).http_response
    assert (got.status, got.body, got.trailers, got.error is None) == (200, b"ab", (), False)

    buffered = ext_proc(processing_mode={"request_body_mode": "BUFFERED", **trailers})
    assert run(buffered, both, method="POST", chunks=(b"a",), trailers=given).upstream_request is None


def test_trailers_do_not_follow_a_204() -> None:
    reply = UpstreamReply(200, (("transfer-encoding", "chunked"),), b"a", (b"a",), (("x-t", "1"),))
    exchange = run(ext_proc(), editing("response_headers", set_(":status", b"204")), reply=reply)

    assert (exchange.http_response.status, exchange.http_response.trailers) == (204, ())


def test_no_route_no_check() -> None:
    exchange = run(
        ext_authz(),
        check=wire.CheckResponse(),
        action={"match": {"path": "/other"}, "route": {"cluster": "up"}},
    )

    assert (exchange.calls, exchange.http_response.status) == ([], 404)


def test_a_check_is_told_how_much_came_by_then() -> None:
    sizes = []
    for filters in ([ext_authz()], [ext_proc(), ext_authz()]):
        exchange = run(filters, check=wire.CheckResponse(), method="POST", chunks=(b"abc", b"de"))
        question = exchange.calls[-1].sent[0]
        assert isinstance(question, wire.CheckRequest)
        sizes.append(question.attributes.request.http.size)

    assert sizes == [0, 3]


def test_a_part_of_a_body_that_is_as_long_as_it_may_be_is_no_part() -> None:
    body = {"max_request_bytes": 3, "allow_partial_message": True}
    told = []
    for chunks in ((b"abc", b"de"), (b"abcd", b"e")):
        exchange = run(
            ext_authz(with_request_body=body), check=wire.CheckResponse(), method="POST", chunks=chunks
        )
        question = exchange.calls[-1].sent[0]
        assert isinstance(question, wire.CheckRequest)
        pairs = question.attributes.request.http.header_map.headers
        told += [pair.raw_value for pair in pairs if pair.key == "x-envoy-auth-partial-body"]

    assert told == [b"false", b"true"]


def test_a_cookie_that_a_check_adds_is_of_the_same_line() -> None:
    check = wire.CheckResponse()
    option = check.ok_response.headers.add()
    option.header.key, option.header.value = "cookie", "b=2"
    option.append.value = True
    exchange = run(ext_authz(), check=check, headers=(("cookie", "a=1"),))

    assert ("cookie", "a=1; b=2") in upstream_headers(exchange)


def test_with_rules_an_invalid_header_of_a_check_is_left_out() -> None:
    check = wire.CheckResponse()
    option = check.ok_response.headers.add()
    option.header.key, option.header.value = "x-a", "a\r\nb"
    exchange = run(ext_authz(decoder_header_mutation_rules={}), check=check)

    assert exchange.http_response.status == 200
    assert "x-a" not in dict(upstream_headers(exchange))


def test_the_status_of_what_is_answered_tells_grpcs() -> None:
    entry = ext_proc(response_attributes=["response.grpc_status", "response.flags"])
    exchange = run(entry, action={"match": {"path": "/other"}, "route": {"cluster": "up"}})

    told = exchange.calls[0].sent[-1]
    assert isinstance(told, wire.ProcessingRequest)
    fields = told.attributes["envoy.filters.http.ext_proc"].fields
    assert (fields["response.grpc_status"].number_value, fields["response.flags"].number_value) == (12, 256)
