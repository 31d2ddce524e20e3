"""Hostile messages of ext_proc and ext_authz: out of order, spoiled, random, too large."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from coprocess.gateways.envoy import wire
from tests.chaos.envoy_load import CHAIN, GOOD_GET, GOOD_POST, GUARDED, Good, request, serving
from tests.chaos.hostile import CLEAR, mutated
from tests.chaos.load import HANG_S, Figures, rss_mib
from tests.envoy.drive import GET, OK, POST, check_request, edits, header_map
from tests.server import Client, status_of


def trial(folder: Path, count: int, *, seed: int = 15) -> Figures:
    """So many streams of hostile messages, beside good ones: each ends as it must, and none goes by."""
    chosen = random.Random(seed)  # noqa: S311 - it is to be the same every time
    ends: Counter[str] = Counter()
    sizes: list[float] = []
    with serving(folder, f"--max-message-bytes={MAX_MESSAGE_BYTES}", "--timeout-s=5") as service:
        with Good(service.address) as good:
            good.wait_for(50)
            with Client(service.address) as client:
                for number in range(count):
                    ends[hostile_stream(client.channel, chosen)] += 1
                    if number % 10 == 0:
                        ends[hostile_check(client.channel, chosen)] += 1
                    if number % max(count // 4, 1) == 0:
                        sizes.append(rss_mib(service.process.pid))
            good.wait_for(10)
        good.check()
        assert service.process.poll() is None, "the service has ended"
    return {
        "engine": "http2",
        "hostile_streams": count,
        "ends": dict(sorted(ends.items())),
        "rss_mib_by_quarter": [round(each, 1) for each in sizes[:4]],
        **good.figures,
    }


MAX_MESSAGE_BYTES = 256 * 1024


def _messages(chosen: random.Random) -> Iterator[bytes]:
    """Of one stream: out of order, spoiled, random, too large."""
    if chosen.random() < 0.5:
        yield request(chosen.choice((GOOD_GET, GOOD_POST)), end=chosen.random() < 0.5).SerializeToString()
    for _ in range(chosen.randint(1, 6)):
        message = chosen.choice(_KINDS)
        kind = chosen.randrange(8)
        if kind < 4:
            yield message
        elif kind < 6:
            yield mutated(chosen, message)
        elif kind == 6:
            yield chosen.randbytes(chosen.randrange(200))
        else:
            large = MAX_MESSAGE_BYTES + chosen.randint(-500, 500)
            body = wire.HttpBody(body=bytes(large), end_of_stream=chosen.random() < 0.5)
            yield wire.ProcessingRequest(request_body=body).SerializeToString()


def _kinds() -> Iterator[wire.ProcessingRequest]:
    bad = [(":path", b"\xff\r\n"), ("", ""), ("a\x00", "b\r\nc: d")]
    for pairs in (GET, POST, GOOD_GET, GOOD_POST, [], bad):
        for end in (False, True):
            yield request(pairs, end=end)
    for pairs in (OK, [], [(":status", "42")], [(":status", "x" * 5000)]):
        yield wire.ProcessingRequest(response_headers=wire.HttpHeaders(headers=header_map(pairs)))
    for body in (b"", b"x", b"\xff" * 3000):
        for end in (False, True):
            yield wire.ProcessingRequest(request_body=wire.HttpBody(body=body, end_of_stream=end))
            yield wire.ProcessingRequest(response_body=wire.HttpBody(body=body, end_of_stream=end))
    yield wire.ProcessingRequest(request_trailers=wire.HttpTrailers())
    yield wire.ProcessingRequest(response_trailers=wire.HttpTrailers())
    yield wire.ProcessingRequest()
    yield request([*GOOD_GET, *((f"x-{number}", "v") for number in range(2000))])


_KINDS = [each.SerializeToString() for each in _kinds()]
#: What the route says, good and bad.
_SAID: list[dict[str, str]] = [
    *[CHAIN] * 6,
    # Routes of their own: one whose bodies do not come is refused from then on, as if Envoy sent none.
    {**CHAIN, "post": "shout", "api-id": "hostile"},
    {**CHAIN, "post": "pieces", "api-id": "hostile"},
    {**CHAIN, "post": "fails"},
    {},
    {"post": "nobody"},
    {"chain": "%00%ff"},
    {"posst": "guard"},
    {**CHAIN, "config": "%ff%7b" + "[" * 3000},
]


def hostile_stream(channel: Any, chosen: random.Random) -> str:
    says, messages = chosen.choice(_SAID), list(_messages(chosen))
    method = channel.stream_stream(wire.PROCESS, None, None)
    metadata = tuple((f"x-coprocess-{key}", value) for key, value in says.items())
    call = method(iter(messages), timeout=HANG_S, metadata=metadata)
    replies: list[wire.ProcessingResponse] = []
    code, text = "OK", ""
    try:
        replies += (wire.ProcessingResponse.FromString(each) for each in call)
    except grpc.RpcError as error:
        status, text = status_of(error)
        code = status.name
    about = f"{says}, {messages!r:.500}: {code} {text}, {replies!r:.500}"
    assert code in CLEAR, about
    assert "internal error" not in text, about
    assert replies or code != "OK", f"a stream ended with OK, and owes a reply: {about}"
    for reply in replies:
        kind = reply.WhichOneof("response")
        assert kind is not None, about
        if kind == "immediate_response":
            assert 400 <= reply.immediate_response.status.code < 600, about
            assert reply is replies[-1], about
        elif kind == "request_headers" and says is CHAIN:
            assert GUARDED in edits(reply.request_headers.response), f"the guard did not run: {about}"
    if code != "OK":
        return code
    return "refused" if replies[-1].HasField("immediate_response") else "answered"


def hostile_check(channel: Any, chosen: random.Random) -> str:
    good = check_request(chosen.choice((GET, GOOD_GET)), extensions={"x-coprocess-auth-check": "check"})
    raw = mutated(chosen, good.SerializeToString()) if chosen.random() < 0.8 else chosen.randbytes(100)
    try:
        answer = channel.unary_unary(wire.CHECK, None, None)(raw, timeout=HANG_S)
    except grpc.RpcError as error:
        code, text = status_of(error)
        assert code.name in CLEAR, f"{code} {text}"
        return f"check: {code.name}"
    reply = wire.CheckResponse.FromString(answer)
    if reply.HasField("ok_response"):
        assert b"good" in raw, f"a check let in {raw!r}"
        return "check: let in"
    assert reply.HasField("status"), f"an empty Check reply lets in: {raw!r}"
    assert reply.status.code
    assert 400 <= reply.denied_response.status.code < 600
    return "check: refused"
