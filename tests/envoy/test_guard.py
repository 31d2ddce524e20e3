"""The traps of Envoy: each named, and none sprung, whatever a handler did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, Pre, Response, respond
from coprocess.bounded import LONGEST_NAME
from coprocess.errors import HandlerFailed
from coprocess.gateways.envoy import encoding, guard, wire
from coprocess.gateways.envoy.messages import Fields
from tests.envoy.drive import GET, OK, POST, Stream, check, check_request, edits, header_map


def post(edit: Callable[[Any], Any]) -> Callable[..., Any]:
    def handler(request: Any) -> Any:
        return edit(request)

    return Post(handler)


def refusal_of(handler: Callable[..., Any]) -> wire.ImmediateResponse:
    """The answer where what the handler left cannot go out."""
    stream = Stream(handler)
    reply = stream.request()
    assert reply.WhichOneof("response") == "immediate_response"
    assert reply.immediate_response.status.code == 500
    assert stream.exchange.is_done
    return reply.immediate_response


def unchecked(name: str, value: str) -> Callable[..., Any]:
    def edit(request: Any) -> None:
        # Past the checks of the mapping itself.
        request.headers._values.add(name, value)
        request.headers.edited.add(name)

    return post(edit)


@pytest.mark.parametrize(
    "name", ["Content-Length", "Transfer-Encoding", "Connection", "Host", "Upgrade", "content-length", "TE"]
)
def test_framing_headers_do_not_go_out_as_they_smuggle_requests(name: str) -> None:
    @Post
    def handler(request: Any) -> None:
        request.headers[name] = "3"
        request.headers.add(name, "4")
        request.headers["X-A"] = "1"

    assert edits(Stream(handler).request(POST, end=False).request_headers.response) == [("x-a", b"1", False)]

    @Post
    def remover(request: Any) -> None:
        request.headers.pop(name, None)

    reply = Stream(remover).request([*POST, (name.lower(), "5")], end=False)
    assert reply.SerializeToString() == b"\x0a\x00"


def test_an_empty_name_does_not_go_out_as_it_breaks_the_upstreams_connection() -> None:
    refusal_of(unchecked("", "x"))


@pytest.mark.parametrize("name", ["a b", "a\r\nb", ":path", "ä"])
def test_a_name_that_is_no_token_does_not_go_out(name: str) -> None:
    refusal_of(unchecked(name, "x"))


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0b"])
def test_line_breaks_in_a_value_do_not_go_out(value: str) -> None:
    refusal_of(unchecked("X-A", value))


def test_more_than_100_edits_do_not_go_out() -> None:
    def many(count: int) -> Callable[..., Any]:
        def edit(request: Any) -> None:
            for number in range(count):
                request.headers[f"X-{number}"] = "1"

        return post(edit)

    assert len(edits(Stream(many(100)).request().request_headers.response)) == 100
    assert "101 header edits" in refusal_of(many(101)).details


def test_values_go_out_as_raw_value_and_adding_by_append() -> None:
    @Post
    def handler(request: Any) -> None:
        request.headers["X-A"] = "ä"
        request.headers.add("X-A", "2")
        del request.headers["X-B"]

    common = Stream(handler).request([*GET, ("x-b", "1")]).request_headers.response
    assert edits(common) == [("x-a", "ä".encode(), False), ("x-a", b"2", True)]
    assert list(common.header_mutation.remove_headers) == ["x-b"]
    actions = [option.append_action for option in common.header_mutation.set_headers]
    assert actions == [wire.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD, 0]


def test_latin_1_that_came_goes_out_as_it_came() -> None:
    @Post
    def handler(request: Any) -> None:
        request.headers.add("X-Name", "new")

    common = Stream(handler).request([*GET, ("x-name", b"J\xf6rg")]).request_headers.response
    assert edits(common) == [("x-name", b"J\xf6rg", False), ("x-name", b"new", True)]


@pytest.mark.parametrize("status", [100, 199, 600, 999])
def test_status_42_is_not_sent_as_it_would_answer_200(status: int) -> None:
    @Response
    def edit(response: Any) -> None:
        response._status = status

    reply = _responded(edit)
    assert reply.immediate_response.status.code == 500

    @Post
    def handler() -> Any:
        answer = respond(200)
        answer.status = status
        return answer

    assert Stream(handler).request().immediate_response.status.code == 500


def _responded(handler: Callable[..., Any]) -> wire.ProcessingResponse:
    stream = Stream(handler)
    stream.request()
    return stream.response()


@pytest.mark.parametrize("status", [204, 205, 304])
def test_204_has_no_body_as_it_would_have_a_wrong_length(status: int) -> None:
    @Post
    def handler() -> Any:
        return respond(status, "text", headers={"Content-Length": "4", "X-A": "1"})

    answer = Stream(handler).request().immediate_response
    assert (answer.status.code, answer.body) == (status, b"")
    assert [option.header.key for option in answer.headers.set_headers] == ["x-a"]


def test_cookies_of_an_answer_are_lines_of_their_own() -> None:
    @Post
    def handler() -> Any:
        return respond(200, headers=[("Set-Cookie", "a"), ("Set-Cookie", "b")])

    options = Stream(handler).request().immediate_response.headers.set_headers
    assert [(each.header.raw_value, each.append.value) for each in options] == [(b"a", False), (b"b", True)]


def test_a_new_body_has_its_content_length() -> None:
    @Post
    def handler(request: Any) -> None:
        request.body = request.body * 2

    stream = Stream(handler)
    asked = stream.request(POST, end=False)
    assert asked.request_headers == wire.HeadersResponse()
    assert asked.mode_override.request_body_mode == wire.ProcessingMode.BUFFERED
    (reply,) = stream.body(b"12345")
    common = reply.request_body.response
    assert edits(common) == [("content-length", b"10", False)]
    assert common.body_mutation.body == b"1234512345"


def test_an_emptied_body_is_cleared_with_content_length_0() -> None:
    @Post
    def handler(request: Any) -> None:
        request.body = b""

    stream = Stream(handler)
    stream.request(POST, end=False)
    (reply,) = stream.body(b"12345")
    common = reply.request_body.response
    assert edits(common) == [("content-length", b"0", False)]
    assert common.body_mutation.clear_body


def test_a_body_where_there_was_none_goes_with_continue_and_replace() -> None:
    @Post
    def handler(request: Any) -> None:
        request.body = b"new"

    common = Stream(handler).request().request_headers.response
    assert common.status == wire.CommonResponse.CONTINUE_AND_REPLACE
    assert common.body_mutation.body == b"new"


def test_nothing_in_the_place_of_no_body_is_none() -> None:
    """Envoy announced a body in chunks: upstreams refuse a GET that has one."""

    @Post
    def empties(request: Any) -> None:
        request.body = b""

    @Response
    def empties_too(response: Any) -> None:
        response.body = b""

    stream = Stream(empties, empties_too)
    assert not stream.request().request_headers.response.HasField("body_mutation")
    assert not stream.response(end=True).response_headers.response.HasField("body_mutation")


def test_a_body_that_another_filter_did_not_send_closes_and_is_remembered() -> None:
    """`mode_override` is dropped in silence where the filter does not allow it."""

    @Pre
    def handler(request: Any) -> None:
        request.headers["X-A"] = request.text

    stream = Stream(handler)
    stream.request(POST, end=False)
    assert stream.response().immediate_response.status.code == 500
    again = Stream(gateway=stream.gateway)
    reply = again.request(POST, end=False)
    assert "allow_mode_override" in reply.immediate_response.details


@pytest.mark.parametrize(
    "header",
    [
        ("upgrade", "websocket"),
        ("content-type", "application/grpc"),
        ("content-type", "application/grpc+proto"),
    ],
)
def test_the_body_of_upgrades_and_grpc_is_not_asked_for_as_it_never_ends(header: tuple[str, str]) -> None:
    @Post
    def may_read(request: Any) -> None:
        if request.headers.get("X-Read"):
            request.headers["X-A"] = request.text

    assert Stream(may_read).request([*POST, header], end=False) == wire.ProcessingResponse(
        request_headers=wire.HeadersResponse()
    )
    reply = Stream(may_read).request([*POST, header, ("x-read", "1")], end=False)
    assert reply.immediate_response.status.code == 500


def test_a_part_of_a_body_is_not_the_body() -> None:
    @Post
    def handler(request: Any) -> None:
        request.headers["X-A"] = request.text

    stream = Stream(handler, request_mode=wire.ProcessingMode.BUFFERED_PARTIAL)
    stream.request(POST, end=False)
    (reply,) = stream.body(b"12", end=False)
    assert reply.immediate_response.status.code == 413


def test_trailers_without_a_body_do_not_pass_by_the_handlers() -> None:
    """Envoy sends no body message then: of trailers it tells where it is asked to."""

    @Post
    def handler(request: Any) -> Any:
        return respond(403) if not request.body else None

    stream = Stream(handler)
    stream.gateway.chain({}, "").overrides_of(0, 0).works = True
    asked = stream.request(POST, end=False)
    assert asked.mode_override.request_trailer_mode == wire.ProcessingMode.SEND
    reply = stream.one(wire.ProcessingRequest(request_trailers=wire.HttpTrailers()))
    assert reply.immediate_response.status.code == 403


def test_edits_that_trailers_cannot_carry_close() -> None:
    @Post
    def handler(request: Any) -> None:
        request.headers["X-A"] = request.text

    stream = Stream(handler)
    stream.request(POST, end=False)
    reply = stream.one(wire.ProcessingRequest(request_trailers=wire.HttpTrailers()))
    assert reply.immediate_response.status.code == 500


def test_a_new_body_is_put_in_where_none_came_but_trailers_in_no_mode() -> None:
    """In FULL_DUPLEX_STREAMED it is Envoy that fails, and its failure mode may let the request by."""

    @Post
    def makes(request: Any) -> None:
        request.body = request.raw_body + b"new"
        request.headers["X-A"] = "1"

    @Post
    def reads(request: Any) -> None:
        request.headers["X-A"] = str(len(request.raw_body))

    trailers = wire.ProcessingRequest(request_trailers=wire.HttpTrailers())
    headers = wire.HttpHeaders(headers=header_map(POST[:4]))
    for handler, kinds in (
        (makes, ["immediate_response"]),
        (reads, ["request_headers", "request_trailers"]),
    ):
        stream = Stream(handler, request_mode=4)
        assert stream.send(wire.ProcessingRequest(request_headers=headers)) == []
        assert [reply.WhichOneof("response") for reply in stream.send(trailers)] == kinds
    # Where a piece came, there is room.
    stream = Stream(makes, request_mode=4)
    stream.send(wire.ProcessingRequest(request_headers=headers))
    assert stream.body(b"", end=False) == []
    _, piece, _ = stream.send(trailers)
    assert piece.request_body.response.body_mutation.streamed_response.body == b"new"


def test_a_request_that_no_handler_was_shown_has_no_response() -> None:
    """Of a filter with request_header_mode SKIP: nobody was asked whether it may pass."""

    @CustomKeyCheck
    def auth() -> None:
        raise AssertionError("not shown")

    @Response
    def stamp(response: Any) -> None:
        response.headers["X-A"] = "1"

    passed = [*OK, ("x-envoy-upstream-service-time", "3")]
    for handlers in ((auth,), (auth, stamp)):
        assert Stream(*handlers).response(passed).immediate_response.status.code == 500
        # What Envoy, or another filter, has answered; with what another service gave that.
        for local in (OK, [(":status", "401"), *passed[1:]], [(":status", "302"), *passed[1:]]):
            assert Stream(*handlers).response(local).WhichOneof("response") == "response_headers"
    assert Stream(stamp).response(passed).WhichOneof("response") == "response_headers"


@pytest.mark.parametrize("message", [b"\xff\xff", b"", wire.ProcessingRequest().SerializeToString()])
def test_garbage_is_refused_and_not_let_pass(message: bytes) -> None:
    @Post
    def handler() -> None:
        pass

    assert Stream(handler).one(message).immediate_response.status.code == 500


def test_replies_are_of_the_type_of_their_phase_and_one_for_each_message() -> None:
    @Response
    def handler(response: Any) -> None:
        response.headers["X-A"] = "1"

    stream = Stream(handler)
    assert stream.request(POST, end=False).WhichOneof("response") == "request_headers"
    (reply,) = stream.body(b"12", end=False)
    assert reply.WhichOneof("response") == "request_body"
    trailers = wire.ProcessingRequest(request_trailers=wire.HttpTrailers())
    assert stream.one(trailers).WhichOneof("response") == "request_trailers"
    assert not stream.exchange.is_done
    assert stream.response().WhichOneof("response") == "response_headers"
    assert stream.exchange.is_done


def test_a_request_whose_headers_are_not_sent_does_not_pass_by_its_handlers() -> None:
    @Post
    def handler(request: Any) -> None:
        request.headers["X-A"] = "1"

    (reply,) = Stream(handler).body(b"12345")
    assert reply.immediate_response.status.code == 500


def test_on_error_open_is_an_empty_reply_of_the_right_type() -> None:
    @Post(on_error="open")
    def handler(request: Any) -> None:
        request.headers["X-A"] = "1"
        request.path = "/b"
        raise RuntimeError("no")

    assert Stream(handler).request().SerializeToString() == b"\x0a\x00"


def test_details_are_printable_and_short() -> None:
    @Post
    def handler() -> None:
        raise RuntimeError("ä\r\n" * 1000)

    details = Stream(handler).request().immediate_response.details
    assert details.isascii()
    assert details.isprintable()
    assert "handler" in details
    assert len(details) <= 200


@pytest.mark.parametrize(("header", "value"), [("X-A", "a\r\nb"), ("", "x"), ("a b", "c")])
def test_a_check_closes_for_what_cannot_be_sent(header: str, value: str) -> None:
    @CustomKeyCheck
    def handler(request: Any, session: Any) -> None:
        request.headers._values.add(header, value)
        request.headers.edited.add(header)
        session.allow("a")

    reply = check(handler, request=check_request())
    assert reply.denied_response.status.code == 500


def test_a_check_is_never_answered_with_nothing() -> None:
    @CustomKeyCheck
    def handler(session: Any) -> None:
        session.allow("a")

    assert check(handler, request=check_request()).status.code == 0

    @CustomKeyCheck
    def nobody(session: Any) -> None:
        pass

    assert check(nobody, request=check_request()).denied_response.status.code == 403

    @CustomKeyCheck
    def fails() -> None:
        raise RuntimeError("no")

    assert check(fails, request=check_request()).denied_response.status.code == 500
    assert check(request=check_request()).denied_response.status.code == 500


def test_a_check_sets_value_and_denies_without_append() -> None:
    @CustomKeyCheck
    def handler(request: Any, session: Any) -> Any:
        if "X-Deny" in request.headers:
            return respond(302, headers=[("Location", "/"), ("Set-Cookie", "a"), ("Set-Cookie", "b")])
        request.headers["X-A"] = "1"
        request.headers.add("X-A", "2")
        request.query["q"] = "a b"
        return session.allow("t")

    ok = check(handler, request=check_request()).ok_response
    assert [(each.header.key, each.header.value, each.header.raw_value) for each in ok.headers] == [
        (":path", "/a?b=1&q=a+b", b""),
        ("x-a", "1, 2", b""),
    ]
    assert not ok.query_parameters_to_set
    denied = check(handler, request=check_request([*GET, ("x-deny", "1")])).denied_response
    assert denied.status.code == 302
    assert [(each.header.key, each.HasField("append")) for each in denied.headers] == [
        ("location", False),
        ("set-cookie", False),
        ("set-cookie", False),
    ]


@pytest.mark.parametrize(
    ("came", "left", "of_check"),
    [
        (b"/p\xff?b=\xff&a=\xc3\xa9", b"/p\xff?a=\xc3\xa9&b=\xff&q=1", "/p%FF?a=%C3%A9&b=%FF&q=1"),
        ("/\xe9?b=\xe9&a=%ff".encode(), "/\xe9?a=%ff&b=\xe9&q=1".encode(), "/\xe9?a=%ff&b=\xe9&q=1"),
    ],
)
def test_bytes_of_a_path_or_query_that_nobody_edits_go_back_as_they_came(
    came: bytes, left: bytes, of_check: str
) -> None:
    """HTTP/2 lets them through. Of a Check, which takes text only, as escapes."""

    @Post
    def handler(request: Any) -> None:
        request.query["q"] = "1"

    @CustomKeyCheck
    def auth(request: Any, session: Any) -> None:
        session.allow("t")
        request.query["q"] = "1"

    pairs = [GET[0], (":path", came), *GET[2:]]
    assert edits(Stream(handler).request(pairs).request_headers.response) == [(":path", left, False)]
    (option,) = check(auth, request=check_request(pairs)).ok_response.headers
    assert (option.header.key, option.header.value) == (":path", of_check)


def test_a_check_cannot_change_a_body_and_says_so() -> None:
    @CustomKeyCheck
    def handler(request: Any, session: Any) -> None:
        session.allow("a")
        request.body = b"new"

    assert "ext_proc" in check(handler, request=check_request()).status.message


def test_a_checks_partial_body_is_not_the_body() -> None:
    @CustomKeyCheck
    def handler(request: Any, session: Any) -> None:
        session.allow(request.text)

    whole = check_request([*POST, ("x-envoy-auth-partial-body", "false")], b"12345")
    assert check(handler, request=whole).status.code == 0
    part = check_request([*POST, ("x-envoy-auth-partial-body", "true")], b"123")
    assert check(handler, request=part).denied_response.status.code == 500
    none = check_request(POST)
    assert check(handler, request=none).denied_response.status.code == 500


@pytest.mark.parametrize("body", [b"", b"12345"])
def test_a_response_is_not_left_with_the_old_length(body: bytes) -> None:
    @Response
    def handler(response: Any) -> None:
        response.body = b"other"

    stream = Stream(handler)
    stream.request()
    asked = stream.response(OK)
    assert asked.mode_override.response_body_mode == wire.ProcessingMode.BUFFERED
    (reply,) = stream.response_body(body)
    assert edits(reply.response_body.response) == [("content-length", b"5", False)]


def test_one_edit_is_encoded_as_many_are() -> None:
    values = ["1", "", "ä", "x" * 100, "x" * 200, "x" * 20_000, "a,b", "\udcff"]
    for name in ["X-A", "Content-Length", "Cookie", "X-B" + "b" * 130]:
        for value in values:
            headers = Fields([wire.HeaderValue(key="x-c", raw_value=b"c")])
            headers["X-A"] = "0"
            headers.replaced = {name: value}
            general = guard.Edits()
            general.take(headers)
            mutation = general.encoded()
            for kind in (encoding.REQUEST_HEADERS, encoding.RESPONSE_HEADERS):
                reply = guard.small_reply(kind, headers)
                if len(name) > LONGEST_NAME:
                    assert reply is None
                    continue
                assert reply == encoding.reply(kind, encoding.field(2, mutation) if mutation else b"")
    headers = Fields([])
    headers.replaced = {"X-A": "1", "X-B": "2"}
    assert guard.small_reply(encoding.REQUEST_HEADERS, headers) is None
    headers.replaced = {"X-A": "a\nb"}
    with pytest.raises(HandlerFailed, match="line break in header X-A"):
        guard.small_reply(encoding.REQUEST_HEADERS, headers)
