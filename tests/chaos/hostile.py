"""Hostile calls: bytes that are no message, messages that are monsters, and bad HTTP/2."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import grpc

from coprocess.api.moments import HookType
from coprocess.gateways.tyk.wire import DISPATCH, Event, Object
from tests.chaos.load import HANG_S, Figures, Load, stamp_is
from tests.chaos.memory import MEASURING, MemorySamples
from tests.objects import make_object, make_payload, make_request, recorded_dispatches
from tests.serve_process import ServeProcess, stamping, write
from tests.server import status_of

#: Handlers for the hooks of all recordings, that look at all there is.
LOOKING = """
from coprocess import CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Response

def look(request, session, spec):
    seen = [request.method, request.url, request.path, request.scheme, request.target, request.body]
    seen += [list(request.headers.items()), list(request.query.items()), spec.api_id, spec.org_id]
    try:
        seen += [request.text, request.json(), spec.config]
    except ValueError:
        pass
    seen += [session.rate, list(session.tags), dict(session.metadata), session.expires]
    request.headers["X-Seen"] = str(len(repr(seen)))

for declare, name in [(Pre, "First"), (Pre, "MyPreMiddleware"), (Pre, "Second"), (Post, "Third"),
                      (PostKeyAuth, "MyPostKeyAuth"), (Post, "MyPostMiddleware")]:
    declare(name=name)(look)

@CustomKeyCheck(name="MyAuthCheck")
def check_key(request, session):
    session.allow(request.headers.get("Authorization") or "none", rate=2, per=60)

def tidy(response):
    seen = [response.status, response.body, list(response.headers.items())]
    response.headers["X-Seen"] = str(len(repr(seen)))

for name in ("R1", "R2", "MyResponse"):
    Response(name=name)(tidy)

@Event(name="my_handler")
def on_event(event):
    repr([event.type, event.meta, event.timestamp, event.originating_request, event.api_id, dict(event)])
"""

#: How a hostile call may end. UNKNOWN, UNAVAILABLE or DEADLINE_EXCEEDED would be a crash or a hang.
CLEAR = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL"}

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

_IN_FLIGHT = 32
_MAX_MESSAGE_BYTES = 256 * 1024
_NASTY = [
    b"\x00",
    b"\xff\xfe",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\r\nX-Injected: 1\r\n",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80" * 12,
    b"\x0a" * 40,
    b"\x1b" * 40,
]


def mutated(source: random.Random, payload: bytes) -> bytes:
    """`payload` with a few bytes changed, cut out, put in, repeated."""
    data = bytearray(payload)
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(data) + 1)
        kind = source.randrange(6)
        if kind == 0 and data:
            data[place % len(data)] = source.randrange(256)
        elif kind == 1:
            del data[place : place + source.randint(1, 16)]
        elif kind == 2:
            data[place:place] = source.choice(_NASTY)
        elif kind == 3:
            data[place:place] = data[place : place + source.randint(1, 64)]
        elif kind == 4:
            del data[place:]
        elif data:
            data[place % len(data)] ^= 1 << source.randrange(8)
    return bytes(data)


def spoiled(source: random.Random, payload: bytes) -> bytes:
    """`payload`, an Object, with fields that say what they should not: it reaches its handler."""
    message = Object.FromString(payload)
    text = source.choice(_NASTY_TEXTS)
    part = source.choice([message.request, message.response, message.session, message])
    field = source.choice([each for each in part.DESCRIPTOR.fields if each.type in _SETTABLE])
    kind = source.randrange(3)
    if kind == 0 and field.cpp_type == field.CPPTYPE_STRING and not field.is_repeated:
        setattr(part, field.name, text.encode() if field.type == field.TYPE_BYTES else text)
    elif kind == 1 and field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_INT32) and not field.is_repeated:
        setattr(part, field.name, source.choice([-1, 0, 1, 2**31 - 1, -(2**31)]))
    elif kind == 2:
        message.request.headers[text] = text
        message.spec[source.choice(["APIID", "config_data", text])] = text
        message.response.headers[text] = text
    else:
        message.request.params[text] = text
        message.metadata[text] = text
    return message.SerializeToString()


_NASTY_TEXTS = [
    "",
    "\x00",
    "\r\nX-Injected: 1",
    "\u2028\U0010ffff",
    "x" * 5000,
    "{" * 2000,
    "%00%ff%",
    "-1",
    "9" * 5000,
]
_SETTABLE = {3, 5, 9, 12}  # int64, int32, string, bytes


def monsters() -> Iterator[tuple[bool, bytes]]:
    """Messages that are well-formed and unreasonable; whether each is an Event."""
    huge = 2**63 - 1

    def pre(**parts: object) -> bytes:
        return make_object(HookType.Pre, "First", **parts).SerializeToString()  # type: ignore[arg-type]  # any

    yield False, b""
    yield False, pre(request=make_request(headers={f"X-{number}": "v" * 8 for number in range(10_000)}))
    yield False, pre(request=make_request(headers={"X\r\nInjected": "1", "": "", "\x00": "\x00"}))
    yield False, pre(request=make_request(body=b"[" * 100_000, headers={"Content-Type": "application/json"}))
    yield False, pre(request=make_request(body=b'{"a":' * 50_000))
    yield False, pre(request=make_request(body=b"9" * 200_000))
    yield False, pre(request=make_request(body=b"\x00\xff\xfe" * 1000))
    yield False, pre(request=make_request("/a\x00b?c=\r\n&" + "d=%ff%00&" * 2000))
    yield False, pre(request=make_request("http://[::1"))
    yield False, pre(spec={"config_data": "[" * 100_000, "APIID": "\x00"})
    yield False, pre(spec={"config_data": "9" * 100_000})
    yield False, make_object(HookType.Pre, "F" * 100_000).SerializeToString()
    yield False, b"\x08" + b"\xff" * 9 + b"\x01" + pre()
    yield False, b"\x08\xff\xff\xff\xff\x07\x12\x05First"
    yield False, make_object(HookType.Event, "my_handler").SerializeToString()
    yield False, pre() + b"\xfb\x7f" * 120
    yield False, b"\x1a\x80\x80\x80\x80\x78" + b"a" * 100
    yield False, pre(request=make_request(body=b"x" * (_MAX_MESSAGE_BYTES + 1)))
    message = make_object(HookType.Response, "MyResponse")
    message.response.status_code = 2**31 - 1
    yield False, message.SerializeToString()
    message.response.status_code = -(2**31)
    yield False, message.SerializeToString()
    message = make_object(HookType.PostKeyAuth, "MyPostKeyAuth")
    message.session.expires = huge
    message.session.rate = float("nan")
    message.session.quota_max = -huge
    yield False, message.SerializeToString()
    for text in (
        "",
        "null",
        "[]",
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 100_000,
        '{"handler_name": ' + "9" * 5000 + "}",
        '{"handler_name": "my_handler", "message": {"Meta": {"OriginatingRequest": "!"}}}',
        '{"handler_name": "my_handler", "message": 1e999, "spec": NaN}',
        '{"handler_name": "\\ud800", "spec": {"APIID": "\\u0000"}}',
        json.dumps({**make_payload(), "message": {"TimeStamp": "9" * 5000, "Meta": [], "Type": {}}}),
        json.dumps({**make_payload(), "message": {"TimeStamp": "99999-99-99 99:99:99 +9999"}}),
        "\x00" * 1000,
    ):
        yield True, Event(payload=text).SerializeToString()
    yield True, b"\x0a\x04\xff\xfe\xfd\xfc"


def hostile_messages(source: random.Random) -> Iterator[tuple[bool, bytes]]:
    """Without end: random bytes and mutated recordings; now and then a monster."""
    seeds = [each.sent for each in recorded_dispatches()]
    event = Event(payload=json.dumps(make_payload())).SerializeToString()
    yield from monsters()
    count = 0
    while True:
        count += 1
        if count % 2000 == 0:
            yield from monsters()
        is_event = source.random() < 0.2
        if not is_event and source.random() < 0.5:
            yield False, spoiled(source, source.choice(seeds))
        elif source.random() < 0.1:
            yield is_event, source.randbytes(source.randrange(400))
        else:
            yield is_event, mutated(source, event if is_event else source.choice(seeds))


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header in HPACK, in full."""
    return b"\x00" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),))
    rest, encoded = len(text) - 127, b"\x7f"
    while rest >= 128:
        encoded, rest = encoded + bytes((rest % 128 + 128,)), rest // 128
    return encoded + bytes((rest,))


def request_headers(*extra: bytes) -> bytes:
    return b"".join(
        (
            literal(b":method", b"POST"),
            literal(b":scheme", b"http"),
            literal(b":path", DISPATCH.encode()),
            literal(b":authority", b"x"),
            literal(b"content-type", b"application/grpc"),
            literal(b"te", b"trailers"),
            *extra,
        )
    )


def bad_connections(source: random.Random) -> Iterator[bytes]:
    """What no HTTP/2 client would send, for a connection each."""
    start, block = PREFACE + SETTINGS, request_headers()
    call = start + frame(1, 4, 1, block)
    many = request_headers(*(literal(b"x-%d" % number, b"v") for number in range(10_000)))
    yield b""
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + source.randbytes(200)
    yield source.randbytes(1000)
    yield PREFACE[:10]
    yield PREFACE + source.randbytes(500)
    yield start + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 10_000
    yield start + frame(4, 0, 0, b"\x00\x04\xff\xff\xff\xff")
    yield start + frame(8, 0, 0, b"\x00\x00\x00\x00")
    yield start + frame(0, 1, 7, b"data of no stream")
    yield start + frame(1, 5, 2, block)
    yield start + frame(1, 4, 1, b"\xff" * 200)
    yield start + frame(1, 0, 1, block[:20])
    yield (
        start
        + frame(1, 0, 1, many[:16_000])
        + b"".join(
            frame(9, 4 if place + 16_000 >= len(many) else 0, 1, many[place : place + 16_000])
            for place in range(16_000, len(many), 16_000)
        )
    )
    yield start + frame(1, 0, 1, block) + frame(9, 0, 1, b"") * 5000
    yield start + frame(6, 0, 0, b"12345678") * 5000
    yield start + frame(4, 0, 0, b"") * 5000
    yield start + b"".join(
        frame(1, 5, stream, block) + frame(3, 0, stream, b"\x00\x00\x00\x08") for stream in range(1, 2000, 2)
    )
    # Messages that end too soon, claim 4 GiB, or to be compressed.
    yield call + frame(0, 1, 1, b"\x00\x00\x00\x00\xff" + b"abc")
    yield call + frame(0, 0, 1, b"\x00\x00\x00\x00\xff" + b"abc")
    yield call + frame(0, 1, 1, b"\x00\xff\xff\xff\xff" + b"abc")
    yield call + frame(0, 1, 1, b"\x01\x00\x00\x00\x03abc")
    yield call + frame(0, 1, 1, b"\x02\x00\x00\x00\x03abc")
    yield call + frame(0, 1, 1, b"")
    yield call + frame(0, 1, 1, b"\x00\x00\x00\x00\x00" * 100)
    for _ in range(10):
        junk = b"".join(
            frame(source.randrange(12), source.randrange(256), source.randrange(9), source.randbytes(30))
            for _ in range(20)
        )
        yield start + junk
        yield call + junk


def send_bad(address: str, data: bytes, *, patience_s: float = 0.02) -> None:
    """On a connection of its own; what comes back is read for a moment, then the client is gone."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), HANG_S) as connection:
        connection.settimeout(patience_s)
        connection.sendall(data)
        while connection.recv(65_536):
            pass


_MEMORY_SAMPLES = 64


def trial(
    folder: Path, engine: str, calls: int, *, strict: bool, flags: Sequence[str] = (), seed: int = 6
) -> Figures:
    """`calls` hostile messages, and bad connections among them, beside good calls. `strict`: nothing leaks.

    With `--workers` among the `flags`, memory is the front's and one worker's, and is not judged.
    """
    source = random.Random(seed)  # noqa: S311 - it is to be the same every time
    handlers = write(folder / "handlers", good=stamping("good"), looking=LOOKING, measuring=MEASURING)
    limits = (*flags, f"--max-message-bytes={_MAX_MESSAGE_BYTES}", "--timeout-s=10")
    ends: Counter[str] = Counter()
    with (
        ServeProcess(handlers, f"--engine={engine}", *limits) as service,
        service.client() as client,
        Load(service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.005) as good,
    ):
        for each in recorded_dispatches():  # The handlers themselves are sound.
            error = client.raw.future(each.sent, timeout=HANG_S).exception(timeout=2 * HANG_S)
            # A gateway that was given the status 0 passes it on, which no reply may have.
            assert error is None or "status_code to 0" in status_of(error)[1], f"{each}: {error}"
        client.send_event(json.dumps(make_payload()))
        messages, waiting, connections = hostile_messages(source), [], 0
        memory = MemorySamples(client, service.process.pid)
        bad: Iterator[bytes] = iter(())
        for number in range(calls):
            is_event, payload = next(messages)
            method = client.raw_event if is_event else client.raw
            waiting.append(method.future(payload, timeout=HANG_S))
            if number % max(calls // 200, 20) == 0:
                if (data := next(bad, None)) is None:
                    bad = bad_connections(source)
                    data = next(bad)
                send_bad(service.address, data)
                connections += 1
            if len(waiting) >= _IN_FLIGHT or number == calls - 1:
                for call in waiting:
                    error = call.exception(timeout=2 * HANG_S)
                    code, text = (grpc.StatusCode.OK, "") if error is None else status_of(error)
                    ends[code.name] += 1
                    assert code.name in CLEAR, f"a hostile call ended with {code.name}: {text}"
                    assert "internal error" not in text, f"our own code failed: {text}"
                waiting.clear()
            if number % (calls // _MEMORY_SAMPLES) == 0:
                memory.take()
        headers = tuple((f"x-{number}", "v") for number in range(10_000))
        over = client.future(make_object(hook_name="stamp"), metadata=headers).exception(timeout=HANG_S)
        over_code = "OK" if over is None else status_of(over)[0].name
        good.wait_for(10)
        assert service.process.poll() is None, "the service has ended"
    good.check(10)
    internal = [line for line in service.lines if line["event"] in _OUR_FAULT]
    assert not internal, f"our own code failed: {internal[:2]}"
    assert over_code in {"RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "UNAVAILABLE"}, over_code
    if strict:
        memory.check(calls)
    return {
        "engine": engine,
        "hostile_calls": calls,
        "bad_connections": connections,
        "ends": dict(sorted(ends.items())),
        "10000_metadata_entries": over_code,
        "good_calls": good.answered,
        "good_failed": len(good.errors),
        **memory.figures(),
    }


_OUR_FAULT = {
    "a message could not be opened",
    "a call could not be answered",
    "a call could not be failed, either",
    "a task raised what it should have kept to itself",
}
