"""`Session`, metadata and `Spec` over Tyk's messages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from coprocess import Session
from coprocess.api.moments import HookType
from coprocess.errors import BadMessage
from coprocess.gateways.tyk.session import TextMap, TykSession, TykSpec
from coprocess.gateways.tyk.wire import (
    AccessDefinition,
    BasicAuthData,
    JWTData,
    Monitor,
    Object,
    SessionState,
)
from tests.objects import answer, make_object, make_request

FIELDS: list[Any] = list(SessionState.DESCRIPTOR.fields)


def view(message: Object | None = None) -> Any:
    return TykSession(Object() if message is None else message)


ANNOTATIONS: dict[str, Any] = {
    name: kind
    for name, kind in {**Session.__annotations__, **TykSession.__annotations__}.items()
    if name != "gateway"
}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.name))
def test_every_field_of_the_protocol_is_typed_and_on_the_view(field: Any) -> None:
    assert field.name in ANNOTATIONS
    assert hasattr(TykSession, field.name)
    expected = {
        field.CPPTYPE_INT64: "int",
        field.CPPTYPE_DOUBLE: "float",
        field.CPPTYPE_BOOL: "bool",
        field.CPPTYPE_STRING: "str",
    }
    annotation = ANNOTATIONS[field.name]
    if field.cpp_type == field.CPPTYPE_MESSAGE and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        kind = value.message_type.name if value.message_type else "str"
        assert annotation == f"MutableMapping[str, {kind}]"
    elif field.is_repeated:
        assert annotation == "MutableSequence[str]"
    elif field.cpp_type == field.CPPTYPE_MESSAGE:
        assert annotation == field.message_type.name
    else:
        assert annotation == expected[field.cpp_type]


def test_no_field_is_annotated_that_the_protocol_does_not_have() -> None:
    assert set(ANNOTATIONS) == {field.name for field in FIELDS}


SAMPLES: dict[str, Any] = {"int": 7, "float": 1.5, "bool": True, "str": "text"}


@pytest.mark.parametrize("name", [f.name for f in FIELDS if ANNOTATIONS[f.name] in SAMPLES])
def test_scalars_are_read_and_set(name: str) -> None:
    message = Object()
    session = view(message)
    sample = SAMPLES[ANNOTATIONS[name]]
    assert getattr(session, name) == type(sample)()
    assert not message.HasField("session")
    setattr(session, name, sample)
    assert getattr(session, name) == getattr(message.session, name) == sample
    with pytest.raises(TypeError):
        setattr(session, name, object())


@pytest.mark.parametrize("name", [f.name for f in FIELDS])
def test_reading_leaves_an_absent_session_absent(name: str) -> None:
    message = Object()
    session = view(message)
    getattr(session, name)
    assert not session
    assert message.SerializeToString() == b""


def test_asking_for_what_is_absent_leaves_the_session_absent() -> None:
    message = Object()
    session = view(message)
    assert session.metadata.get("a") is None
    assert "a" not in session.metadata
    assert "a" not in session.access_rights
    assert list(session.tags) == []
    assert session.basic_auth_data.password == ""
    assert not message.HasField("session")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0.0),
        ("alias", ""),
        ("tags", ["a"]),
        ("metadata", {"a": "b"}),
        ("oauth_keys", {"a": "b"}),
        ("access_rights", {"api": AccessDefinition(api_id="api")}),
        ("basic_auth_data", BasicAuthData(password="p")),
        ("jwt_data", JWTData(secret="s")),
        ("monitor", Monitor(trigger_limits=[0.5])),
        ("apply_policies", ("a", "b")),
    ],
)
def test_setting_makes_the_session_present(name: str, value: Any) -> None:
    message = Object()
    session = view(message)
    setattr(session, name, value)
    assert session
    assert message.HasField("session")
    read = getattr(session, name)
    assert (list(read) if isinstance(value, (list, tuple)) else read) == (
        list(value) if isinstance(value, tuple) else value
    )


def test_editing_in_place_makes_the_session_present() -> None:
    for edit in (
        lambda session: session.tags.append("a"),
        lambda session: session.metadata.update(a="b"),
        lambda session: setattr(session.access_rights["api"], "api_id", "api"),
        lambda session: setattr(session.basic_auth_data, "password", "p"),
        lambda session: session.monitor.trigger_limits.append(1.0),
    ):
        message = Object()
        edit(view(message))
        assert message.HasField("session")


def test_assigning_a_field_to_itself_keeps_it() -> None:
    session = view()
    session.tags = ["a", "b"]
    session.metadata = {"k": "v"}
    session.access_rights = {"api": AccessDefinition(api_id="api")}
    for name in ("tags", "metadata", "access_rights"):
        setattr(session, name, getattr(session, name))
    assert list(session.tags) == ["a", "b"]
    assert dict(session.metadata) == {"k": "v"}
    assert session.access_rights["api"].api_id == "api"


@pytest.mark.parametrize("name", ["tags", "apply_policies"])
def test_text_is_not_taken_for_several_values(name: str) -> None:
    with pytest.raises(TypeError, match="several values"):
        setattr(view(), name, "gold")
    with pytest.raises(TypeError, match="several values"):
        view().allow("t", tags="gold")


def test_a_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AttributeError):
        view().rates = 5


def test_allow_in_one_line() -> None:
    reply = answer(lambda session: session.allow("tok"), make_object(HookType.CustomKeyCheck))
    assert reply.HasField("session")
    assert reply.session == SessionState()
    assert dict(reply.metadata) == {"token": "tok"}


def test_allow_with_everything() -> None:
    message = make_object(HookType.CustomKeyCheck)
    before = int(time.time())
    view(message).allow(
        "tok",
        rate=5,
        per=10,
        quota_max=100,
        quota_renewal_rate_s=3600,
        expires_at=2_000_000_000,
        cache_for_s=60,
        alias="anna",
        tags=["gold"],
        policies=["p1"],
        metadata={"tier": "gold"},
    )
    session = message.session
    assert (session.rate, session.per) == (5, 10)
    assert (session.quota_max, session.quota_remaining, session.quota_renewal_rate) == (100, 100, 3600)
    assert session.expires == 2_000_000_000
    assert before + 60 <= session.id_extractor_deadline
    assert before <= int(session.last_updated) <= session.id_extractor_deadline - 60
    assert (session.alias, list(session.tags), list(session.apply_policies)) == ("anna", ["gold"], ["p1"])
    assert dict(session.metadata) == {"tier": "gold"}
    assert dict(message.metadata) == {"token": "tok"}


def test_allow_rate_is_by_the_second_unless_said() -> None:
    message = Object()
    view(message).allow("tok", rate=5)
    assert (message.session.rate, message.session.per) == (5, 1)
    with pytest.raises(ValueError, match="per without rate"):
        view().allow("tok", per=5)


@pytest.mark.parametrize("token", ["", None, 5])
def test_allow_needs_a_token(token: Any) -> None:
    message = Object()
    with pytest.raises(ValueError, match="token"):
        view(message).allow(token)
    assert not message.HasField("session")


def test_repr_shows_no_secret() -> None:
    session = view()
    assert repr(session) == "<Session: none>"
    session.hmac_secret = "secret"
    session.alias = "anna"
    assert repr(session) == "<Session of anna>"


def test_metadata_acts_as_a_dict() -> None:
    message = make_object(metadata={"a": "1"})
    metadata = TextMap(message.metadata)
    assert dict(metadata) == {"a": "1"}
    assert metadata == {"a": "1"}
    with pytest.raises(KeyError):
        metadata["absent"]
    with pytest.raises(KeyError):
        del metadata["absent"]
    assert "absent" not in message.metadata
    assert metadata.pop("a") == "1"
    assert metadata.setdefault("b", "2") == "2"
    for key in metadata:
        del metadata[key]
    assert not message.metadata
    with pytest.raises(TypeError):
        metadata["a"] = 1  # type: ignore[assignment]  # what is tested
    metadata["token"] = "secret"
    assert repr(metadata) == "TextMap(['token'])"


def test_spec() -> None:
    spec = TykSpec({"APIID": "a", "OrgID": "o", "bundle_hash": "b", "config_data": '{"n": [1]}'})
    assert (spec.api_id, spec.org_id, spec.bundle_hash) == ("a", "o", "b")
    assert spec.config == {"n": [1]}
    assert repr(spec) == "<Spec of API 'a'>"


def test_spec_of_a_gateway_that_says_nothing() -> None:
    message = Object()
    spec = TykSpec(message.spec)
    assert (spec.api_id, spec.org_id, spec.bundle_hash, spec.config) == ("", "", "", {})
    assert not message.spec


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"a"', "[" * 100_000, "nonsense"])
def test_config_that_is_no_json_object(text: str) -> None:
    with pytest.raises(BadMessage, match="config_data of API 'a' is not"):
        _ = TykSpec({"APIID": "a", "config_data": text}).config


def test_a_session_that_came_is_shown() -> None:
    message = make_object(HookType.Post, session=SessionState(alias="anna"), request=make_request())
    session = view(message)
    assert session
    assert session.alias == "anna"
    assert session.object is session.object
