"""TLS without a socket: what a peer may send that is no content."""

from __future__ import annotations

import _ssl
import ctypes
import os
import shutil
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode
from coprocess.transport.http2.limits import IdleFrames, Limits
from coprocess.transport.http2.tls_filter import TlsFilter
from tests.test_tls import make_ca

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


class RawClient:
    """A client by OpenSSL itself: Python's `ssl` sends no KeyUpdate."""

    def __init__(self) -> None:
        # With what it is linked to.
        library = ctypes.CDLL(_ssl.__file__)
        if not hasattr(library, "SSL_key_update"):
            pytest.skip("this Python shows nothing of its OpenSSL")
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem", "BIO_new"):
            getattr(library, name).restype = ctypes.c_void_p
        self._library = library
        context = self._call("SSL_CTX_new", self._call("TLS_client_method"))
        self._tls = self._call("SSL_new", context)
        self._incoming, self._outgoing = (self._call("BIO_new", self._call("BIO_s_mem")) for _ in range(2))
        self._call("SSL_set_bio", self._tls, self._incoming, self._outgoing)
        self._call("SSL_set_connect_state", self._tls)

    def _call(self, name: str, *arguments: Any) -> Any:
        raw = [ctypes.c_void_p(each) if isinstance(each, int) else each for each in arguments]
        return getattr(self._library, name)(*raw)

    def receive(self, data: bytes) -> None:
        if data:
            self._call("BIO_write", self._incoming, data, ctypes.c_int(len(data)))
        self._call("SSL_do_handshake", self._tls)

    def update_key(self) -> None:
        assert self._call("SSL_key_update", self._tls, ctypes.c_int(1)) == 1
        self._call("SSL_do_handshake", self._tls)

    def write(self, data: bytes) -> None:
        assert self._call("SSL_write", self._tls, data, ctypes.c_int(len(data))) == len(data)

    def take(self) -> bytes:
        sent, buffer = b"", ctypes.create_string_buffer(65_536)
        while (size := self._call("BIO_read", self._outgoing, buffer, ctypes.c_int(65_536))) > 0:
            sent += buffer.raw[:size]
        return sent


def connected(folder: Path, **limits: int) -> tuple[TlsFilter, RawClient]:
    itself = make_ca(folder, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(itself.cert, itself.key)
    allowance = IdleFrames(Limits(idle_frames_per_s=0, **limits), lambda: 0, time.monotonic)
    server, client = TlsFilter(context, allowance.spend), RawClient()
    client.receive(b"")
    while not server.is_ready:
        server.receive(client.take())
        client.receive(server.take())
    return server, client


def test_key_updates_are_counted_as_frames_that_bring_nothing_forward(tmp_path: Path) -> None:
    """A read of 64 KiB had 2,400 of them, for which all others waited 150 ms, again and again."""
    server, client = connected(tmp_path, idle_frames=1000)
    client.write(b"first")
    client.update_key()
    client.write(b"second")
    assert server.receive(client.take()) == b"firstsecond"
    for _ in range(1000):
        client.update_key()
    with pytest.raises(ConnectionFailure) as failure:
        server.receive(client.take())
    assert failure.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_key_updates_are_counted_one_by_one_and_after_much_content(tmp_path: Path) -> None:
    """One may have begun whose content is on its way, and content may look as one: that is no leave."""
    server, client = connected(tmp_path, idle_frames=1000)
    for _ in range(9):
        client.write(bytes(1024 * 1024))
        server.receive(client.take())
    with pytest.raises(ConnectionFailure):  # noqa: PT012 - one of them, by the limit the eighteenth or so
        for _ in range(30):
            client.update_key()
            server.receive(client.take())


def test_records_are_splinters_where_they_are_many_and_small(tmp_path: Path) -> None:
    server, client = connected(tmp_path, idle_frames=1000)
    for count, size, expected in ((100, 1, True), (100, 1000, False), (10, 1, False)):
        for _ in range(count):
            client.write(bytes(size))
        server.receive(client.take())
        assert server.is_in_splinters is expected, (count, size)


@pytest.mark.parametrize("size", [1, 100, 16_384, 100_000])
@pytest.mark.parametrize("read", [1000, 65_536, 262_144])
def test_content_of_any_size_costs_next_to_nothing(tmp_path: Path, size: int, read: int) -> None:
    # As many as some 15 records without content: what is encrypted may look as the start of one, by chance.
    server, client = connected(tmp_path, idle_frames=1000)
    content = os.urandom(max(300 * 100, 3 * size))
    for at in range(0, len(content), size) if size > 1 else range(1000):
        client.write(content[at : at + size])
    sent = client.take()
    received = b"".join(server.receive(sent[at : at + read]) for at in range(0, len(sent), read))
    assert received == (content if size > 1 else content[:1000])
