"""What connects while no more files may be open is refused: it would wait for 60 s, and Kong let it by."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Final

from coprocess.gateways.kong.left_behind import refuse

_NO_MORE: Final = (errno.EMFILE, errno.ENFILE)


class Spare:
    """A socket whose place a connection takes then. For one thread."""

    def __init__(self) -> None:
        self._held: socket.socket | None = None
        self._take_place()

    def refuse_next(self, listening: socket.socket, error: OSError) -> bool:
        """After `error`, which accept raised: refuse what connects. False where that is another one's case.

        The connection stays open until the next one, as Kong may be about to send.
        """
        if error.errno not in _NO_MORE or _is_room():
            return False
        self.close()
        try:
            self._held, _ = listening.accept()
        except OSError:  # A thread of the plugin's has taken the place, say.
            self._take_place()
            return False
        refuse(self._held)
        return True

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _take_place(self) -> None:
        with contextlib.suppress(OSError):
            self._held = socket.socket(socket.AF_UNIX)


def _is_room() -> bool:
    """Whether a file may be opened by now."""
    try:
        socket.socket(socket.AF_UNIX).close()
    except OSError:
        return False
    return True
