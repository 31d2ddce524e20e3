"""TLS between a socket's bytes and a connection's, without I/O."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable


class TlsFilter:
    """Feed it with `receive`; after that, and after `encrypt`, `take` gives what is to be sent."""

    def __init__(self, context: ssl.SSLContext, spend: Callable[[int], None]) -> None:
        """`spend` is told of records that bring no content; it raises where those were too many.

        Such are KeyUpdates, each of which takes as long as many frames.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._spend = spend
        #: Records that have brought nothing yet; and content, since that let one more of them pass.
        self._without_content = 0
        self._content_bytes = 0
        #: What came last was in small records, of which each takes its time.
        self.is_in_splinters = False
        #: The handshake is done.
        self.is_ready = False
        #: The peer has said that nothing more comes.
        self.is_ended = False

    @property
    def protocol(self) -> str | None:
        """By ALPN."""
        return self._tls.selected_alpn_protocol()

    def receive(self, data: bytes) -> bytes:
        """What the peer sent, decrypted. Raises ssl.SSLError, and what `spend` raises."""
        records = data.count(_RECORD)
        self.is_in_splinters = records > _FEW_RECORDS and records * _SPLINTER_BYTES > len(data)
        if records <= _FEW_RECORDS:
            return self._receive(data, records)
        # Some at a time: they may all be such as bring nothing.
        parts = []
        for at in range(0, len(data), _PIECE_BYTES):
            piece = data[at : at + _PIECE_BYTES]
            parts.append(self._receive(piece, piece.count(_RECORD)))
        return b"".join(parts)

    def _receive(self, data: bytes, records: int) -> bytes:
        self._incoming.write(data)
        was_ready = self.is_ready
        parts = []
        try:
            if not self.is_ready:
                self._tls.do_handshake()
                self.is_ready = True
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
            self.is_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        self._content_bytes += len(content)
        if was_ready and records != len(parts):
            self._count(records - len(parts))
        return content

    def _count(self, without_content: int) -> None:
        # Content looks like a record's start, by chance: once in 16 MiB.
        allowed, self._content_bytes = divmod(self._content_bytes, _BYTES_FOR_ONE)
        found = max(0, self._without_content + without_content - allowed)
        # One may have begun, and its rest be on its way.
        self._without_content = min(found, 1)
        if found > 1:
            self._spend((found - 1) * _FRAMES_FOR_ONE)

    def encrypt(self, data: bytes) -> None:
        """Raises ssl.SSLError."""
        view = memoryview(data)
        while view:
            written = self._tls.write(view)  # Not within the slice: mypyc 2.4 would call it twice.
            view = view[written:]

    def take(self) -> bytes:
        return self._outgoing.read()

    def end(self) -> None:
        """Say that nothing more comes."""
        if self.is_ready:
            # The peer has not said it yet, or never will.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()


_READ_BYTES = 64 * 1024
#: How a record begins with content in it, or with what follows the handshake (RFC 8446 §5.1).
_RECORD = b"\x17\x03\x03"
_FEW_RECORDS = 64
_SPLINTER_BYTES = 32
_PIECE_BYTES = 2048
_BYTES_FOR_ONE = 4 * 1024 * 1024
#: A KeyUpdate takes as long as so many frames that bring nothing forward, or half of them.
_FRAMES_FOR_ONE = 64
