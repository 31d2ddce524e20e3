"""What a stream costs that nobody does anything for: two messages each way, each answered with itself.

`bare_stream.py ADDRESS` serves it on the http2 engine, until it is ended; bench/envoy.py measures it.
"""

from __future__ import annotations

import sys
import threading

from coprocess.transport.engine import BidiRpc, EngineOptions, Methods
from coprocess.transport.http2_engine import Http2Engine

OPTIONS = EngineOptions(
    max_message_bytes=4 << 20,
    min_threads=2,
    max_threads=4,
    max_concurrent_streams=1000,
    max_metadata_bytes=16_384,
)


def echo(rpc: BidiRpc) -> None:
    def answer(message: bytes) -> None:
        rpc.send(message)

    rpc.on_message = answer


def main() -> None:
    engine = Http2Engine(OPTIONS)
    engine.listen(sys.argv[1])
    engine.start(Methods(bidi={"/bench.Bare/Stream": echo}))
    threading.Event().wait()


if __name__ == "__main__":
    main()
