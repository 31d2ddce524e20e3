"""Streams of ext_proc over a bare socket: thousands of them for little, and what no gRPC client would do."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from types import TracebackType

from hpack import Decoder

from coprocess.gateways.envoy import wire
from tests.chaos.hostile import PREFACE, frame, literal
from tests.chaos.load import HANG_S

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = struct.pack(">I", 8)
_WHOLE_WINDOW = struct.pack(">I", 2**31 - 1 - 65_535)
_STATUS = b"grpc-status"


class RawStreams:
    """One connection, within `with`. `window`: what may be sent on a stream before it is read."""

    def __init__(self, address: str, *, window: int = 65_535) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), HANG_S)
        #: Replies of streams, as far as they have come.
        self.replies: dict[int, list[wire.ProcessingResponse]] = {}
        #: How streams ended: a gRPC status, or None for a reset.
        self.ends: dict[int, int | None] = {}
        #: Last stream of each GOAWAY.
        self.goaways: list[int] = []
        #: Set, it answers PING only when told to.
        self.holds_pings = False
        self._pings: list[bytes] = []
        self._parts: dict[int, bytes] = {}
        self._decoder = Decoder()
        self._unread = b""
        self._next = 1
        first = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window))
        self.socket.sendall(PREFACE + first + frame(WINDOW_UPDATE, 0, 0, _WHOLE_WINDOW))

    def __enter__(self) -> RawStreams:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def open(self, says: Mapping[str, str], first: wire.ProcessingRequest, count: int = 1) -> list[int]:
        """So many streams, each with its first message."""
        # A table of size 0: the server's settings say so, whenever they come.
        block = b"\x20" + b"".join(
            literal(name.encode(), value.encode())
            for name, value in {
                ":method": "POST",
                ":scheme": "http",
                ":path": wire.PROCESS,
                ":authority": "x",
                "content-type": "application/grpc",
                "te": "trailers",
                **{f"x-coprocess-{key}": value for key, value in says.items()},
            }.items()
        )
        opened = list(range(self._next, self._next + 2 * count, 2))
        self._next += 2 * count
        packed = _packed(first)
        self.socket.sendall(
            b"".join(
                frame(HEADERS, END_HEADERS, each, block) + frame(DATA, 0, each, packed) for each in opened
            )
        )
        return opened

    def send(self, streams: Iterable[int], message: wire.ProcessingRequest, *, end: bool = False) -> None:
        packed = _packed(message)
        self.socket.sendall(b"".join(frame(DATA, END_STREAM if end else 0, each, packed) for each in streams))

    def send_part(self, stream: int, message: wire.ProcessingRequest) -> None:
        """Half of it."""
        packed = _packed(message)
        self.socket.sendall(frame(DATA, 0, stream, packed[: len(packed) // 2]))

    def half_close(self, streams: Iterable[int]) -> None:
        self.socket.sendall(b"".join(frame(DATA, END_STREAM, each, b"") for each in streams))

    def cancel(self, streams: Iterable[int]) -> None:
        self.socket.sendall(b"".join(frame(RST_STREAM, 0, each, CANCEL) for each in streams))

    def read_replies(self, streams: Iterable[int], count: int = 1) -> None:
        """Until each has so many. Raises AssertionError where one ends before."""
        for each in streams:
            while len(self.replies.get(each, ())) < count:
                assert each not in self.ends, f"a stream ended with {self.ends[each]}, and owes a reply"
                self._read()

    def read_ends(self, streams: Iterable[int]) -> None:
        for each in streams:
            while each not in self.ends:
                self._read()

    def read_goaways(self, count: int) -> None:
        while len(self.goaways) < count:
            self._read()

    def answer_pings(self) -> None:
        self.socket.sendall(b"".join(frame(PING, ACK, 0, each) for each in self._pings))
        self._pings.clear()

    def _read(self) -> None:
        came = self.socket.recv(1 << 20)
        assert came, "the connection was closed"
        unread, position = self._unread + came, 0
        while len(unread) >= position + 9:
            length = int.from_bytes(unread[position : position + 3], "big")
            if len(unread) < position + 9 + length:
                break
            kind, flags = unread[position + 3], unread[position + 4]
            stream = int.from_bytes(unread[position + 5 : position + 9], "big")
            self._take(kind, flags, stream, unread[position + 9 : position + 9 + length])
            position += 9 + length
        self._unread = unread[position:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._take_data(stream, self._parts.pop(stream, b"") + payload)
        elif kind == HEADERS:
            fields = dict(self._decoder.decode(payload, raw=True))
            if flags & END_STREAM:
                self.ends[stream] = int(fields[_STATUS])
        elif kind == RST_STREAM:
            self.ends.setdefault(stream, None)
        elif kind == GOAWAY:
            self.goaways.append(int.from_bytes(payload[:4], "big"))
        elif kind == SETTINGS and not flags & ACK:
            self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._pings.append(payload)
            if not self.holds_pings:
                self.answer_pings()

    def _take_data(self, stream: int, content: bytes) -> None:
        while len(content) >= 5:
            length = int.from_bytes(content[1:5], "big")
            if len(content) < 5 + length:
                break
            reply = wire.ProcessingResponse.FromString(content[5 : 5 + length])
            self.replies.setdefault(stream, []).append(reply)
            content = content[5 + length :]
        if content:
            self._parts[stream] = content


def _packed(message: wire.ProcessingRequest) -> bytes:
    payload = message.SerializeToString()
    return b"\x00" + struct.pack(">I", len(payload)) + payload
