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


@pytest.mark.parametrize("make", [polling.make_poller, polling._Selector])
def test_what_is_found_by_looking_is_polled_once(make: type[polling._Selector]) -> None:
    ours, theirs = socket.socketpair()
    told: list[int] = []
    with ours, theirs:
        poller = make()
        poller.watch(ours, selectors.EVENT_READ, told.append)
        assert not poller.find()
        theirs.send(b"1")
        assert poller.find()
        [(ready, events)] = poller.poll(0.0)
        ready(events)
        assert told == [selectors.EVENT_READ]
        ours.recv(1)
        assert poller.poll(0.0) == []
        theirs.send(b"1")
        assert poller.find()
        poller.remove(ours)
        assert poller.poll(0.0) == []
        poller.close()
