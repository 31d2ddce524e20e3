"""Frames whose bytes are known are not read anew: what comes of them is what a reader would make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.known import MOST_KNOWN
from tests.kong.server import Kong, Served, serving

PLUGIN = """
class Plugin:
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        kong.response.set_header("x-from", self.config["from"])
        kong.response.set_header("x-got", str(kong.request.get_header("x")))

    def rewrite(self, kong):
        kong.response.set_header("x-from", "rewrite")
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, PLUGIN) as served:
        yield served


def first_call(kong: Kong, *pieces: bytes, between: Callable[[], object] = lambda: None) -> list[object]:
    """Sends an event, in these pieces: the arguments of its first call. It is run to its end."""
    for piece in pieces:
        kong.socket.sendall(piece)
        between()
    answer = kong.answer()
    assert answer.error is None, answer.error
    arguments = answer.result["Data"]["Args"]
    assert isinstance(arguments, list)
    event_id = answer.result["EventId"]
    while kong.step(event_id)["Data"] != "ret":
        pass
    return arguments


@pytest.mark.parametrize("message_id", [1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1])
def test_an_event_that_came_before_is_its_own_instances_and_its_answer_has_its_id(
    served: Served, message_id: int
) -> None:
    kong = served.connect()
    one, other = kong.start('{"from": "one"}'), kong.start('{"from": "other"}')
    for _ in range(2):
        for instance, phase, came_from in (
            (one, "access", "one"),
            (other, "access", "other"),
            (one, "rewrite", "rewrite"),
        ):
            argument = {"InstanceId": instance, "EventName": phase}
            kong.socket.sendall(wire.pack_request(message_id, wire.HANDLE_EVENT, argument))
            answer = kong.answer()
            assert answer.id == message_id
            assert answer.result["Data"]["Args"] == ["x-from", came_from]
            result, event_id = answer.result, answer.result["EventId"]
            while result["Data"] != "ret":
                for_id = message_id if result["Data"]["Method"] != "kong.request.get_header" else 7
                kong.socket.sendall(wire.pack_request(for_id, wire.STEP, {"EventId": event_id}))
                answer = kong.answer()
                assert answer.id == for_id
                result = answer.result


def test_an_event_that_came_before_may_come_in_pieces(served: Served) -> None:
    kong, other = served.connect(), served.connect()
    instance = kong.start('{"from": "one"}')
    data = wire.pack_request(300, wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "access"})
    assert first_call(kong, data) == ["x-from", "one"]
    for at in range(1, len(data)):
        # So that the first piece is read alone.
        came = first_call(kong, data[:at], data[at:], between=lambda: other.run(instance))
        assert came == ["x-from", "one"]
    # And together with what comes after it.
    kong.socket.sendall(data + data)
    answer = kong.answer()
    # The second is none of its steps: that event is over, and the second is served.
    assert answer.result["Data"]["Args"] == ["x-from", "one"]
    assert kong.answer().result["Data"]["Args"] == ["x-from", "one"]


def test_the_known_part_of_an_event_alone_is_no_message(served: Served) -> None:
    kong, odd = served.connect(), served.connect()
    argument = {"InstanceId": kong.start('{"from": "one"}'), "EventName": "access"}
    data = wire.pack_request(1, wire.HANDLE_EVENT, argument)
    assert first_call(kong, data) == ["x-from", "one"]
    odd.socket.sendall(data[3:])
    assert isinstance(odd.answer().error, dict)


def test_a_part_of_a_known_event_behind_the_id_of_another_is_read(served: Served) -> None:
    kong = served.connect()
    argument = {"InstanceId": kong.start('{"from": "one"}'), "EventName": "access"}
    data = wire.pack_request(1, wire.HANDLE_EVENT, argument)
    assert first_call(kong, data) == ["x-from", "one"]
    for head in (b"\x94\x01\x01", b"\x93\x00\x01", b"\x94\x00\xd0\x01", b"\x94\x02\x01"):
        odd = served.connect()
        odd.socket.sendall(head + data[3:])
        if head == b"\x94\x00\xd0\x01":  # Another way to write a 1.
            assert odd.answer().result["Data"]["Args"] == ["x-from", "one"]
        else:
            assert isinstance(odd.answer().error, dict)


def test_what_is_known_is_bounded(served: Served) -> None:
    kong = served.connect()
    instance = kong.start('{"from": "one"}')
    for number in range(2 * MOST_KNOWN):
        kong.send(wire.HANDLE_EVENT, {"InstanceId": f"no {number}", "EventName": "access"})
        assert "no plugin instance" in str(kong.answer().error)
    assert len(served.engine.known) <= MOST_KNOWN
    kong.send(wire.HANDLE_EVENT, {"InstanceId": "x" * 5000, "EventName": "access"})
    assert "no plugin instance" in str(kong.answer().error)
    assert max(map(len, served.engine.known)) < 300
    assert kong.run(instance, get_header="v")[0] == ("kong.response.set_header", ["x-from", "one"])


def test_a_step_without_a_value_counts_for_its_own_event_alone(served: Served) -> None:
    kong, other = served.connect(), served.connect()
    instance = kong.start('{"from": "one"}')
    asked, others = kong.event(instance), other.event(instance)
    assert asked["EventId"] != others["EventId"]
    # On its connection comes the step of the other: that one has it, and this one ends.
    kong.send(wire.STEP, {"EventId": others["EventId"]})
    assert kong.answer().result == {
        "Data": {"Method": "kong.request.get_header", "Args": ["x"]},
        "EventId": others["EventId"],
    }


def test_nothing_and_something_are_told_apart(served: Served) -> None:
    kong = served.connect()
    instance = kong.start('{"from": "one"}')
    for gives in (None, "", "v", False, 0):
        calls = kong.run(instance) if gives is None else kong.run(instance, get_header=gives)
        assert calls[-1] == ("kong.response.set_header", ["x-got", str((gives, None))])
