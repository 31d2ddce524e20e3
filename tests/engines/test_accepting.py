"""Connections as the http2 engine takes them: how many, how long without a word, where files are short."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from coprocess.transport.http2 import protocol, server
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.server import Server
from tests.server import PATIENCE_S, until


class Short(socket.socket):
    """One for whose connections no file can be opened, as long as it is said to be so."""

    is_short = False
    refused = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.is_short:
            self.refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.fixture
def bound() -> Iterator[Short]:
    with Short() as made:
        made.bind(("127.0.0.1", 0))
        yield made


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LOOK_INTERVAL_S", 0.01)


def connect(to: socket.socket, at_end: ExitStack) -> socket.socket:
    made = at_end.enter_context(socket.create_connection(to.getsockname(), PATIENCE_S))
    made.setblocking(False)
    return made


def polled(engine: Server) -> bool:
    engine.poll(0.0)
    return True


def is_greeted(client: socket.socket, engine: Server) -> bool:
    """Whether it is served; else it is closed."""
    said: list[bytes] = []

    def has_said() -> bool:
        engine.poll(0.0)
        try:
            said.append(client.recv(100))
        except BlockingIOError:
            return False
        return True

    until(has_said)
    return said[0] != b""


def test_more_connections_than_may_be_are_closed_until_one_ends(bound: Short, at_end: ExitStack) -> None:
    engine = Server({}, Limits(), max_connections=2)
    at_end.callback(engine.close)
    engine.listen(bound)
    first, second = connect(bound, at_end), connect(bound, at_end)
    assert [is_greeted(each, engine) for each in (first, second)] == [True, True]
    assert not is_greeted(connect(bound, at_end), engine)
    first.close()
    until(lambda: polled(engine) and len(engine.connections()) == 1)
    assert is_greeted(connect(bound, at_end), engine)


def test_who_comes_while_no_file_can_be_opened_is_served_later(
    bound: Short, at_end: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_ACCEPT_PAUSE_S", 0.01)
    engine = Server({}, Limits())
    at_end.callback(engine.close)
    engine.listen(bound)
    bound.is_short = True
    client = connect(bound, at_end)
    until(lambda: polled(engine) and bound.refused == 1)
    bound.is_short = False
    assert is_greeted(client, engine)


def test_a_pause_for_want_of_files_that_a_stop_overtakes(bound: Short, at_end: ExitStack) -> None:
    """The socket is closed by then: it is not polled again."""
    engine = Server({}, Limits())
    at_end.callback(engine.close)
    engine.listen(bound)
    engine.drain(1.0)
    engine._listen_again((bound, None))
    engine.poll(0.0)


def test_a_handshake_that_does_not_come_ends(
    bound: Short, at_end: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Server({}, Limits())
    at_end.callback(engine.close)
    engine.listen(bound, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    client = connect(bound, at_end)
    until(lambda: polled(engine) and len(engine.connections()) == 1)
    monkeypatch.setattr(protocol, "_HANDSHAKE_S", 0.0)
    assert not is_greeted(client, engine)
