"""Connections that change hands, between workers and between threads of one event."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import sharing, wire
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.methods import Method


def test_a_connection_that_is_taken_after_the_other_has_given_up_waiting_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, its taker closed it, as nobody heard that it was taken: Kong let the request by."""
    monkeypatch.setattr(sharing, "_SEND_WAIT_S", 0.05)
    event = [0, 1, "plugin.HandleEvent", [{"InstanceId": 1, "EventName": "access"}]]
    path = tmp_path / "kong-1.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        kong, given = socket.socketpair()
        with kong, given:
            assert sharing._give(path, given, wire.pack(event))
            given.close()
            with listening.accept()[0] as other:
                taken = sharing.take(other)
            assert taken is not None
            connection, came = taken
            with connection:
                assert came == event
                connection.sendall(b"answer")
                assert kong.recv(10) == b"answer"


class Connection:
    """Keeps what is written; `meanwhile` happens while arguments are packed."""

    values: tuple[()] = ()
    is_within = False

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.meanwhile: Any = None
        self._pack = wire.packer()

    def pack(self, arguments: Any) -> bytes:
        if self.meanwhile is not None:
            self.meanwhile()
        packed: bytes = self._pack(arguments)
        return packed

    def write(self, frame: bytes) -> int:
        self.written.append(frame)
        return len(frame)

    def read(self, size: int) -> bytes:
        raise BlockingIOError


class Engine:
    def __init__(self) -> None:
        self.events: dict[int, Any] = {}
        self.late = self

    def wait(self, event: Any, may_wait: Any) -> Any:
        raise InterruptedError


def test_a_call_goes_out_where_another_threads_call_has_gone_on() -> None:
    """Once, it went to the connection of before, which by then was another event's."""
    before, after = Connection(), Connection()
    engine: Any = Engine()
    first: Any = before
    event = Event(engine, first, wire.HANDLE_EVENT, wire.pack_head(1), {}, 1, 70_000)

    def another_thread() -> None:
        event._owed.pop()
        goes_on: Any = after
        event.take_step(goes_on, [0, 9, "plugin.Step", [{"EventId": 70_000}]])

    before.meanwhile = another_thread
    with pytest.raises((InterruptedError, BlockingIOError)):
        event.ask(Method("kong.log.err"), ("from the second thread",))
    assert (len(before.written), len(after.written)) == (0, 1)
