"""What errors show of values: kinds and sizes. What a plugin, or Kong, sends by mistake may be a secret."""

from __future__ import annotations

from typing import Any

import pytest

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.answers import unsendable
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.gateway import KongGateway, UnknownInstance
from coprocess.gateways.kong.instances import Instances
from coprocess.gateways.kong.schema import configured
from coprocess.loading.hooks import HookTable

SECRET = "s3cr3t-of-a-consumer"
WRONG: list[Any] = [
    SECRET,
    {"Config": SECRET},
    [0, 1, "plugin.StartInstance", [{"Config": SECRET}], SECRET],
    [0, SECRET, "plugin.StartInstance", [{"Config": SECRET}]],
    [SECRET, 1, "plugin.StartInstance", [{"Config": SECRET}]],
    [0, 1, [SECRET], [{"Config": SECRET}]],
    [0, 1, "plugin.StartInstance", [{"Config": SECRET}, SECRET]],
]


@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_request_is_told_without_its_values(value: Any) -> None:
    with pytest.raises(wire.FrameError, match="Expected: ") as caught:
        wire.request_of(value)
    assert SECRET not in str(caught.value)
    with pytest.raises(wire.FrameError) as caught:
        wire.message_of(value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"authorization": SECRET, "x": {SECRET}}, r"argument 2, a dict of 2, .*'set'"),
        ([SECRET, object()], r"argument 2, a list of 2, .*'object'"),
        (SECRET + "\ud800", r"argument 2, a str of 21, .*surrogates"),
        (2**70, r"argument 2, an int, .*"),
    ],
)
def test_what_cannot_be_sent_is_told_without_its_value(argument: Any, told: str) -> None:
    """Once, the first 100 characters of it stood in the log."""
    arguments = ("x-token", argument)
    with pytest.raises((TypeError, ValueError, OverflowError)) as raised:
        wire.pack(arguments)
    error = unsendable("kong.service.request.set_header", arguments, raised.value)
    with pytest.raises(TypeError, match=told):
        raise error
    assert SECRET not in str(error)


@pytest.mark.parametrize("argument", [SECRET, {"InstanceId": 1, "Config": SECRET}, [SECRET]])
def test_what_is_no_event_is_told_without_its_values(argument: Any) -> None:
    event: Any = type("Asked", (), {"argument": argument})()
    gateway = KongGateway(HookTable(), Instances())
    with pytest.raises(Exception, match=r"not an event: a.*Expected: InstanceId, EventName") as caught:
        gateway.methods[wire.HANDLE_EVENT](event)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("instance_id", [SECRET, {"Config": SECRET}, [SECRET]])
def test_what_is_no_instance_is_told_without_its_value(instance_id: Any) -> None:
    """Once, as many as 40 characters of it stood in the log, and in Kong's."""
    told: list[str] = []

    class Asked(Event):
        def _answer_error(self, message: str) -> None:
            told.append(message)

    nobody: Any = None
    argument = {"InstanceId": instance_id, "EventName": "access"}
    gateway = KongGateway(HookTable(), Instances())
    for method, given in ((wire.HANDLE_EVENT, argument), (wire.CLOSE_INSTANCE, instance_id)):
        event: Any = Asked(nobody, nobody, method, b"", given, 0)
        with pytest.raises(UnknownInstance, match="no plugin instance #a") as caught:
            gateway.methods[method](event)
        told.append(str(caught.value))
    assert len(told) == 4
    assert all("no plugin instance #a" in each and SECRET not in each for each in told)


@pytest.mark.parametrize(
    "definition", [{"match": "^%d+$"}, {"not_match": "s3cr3t"}, {"is_regex": True}, {"len_max": 3}]
)
def test_a_value_that_a_schema_refuses_is_told_without_it(definition: dict[str, Any]) -> None:
    value = SECRET + "(" if "is_regex" in definition else SECRET
    _, problems = configured([{"key": {"type": "string", **definition}}], {"key": value})
    assert problems
    assert SECRET not in "".join(problems)


def test_a_number_beyond_all_floats_is_refused_as_others_are() -> None:
    """Once, the check itself failed."""
    fields = [{"a": {"type": "integer"}}, {"b": {"type": "number"}}]
    assert configured(fields, {"a": 10**400, "b": 10**400})[1] == []
