"""What processes that plugins fork do not keep: Kong's connections. They would answer for their parent.

They are the server's by no path: it listens beside its own, and workers are given theirs.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable, Iterable

from coprocess.descriptors import let_go

#: What gives the sockets of each engine.
_engines: weakref.WeakSet[Callable[[], Iterable[socket.socket]]] = weakref.WeakSet()
_registered = False


def keep_from_children(sockets: Callable[[], Iterable[socket.socket]]) -> None:
    """Have children not have what `sockets` gives. It is called as long as the caller keeps it."""
    global _registered
    _engines.add(sockets)
    if not _registered:
        _registered = True
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    """In the child, before anything else runs. No lock is taken: its holder would not exist here."""
    found = {each.fileno() for sockets in list(_engines) for each in sockets()} - {-1}
    if found:
        let_go(found)
