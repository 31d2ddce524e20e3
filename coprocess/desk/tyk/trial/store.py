"""A store of its own for trials: a real server, empty at the start and gone at the end."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coprocess.store import store
from coprocess.store.embedded import EmbeddedValkey

_FLUSH_TIMEOUT_S = 5.0


class TemporaryServer:
    """An embedded server in a folder of its own. Raises ConfigError where this platform has none."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedValkey(folder)
        self._server.start()

    @property
    def url(self) -> str:
        return f"unix://{self._server.socket_path}"

    def flush(self) -> None:
        """Delete every key."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_FLUSH_TIMEOUT_S)
            connection.connect(str(self._server.socket_path))
            connection.sendall(b"FLUSHALL\r\n")
            answer = connection.recv(1024)
        if not answer.startswith(b"+OK"):
            raise OSError(f"the store was not emptied: {answer!r}")

    def close(self) -> None:
        self._server.close()


@contextmanager
def trial_store(url: str | None) -> Iterator[None]:
    """What `coprocess.store` is within: the store at `url`, or a temporary one."""
    if url is not None:
        store.configure(url)
        try:
            yield
        finally:
            store.close()
        return
    with tempfile.TemporaryDirectory(prefix="coprocess-") as folder:
        server = TemporaryServer(Path(folder))
        try:
            store.configure(server.url)
            yield
        finally:
            store.close()
            server.close()
