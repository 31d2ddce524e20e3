"""TLS between a socket's bytes and a connection's, without I/O."""

from __future__ import annotations

import contextlib
import ssl


class TlsFilter:
    """Feed it with `receive`; after that, and after `encrypt`, `take` gives what is to be sent."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        #: The handshake is done.
        self.is_ready = False
        #: The peer has said that nothing more comes.
        self.is_ended = False

    @property
    def protocol(self) -> str | None:
        """By ALPN."""
        return self._tls.selected_alpn_protocol()

    def receive(self, data: bytes) -> bytes:
        """What the peer sent, decrypted. Raises ssl.SSLError."""
        self._incoming.write(data)
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
        return parts[0] if len(parts) == 1 else b"".join(parts)

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
