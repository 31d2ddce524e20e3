"""Hostile peers of HTTP/2: each floods one connection, beside good calls on others."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from tests.chaos.hostile import PREFACE, SETTINGS, frame, literal, request_headers
from tests.chaos.load import HANG_S, Figures, Load, rss_mib, stamp_is
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write

#: What a flood sends: pieces, without an end of their own.
Flood = Callable[[], Iterator[bytes]]

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 8, 9
_END_STREAM, _END_HEADERS = 1, 4
_CANCEL = struct.pack(">I", 8)
_MOST_MIB = 200.0
_MAX_MESSAGE_BYTES = 2**20
#: A service that takes no more for so long has stopped reading, rightly.
_HANG_S = 3.0
#: The one whose answers are not read.
UNREAD = "unread answers"


def _streams(first: int = 1) -> Iterator[int]:
    yield from range(first, 2**31, 2)


def _of_streams(make: Callable[[int], bytes], at_once: int = 100) -> Iterator[bytes]:
    numbers = _streams()
    while True:
        yield b"".join(make(next(numbers)) for _ in range(at_once))


def _again(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def _first(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from rest


def floods() -> dict[str, Flood]:
    block = request_headers()
    opened = frame(_HEADERS, _END_HEADERS, 1, block)

    def rapid_reset(stream: int) -> bytes:
        return frame(_HEADERS, _END_HEADERS, stream, block) + frame(_RESET, 0, stream, _CANCEL)

    def half_message(stream: int) -> bytes:
        return frame(_HEADERS, _END_HEADERS, stream, block) + frame(_DATA, 0, stream, b"\0\0\0\1\0half")

    def large_metadata(stream: int) -> bytes:
        large = request_headers(literal(b"x-large", b"v" * 8000), literal(b"x-more", b"w" * 8000))
        return frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, large[:16_384])

    def bomb(stream: int) -> bytes:
        """One entry of 4,000 bytes in the table, then 4,000 references to it."""
        if stream == 1:
            entry = b"\x40" + literal(b"x-bomb", b"v" * 3900)[1:]
            return frame(_HEADERS, _END_HEADERS | _END_STREAM, 1, block + entry)
        return frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, block + b"\xbe" * 4000)

    bombs = request_headers(literal(b"grpc-encoding", b"gzip"))
    packed = gzip.compress(bytes(10 * 2**20))  # 10 KiB.
    prefixed = b"\1" + struct.pack(">I", len(packed)) + packed

    def gzip_bomb(stream: int) -> bytes:
        return frame(_HEADERS, _END_HEADERS, stream, bombs) + frame(_DATA, _END_STREAM, stream, prefixed)

    message = make_object(hook_name="stamp").SerializeToString()
    called = b"\0" + struct.pack(">I", len(message)) + message

    def call(stream: int) -> bytes:
        return frame(_HEADERS, _END_HEADERS, stream, block) + frame(_DATA, _END_STREAM, stream, called)

    def widths() -> Iterator[bytes]:
        sizes = (struct.pack(">HI", 4, size) for size in (0, 2**31 - 1))
        return _again(b"".join(frame(_SETTINGS, 0, 0, size) for size in sizes) * 50)

    return {
        "rapid reset": lambda: _of_streams(rapid_reset),
        "CONTINUATION": lambda: _first(
            frame(_HEADERS, 0, 1, block), _again(frame(_CONTINUATION, 0, 1, b"\0\1x\1y" * 1000))
        ),
        "empty CONTINUATION": lambda: _first(
            frame(_HEADERS, 0, 1, block), _again(frame(_CONTINUATION, 0, 1, b"") * 100)
        ),
        "empty DATA": lambda: _first(opened, _again(frame(_DATA, 0, 1, b"") * 100)),
        "PING": lambda: _again(frame(_PING, 0, 0, b"12345678") * 100),
        "SETTINGS": lambda: _again(frame(_SETTINGS, 0, 0, b"") * 100),
        "initial windows": widths,
        "tiny windows": lambda: _first(opened, _again(frame(_WINDOW, 0, 1, b"\0\0\0\1") * 100)),
        "half messages": lambda: _of_streams(half_message),
        "oversized metadata": lambda: _of_streams(large_metadata, 4),
        "HPACK bomb": lambda: _of_streams(bomb, 4),
        "gzip bombs": lambda: _of_streams(gzip_bomb, 4),
        "50,000 streams": lambda: _first(
            b"".join(frame(_HEADERS, _END_HEADERS, stream, block) for stream in range(1, 100_000, 2)),
            iter(()),
        ),
        UNREAD: lambda: _first(frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 2**30)), _of_streams(call)),
        "a frame in bytes": lambda: (bytes((each,)) for each in frame(_PING, 0, 0, b"12345678") * 10_000),
        "a frame of 16 MiB": lambda: _first(b"\xff\xff\xff\0\0\0\0\0\1", _again(b"x" * 16_384)),
    }


def send(
    address: str, flood: Flood, *, most_bytes: int, most_s: float, patience_s: float, reads: bool = True
) -> tuple[int, bool]:
    """Bytes that were taken, and whether the service ended the connection, soon. What it says is read."""
    host, _, port = address.rpartition(":")
    sent, until_s, ended = 0, time.monotonic() + most_s, threading.Event()
    with socket.create_connection((host, int(port)), _HANG_S) as connection:
        reader = threading.Thread(target=_read, args=(connection, ended), daemon=True)
        if reads:
            reader.start()
        try:
            connection.sendall(PREFACE + SETTINGS)
            for piece in flood():
                connection.sendall(piece)
                sent += len(piece)
                if sent >= most_bytes or time.monotonic() > until_s:
                    break
        except TimeoutError:
            return sent, False
        except OSError:
            return sent, True
        return sent, ended.wait(patience_s)


def _read(connection: socket.socket, ended: threading.Event) -> None:
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    except OSError:  # Nothing came, or we have closed it.
        return
    ended.set()


def trial(
    folder: Path,
    *,
    most_bytes: int,
    most_s: float,
    must_end: Container[str] = (),
    last_words_s: float = 1.0,
) -> Figures:
    """Each flood, one after the other. Good calls all succeed, and memory stays bounded.

    `last_words_s`: how long the end of a connection is waited for, but of those that `must_end`.
    """
    handlers = write(folder / "handlers", good=stamping("good"))
    ends: dict[str, object] = {}
    with (
        ServeProcess(handlers, "--engine=http2", f"--max-message-bytes={_MAX_MESSAGE_BYTES}") as service,
        Load(service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.002) as good,
    ):
        good.wait_for(200)
        before_ms = good.p99_ms()
        for name, flood in floods().items():
            since = len(good.latencies_s)
            taken, ended = send(
                service.address,
                flood,
                most_bytes=most_bytes,
                most_s=most_s,
                patience_s=HANG_S if name in must_end else last_words_s,
                reads=name != UNREAD,
            )
            assert ended or name not in must_end, f"{name}: {taken} bytes were taken"
            good.wait_for(5)
            ends[name] = {"bytes": taken, "ended": ended, "good_p99_ms": good.p99_ms(since)}
            assert service.process.poll() is None, f"the service has ended: {name}"
        most_mib = rss_mib(service.process.pid)
    good.check(200)
    assert most_mib < _MOST_MIB, f"{most_mib:.0f} MiB after the floods"
    failed = [line for line in service.lines if line["level"] == "error"]
    assert not failed, f"our own code failed: {failed[:2]}"
    return {
        "engine": "http2",
        "good_calls": good.answered,
        "good_failed": len(good.errors),
        "p99_before_ms": before_ms,
        "floods": ends,
        "rss_mib": round(most_mib, 1),
    }
