"""What a call costs in instructions of this process: the same on a busy machine as on a quiet one.

    instructions.py [CASE ...]

Each case runs in a process under valgrind, with few calls and with many: the difference, for one call, is
printed. Those over http2 go from bytes to bytes, by the real engine and a unix socket, 32 at a time: the few
thousand instructions of the client are among them, what the kernel does is not. Needs valgrind.

`--cpu` measures time. It differs less from run to run with a processor of its own, and in real time:
`chrt -f 10 taskset -c 1 python bench/instructions.py --cpu tyk`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import kong
import web
from bare_stream import OPTIONS, echo
from hpack import Encoder
from objects import pre_object

from coprocess.asgi import Middleware
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.registration import ENVOY
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.registration import plugin_server
from coprocess.gateways.tyk.registration import TYK
from coprocess.gateways.tyk.wire import DISPATCH
from coprocess.loading.loader import load
from coprocess.runtime import at_once, chained, pace, service
from coprocess.runtime.registration import GatewayOptions, Registration
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engine import Methods, Rpc
from coprocess.transport.http2 import frames, loop_turn, turns
from coprocess.transport.http2_engine import Http2Engine

BENCH = Path(__file__).resolve().parent
TOGETHER = 32
WARM_UP, FEW, MANY = 8, 8, 40
_WARM_UP_TIMED, _TIMED = 100, 1000

_WINDOW_BYTES = 1 << 30

#: Makes so many calls at one time.
Step = Callable[[], None]
#: What a client sends for a stream, part by part, each once the one before is answered.
Parts = Sequence[Callable[[int], bytes]]


def lift_time_limits() -> None:
    """Valgrind makes all fifty times slower: what is quick must be taken for quick."""
    pace.QUICK_S = service.QUICK_S = chained.QUICK_S = at_once.BLOCKS_S = 1e9
    turns._LONG_S = turns._IN_A_ROW_S = loop_turn._IN_A_ROW_S = turns._ALARM_S = 1e9


def opening(path: str, message: bytes, *fields: tuple[str, str], ends: bool) -> Callable[[int], bytes]:
    """A call's first frames, by a client that was told of a table of size 0."""
    encoder = Encoder()
    encoder.header_table_size = 0
    usual = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1:5555")]
    usual += [("content-type", "application/grpc"), ("user-agent", "grpc-go/1.77.0"), ("te", "trailers")]
    block = encoder.encode([*usual, *fields], huffman=False)
    further = more(message, ends=ends)
    return lambda stream: frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block) + further(stream)


def more(message: bytes, *, ends: bool = False) -> Callable[[int], bytes]:
    """A further message."""
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return lambda stream: frames.frame(frames.DATA, frames.END_STREAM if ends else 0, stream, body)


def over_http2(methods: Methods, parts: Parts) -> Step:
    path = f"{tempfile.mkdtemp()}/http2"
    engine = Http2Engine(OPTIONS)
    engine.listen(f"unix:{path}")
    engine.start(methods)
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(frames.PREFACE + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: _WINDOW_BYTES}))
    client.sendall(frames.window_update(0, _WINDOW_BYTES) + frames.SETTINGS_ACK)
    next_stream, rest = 1, b""

    def wait_for(*, ends: bool) -> None:
        nonlocal rest
        messages = ended = 0
        while (ended if ends else messages) < TOGETHER:
            came, at = rest + client.recv(1 << 20), 0
            while len(came) - at >= frames.FRAME_HEADER_BYTES:
                end = at + frames.FRAME_HEADER_BYTES + int.from_bytes(came[at : at + 3], "big")
                if end > len(came):
                    break
                messages += came[at + 3] == frames.DATA
                ended += came[at + 4] == frames.END_STREAM | frames.END_HEADERS
                at = end
            rest = came[at:]
            if ended > messages:
                print("A call was refused: that is no figure.", file=sys.stderr)
                os._exit(1)  # The engine's threads would go on.

    def step() -> None:
        nonlocal next_stream
        streams = range(next_stream, next_stream + 2 * TOGETHER, 2)
        next_stream = streams.stop
        for part in parts:
            client.sendall(b"".join(map(part, streams)))
            wait_for(ends=part is parts[-1])

    step()
    with engine.server.lock:
        for each in engine.server.connections():
            each.look(time.monotonic())  # It is new no more, as from its second second on.
    return step


def served(registration: Registration, handlers: str) -> Methods:
    loaded = load([BENCH / "handlers" / handlers], registration.home)
    gateway = registration.make(loaded.table, GatewayOptions())
    return Service(gateway, ServiceOptions()).methods


def bare_call() -> Step:
    def answer(rpc: Rpc) -> None:
        rpc.respond(rpc.payload)

    path = "/bench.Bare/Call"
    return over_http2(Methods(unary={path: answer}), [opening(path, b"x" * 100, ends=True)])


def bare_stream() -> Step:
    path, message = "/bench.Bare/Stream", b"x" * 100
    parts = [opening(path, message, ends=False), more(message, ends=True)]
    return over_http2(Methods(bidi={path: echo}), parts)


def tyk(handlers: str = "native") -> Step:
    return over_http2(served(TYK, handlers), [opening(DISPATCH, pre_object("MyPreMiddleware"), ends=True)])


def tyk_async() -> Step:
    return tyk("async_quick")


def header_map(**headers: str) -> wire.HeaderMap:
    return wire.HeaderMap(
        headers=[
            wire.HeaderValue(key=name.replace("_", "-"), raw_value=value.encode())
            for name, value in headers.items()
        ]
    )


def request_headers() -> wire.HeaderMap:
    pseudo = {":authority": "example.test", ":path": "/orders/17?page=2", ":method": "GET", ":scheme": "http"}
    return header_map(
        **pseudo,
        user_agent="curl/8.5.0",
        accept="*/*",
        authorization="Bearer abcdefghijklmnop",
        x_forwarded_proto="http",
        x_request_id="5f2c1c0e-2d1a-4a5e-9d0e-0a6f9c0a4f11",
    )


def envoy_stream() -> Step:
    request = wire.ProcessingRequest(
        request_headers=wire.HttpHeaders(end_of_stream=True, headers=request_headers()),
        protocol_config=wire.ProtocolConfiguration(),
    )
    response = wire.ProcessingRequest(
        response_headers=wire.HttpHeaders(
            headers=header_map(**{":status": "200"}, content_type="application/json", server="upstream")
        )
    )
    chain = (("x-coprocess-post", "stamp"), ("x-coprocess-response", "look"))
    parts = [
        opening(wire.PROCESS, request.SerializeToString(), *chain, ends=False),
        more(response.SerializeToString()),
    ]
    return over_http2(served(ENVOY, "envoy"), parts)


def envoy_check() -> Step:
    context = wire.AttributeContext
    message = wire.CheckRequest(
        attributes=context(
            request=context.Request(
                http=context.HttpRequest(method="GET", path="/orders/17?page=2", header_map=request_headers())
            ),
            context_extensions={"x-coprocess-auth-check": "check"},
        )
    )
    return over_http2(served(ENVOY, "envoy"), [opening(wire.CHECK, message.SerializeToString(), ends=True)])


def kong_event() -> Step:
    """The access phase of a plugin that asks two things."""
    folder = Path(tempfile.mkdtemp())
    (folder / "bench.py").write_text(textwrap.dedent(kong.PLUGIN))
    registration = plugin_server([folder / "bench.py"], PluginOptions())
    gateway = registration.make(registration.load().table, GatewayOptions())
    engine = registration.engine(OPTIONS)
    engine.listen(f"unix:{folder}/kong")
    engine.start(Service(gateway, ServiceOptions()).methods)
    load = kong.Load(folder / "kong", 1, "access", b"\xa1x")
    return lambda: load.events(TOGETHER)


def asgi() -> Step:
    """A request with an async handler before the app and one after it."""
    around = Middleware(web.app, [web.before, web.after])
    scope = {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "scheme": "http",
        "path": "/path",
        "raw_path": b"/path",
        "root_path": "",
        "query_string": b"a=1",
        "headers": [(b"host", b"127.0.0.1"), (b"accept-encoding", b"identity")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 5),
        "state": {},
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None: ...

    async def requests() -> None:
        for _ in range(TOGETHER):
            await around(dict(scope), receive, send)

    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(requests())


CASES: dict[str, Callable[[], Step]] = {
    "bare-call": bare_call,
    "bare-stream": bare_stream,
    "tyk": tyk,
    "tyk-async": tyk_async,
    "envoy-stream": envoy_stream,
    "envoy-check": envoy_check,
    "kong-event": kong_event,
    "asgi": asgi,
}


def cpu_us(case: str) -> float:
    """The processor's time for a call, without the client's."""
    step = CASES[case]()
    for _ in range(_WARM_UP_TIMED):
        step()
    began_s = time.process_time() - time.thread_time()
    for _ in range(_TIMED):
        step()
    return (time.process_time() - time.thread_time() - began_s) * 1e6 / _TIMED / TOGETHER


def run(cases: Sequence[str], steps: int) -> None:
    lift_time_limits()
    for case in cases:
        step = CASES[case]()
        for _ in range(WARM_UP + steps):
            step()
    os._exit(0)  # The end of a process is no part of a call.


def counted(case: str, steps: int) -> int:
    """Instructions of a process with so many steps."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    ran = subprocess.run(
        [*valgrind, sys.executable, __file__, case, "--steps", str(steps)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"I +refs: +([\d,]+)", ran.stderr)
    if ran.returncode or found is None:
        raise SystemExit(f"{case}: {ran.stderr.strip()[-2000:]}")
    return int(found[1].replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[*CASES, []], help=", ".join(CASES))
    parser.add_argument(
        "--cpu", action="store_true", help="measure the processor's time for a call instead, without valgrind"
    )
    parser.add_argument("--steps", type=int, help="run them here, without valgrind, and count nothing")
    options = parser.parse_args()
    cases = options.cases or list(CASES)
    if options.cpu:
        for case in cases:
            print(f"{case:14s}{cpu_us(case):10.2f} µs", flush=True)
        os._exit(0)
    if options.steps is not None:
        run(cases, options.steps)
    if shutil.which("valgrind") is None:
        raise SystemExit("This needs valgrind, which counts.")
    for case in cases:
        each = (counted(case, MANY) - counted(case, FEW)) / (MANY - FEW) / TOGETHER
        print(f"{case:14s}{each:10,.0f} instructions")


if __name__ == "__main__":
    main()
