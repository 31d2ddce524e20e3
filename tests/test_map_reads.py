"""Asking a message's map for a key that is not there changes nothing, in whatever style and map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import struct_pb2

from coprocess.api.moments import HookType
from coprocess.gateways.tyk.wire import AccessDefinition, Object, SessionState
from tests.guard.edits import at_the_gateway, embedded, raw, raw_response
from tests.objects import make_object, make_response

MAPS: dict[str, Callable[[Object], Any]] = {
    "headers": lambda message: message.request.headers,
    "set_headers": lambda message: message.request.set_headers,
    "params": lambda message: message.request.params,
    "add_params": lambda message: message.request.add_params,
    "extended_params": lambda message: message.request.extended_params,
    "return_overrides.headers": lambda message: message.request.return_overrides.headers,
    "response.headers": lambda message: message.response.headers,
    "metadata": lambda message: message.metadata,
    "spec": lambda message: message.spec,
    "session.metadata": lambda message: message.session.metadata,
    "session.oauth_keys": lambda message: message.session.oauth_keys,
}


@pytest.mark.parametrize("name", MAPS)
def test_reading_a_missing_key_adds_nothing(name: str) -> None:
    message = Object()
    assert MAPS[name](message)["X-Missing"] == ""
    assert MAPS[name](message).pop("X-Missing", "none") == "none"
    assert message.SerializeToString() == b""
    MAPS[name](message)["X-Empty"] = ""
    assert dict(MAPS[name](message)) == {"X-Empty": ""}
    assert MAPS[name](message).pop("X-Empty") == ""
    assert not MAPS[name](message)


def test_counting_in_a_map_goes_on_from_the_empty_value() -> None:
    metadata = Object().metadata
    metadata["seen"] += "x"
    metadata["seen"] += "x"
    assert dict(metadata) == {"seen": "xx"}


def test_maps_of_messages_still_take_a_message_by_asking() -> None:
    session = SessionState()
    session.access_rights["api"].api_id = "api"
    assert dict(session.access_rights) == {"api": AccessDefinition(api_id="api")}


def test_maps_of_other_pools_keep_the_habits_of_protobuf() -> None:
    struct = struct_pb2.Struct()
    assert struct.fields["a"].WhichOneof("kind") is None
    assert "a" in struct.fields


def test_a_header_that_was_looked_for_is_not_sent() -> None:
    def look(request: Any, session: Any, spec: Any) -> Any:
        assert request.object.set_headers["X-A"] == request.object.add_params["a"] == spec["none"] == ""
        return request, session

    sent = at_the_gateway(embedded(look, make_object()))
    assert "X-A" not in sent.headers
    assert str(sent.url) == "/keyless/a"


def test_a_header_that_was_looked_for_is_not_sent_to_the_client() -> None:
    def look(request: Any, response: Any, session: Any, metadata: Any, spec: Any) -> Any:
        assert response.headers["X-Missing"] == metadata["none"] == ""
        return response

    sent = make_response(headers=[("Set-Cookie", "a"), ("Set-Cookie", "b")])
    reply = embedded(look, make_object(HookType.Response, response=sent)).response
    assert reply == sent


def test_an_empty_value_that_a_handler_sets_is_sent() -> None:
    def on_request(request: Any) -> None:
        request.set_headers["X-User"] = ""

    def on_response(response: Any) -> None:
        response.headers["X-Empty"] = ""

    assert at_the_gateway(raw(on_request)).headers.get("X-User") == ""
    assert "X-User" in at_the_gateway(raw(on_request)).headers
    assert raw_response(on_response).response.headers["X-Empty"] == ""
    assert "X-Empty" in raw_response(on_response).response.headers


def test_looking_at_the_session_does_not_make_one() -> None:
    def look(request: Any, session: Any, metadata: Any, spec: Any) -> Any:
        assert session.metadata["a"] == session.oauth_keys["a"] == ""
        return request

    assert not embedded(look, make_object(HookType.CustomKeyCheck)).HasField("session")
