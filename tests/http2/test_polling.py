"""Which sockets are ready."""

from __future__ import annotations

import selectors
import socket

import pytest

from coprocess.transport.http2 import polling


@pytest.mark.parametrize("make", [polling.make_poller, polling._Selector])
def test_what_is_removed_from_a_closed_poller_was_gone(make: type[polling._Selector]) -> None:
    """Once, the thread that clears up after a worker failed where the engine had ended before it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        poller = make()
        poller.watch(ours, selectors.EVENT_READ, lambda events: None)
        poller.close()
        poller.remove(ours)
