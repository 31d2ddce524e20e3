"""A store of its own for trials: a real server, empty at the start and gone at the end."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coprocess.store import store
from coprocess.store.embedded import EmbeddedValkey

#: On a machine that stands still for a moment, as those of CI do, the server answers late. Nobody waits for a
#: trial but its author, and a deadline of production would only fail it.
TRIAL_TIMEOUT_S = 30.0
_ADVANCE = b"""
local cursor = '0'
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local left = redis.call('PTTL', key)
    if left >= 0 then
      redis.call('PEXPIRE', key, math.max(0, left - ARGV[1]))
    end
  end
until cursor == '0'
return redis.status_reply('OK')
"""


class TemporaryServer:
    """An embedded server in a folder of its own. Raises ConfigError where this platform has none."""

    def __init__(self, folder: Path) -> None:
        # A run that is killed, with its whole group, leaves no server: nobody would ever find it.
        self._server = EmbeddedValkey(folder, watched=True, grace_s=0)
        self._server.start()

    @property
    def url(self) -> str:
        return f"unix://{self._server.socket_path}"

    def flush(self) -> None:
        """Delete every key."""
        self._command(b"FLUSHALL")

    def advance(self, seconds: float) -> None:
        """Bring the end of every key that has one nearer, as if the time had passed."""
        self._command(b"EVAL", _ADVANCE, b"0", str(round(seconds * 1000)).encode())

    def _command(self, *words: bytes) -> None:
        text = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TRIAL_TIMEOUT_S)
            connection.connect(str(self._server.socket_path))
            connection.sendall(b"*%d\r\n%s" % (len(words), text))
            answer = connection.recv(1024)
        if not answer.startswith(b"+OK"):
            raise OSError(f"the store did not do {words[0].decode()}: {answer!r}")

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
            store.configure(server.url, timeout_s=TRIAL_TIMEOUT_S)
            yield
        finally:
            store.close()
            server.close()
