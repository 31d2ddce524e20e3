"""`Event` over the payload of DispatchEvent: typed, and as the dict that old samples take it for."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess import Event
from coprocess.errors import BadMessage
from coprocess.gateways.tyk.event import (
    TykEvent,
    format_go_time,
    local_event_payload,
    parse_event,
    parse_go_time,
)
from tests.objects import RECORDINGS, event_json, make_payload


def event(**changes: Any) -> TykEvent:
    return parse_event(event_json(**changes))


def test_typed() -> None:
    found = event(meta={"Key": "tok"})
    assert isinstance(found, Event)
    assert found.type == "AuthFailure"
    assert found.meta["Key"] == "tok"
    assert found.handler == "my_handler"
    assert (found.api_id, found.org_id) == ("api", "default")
    assert found.timestamp == datetime(2026, 11, 21, 8, 21, 19, 881174, tzinfo=UTC)


def test_as_a_dict() -> None:
    payload = make_payload()
    found = event()
    assert found == payload
    assert found["message"]["Type"] == "AuthFailure"
    assert json.loads(json.dumps(found)) == payload
    with pytest.raises(KeyError):
        found["absent"]
    assert found.get("absent", 5) == 5
    assert "absent" not in found


@pytest.mark.parametrize(
    ("old", "new"), [("EventType", "Type"), ("EventMetaData", "Meta"), ("TimeStamp", "TimeStamp")]
)
def test_old_spelling(old: str, new: str) -> None:
    found = event()
    expected = make_payload()["message"][new]
    assert found[old] == expected
    assert found.get(old) == expected
    assert getattr(found, old) == expected
    assert old in found
    assert old not in list(found)


def test_attributes() -> None:
    found = event()
    assert found.message["Type"] == "AuthFailure"
    assert found.spec["APIID"] == "api"
    assert found.handler_name == "my_handler"
    with pytest.raises(AttributeError, match="the event has no 'absent'"):
        _ = found.absent
    assert not hasattr(found, "absent")


def test_a_payload_in_the_old_form() -> None:
    found = parse_event(
        json.dumps(
            {
                "TimeStamp": "2016-08-19 11:13:31.537047694 -0400 PYT",
                "EventMetaData": {"Path": "/a"},
                "EventType": "AuthFailure",
                "handler_name": "h",
            }
        )
    )
    assert (found.type, found.meta) == ("AuthFailure", {"Path": "/a"})
    assert found.timestamp is not None
    assert found.timestamp.utcoffset() == timedelta(hours=-4)
    assert found.originating_request is None


def test_originating_request() -> None:
    request = event().originating_request
    assert request is not None
    assert (request.method, request.target) == ("GET", "/protected/a")
    assert request.headers["authorization"] == "bad"
    assert request.body == b""


@pytest.mark.parametrize("value", ["%%%", "Zm9v!", "a", 5, ["R0VU"], {"a": 1}, "é", True])
def test_an_originating_request_that_is_not_base64(value: Any) -> None:
    with pytest.raises(BadMessage, match="OriginatingRequest is not base64"):
        _ = event(meta={"OriginatingRequest": value}).originating_request


def test_an_originating_request_that_is_no_request() -> None:
    text = base64.b64encode(b"nonsense").decode()
    with pytest.raises(BadMessage, match="not an HTTP request"):
        _ = event(meta={"OriginatingRequest": text}).originating_request


@pytest.mark.parametrize("value", ["", None, 0])
def test_no_originating_request(value: Any) -> None:
    assert event(meta={"OriginatingRequest": value}).originating_request is None


BROKEN = {
    "": "not JSON",
    "{": "not JSON",
    "nonsense": "not JSON",
    "[" * 100_000: "not JSON: RecursionError",
    '{"a":' * 100_000: "not JSON: RecursionError",
    "9" * 10_000: "not JSON",
    "null": "a JSON object, not NoneType",
    "[]": "a JSON object, not list",
    '"text"': "a JSON object, not str",
    "5": "a JSON object, not int",
    "{}": "no handler_name",
    '{"handler_name": ""}': "no handler_name",
    '{"handler_name": 5}': "no handler_name",
    '{"handler_name": ["a"]}': "no handler_name",
    '{"handler_name": null}': "no handler_name",
    '{"handler_name": "h", "message": []}': "message is a JSON object, not list",
    '{"handler_name": "h", "message": null}': "message is a JSON object, not NoneType",
    '{"handler_name": "h", "spec": "a"}': "spec is a JSON object, not str",
}


@pytest.mark.parametrize("payload", BROKEN, ids=lambda payload: str(payload)[:40])
def test_a_broken_payload_is_a_clear_error(payload: str) -> None:
    with pytest.raises(BadMessage, match=BROKEN[payload]):
        parse_event(payload)


@pytest.mark.parametrize("meta", [None, 5, [], "text"])
def test_meta_of_another_type_is_none(meta: Any) -> None:
    payload = {"handler_name": "h", "message": {"Type": 5, "Meta": meta, "TimeStamp": 7}}
    found = parse_event(json.dumps(payload))
    assert found.meta == {}
    assert found.type == "5"
    assert found.timestamp is None
    assert found.originating_request is None


def test_spec_that_is_not_text() -> None:
    found = parse_event('{"handler_name": "h", "spec": {"APIID": 5, "OrgID": null, "x": {"a": 1}}}')
    assert (found.api_id, found.org_id) == ("5", "")
    assert found.spec_texts == {"APIID": "5", "x": '{"a": 1}'}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {}, optional={"message": JSON, "handler_name": st.just("h") | JSON, "spec": JSON, "EventType": JSON}
    )
)
def test_any_json_is_an_event_or_a_clear_error(payload: dict[str, Any]) -> None:
    try:
        found = parse_event(json.dumps(payload))
    except BadMessage:
        return
    assert isinstance(found.type, str)
    assert isinstance(found.meta, dict)
    assert isinstance(found.handler, str)
    assert all(isinstance(value, str) for value in (found.api_id, found.org_id, *found.spec_texts.values()))
    assert found.timestamp is None or found.timestamp.tzinfo is not None


def recorded_events() -> list[dict[str, Any]]:
    return [
        found
        for path in sorted(RECORDINGS.glob("*.json"))
        for found in json.loads(path.read_text(encoding="utf-8"))["events"]
    ]


def test_recorded_events() -> None:
    events = recorded_events()
    assert len(events) >= 10
    for payload in events:
        found = parse_event(json.dumps(payload))
        assert found.type == payload["message"]["Type"]
        assert found.timestamp is not None
        request = found.originating_request
        assert request is not None
        assert request.target.startswith("/")
        assert "Host" in request.headers


# Go's time.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21 08:21:19 +0000 UTC", datetime(2026, 11, 21, 8, 21, 19, tzinfo=UTC)),
        ("2026-11-21 08:21:19.5 +0000 UTC", datetime(2026, 11, 21, 8, 21, 19, 500_000, tzinfo=UTC)),
        (
            "2026-11-21 08:21:19.881174117 +0530 IST m=+0.001",
            datetime(2026, 11, 21, 8, 21, 19, 881174, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        ),
        (
            "2016-08-19 11:13:31.537047694 -0400 PYT",
            datetime(2016, 8, 19, 11, 13, 31, 537047, tzinfo=timezone(timedelta(hours=-4))),
        ),
    ],
)
def test_go_time(text: str, expected: datetime) -> None:
    assert parse_go_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-21",
        "2026-13-21 08:21:19 +0000 UTC",
        "2026-11-21 25:21:19 +0000 UTC",
        "20260-11-21 08:21:19 +0000 UTC",
        "2026-11-21 08:21:19 +9900 UTC",
    ],
)
def test_what_is_no_go_time(text: str) -> None:
    assert parse_go_time(text) is None


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))
def test_go_time_round_trip(moment: datetime) -> None:
    assert parse_go_time(format_go_time(moment)) == moment


# Events that handlers trigger themselves.

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("payload", "meta"),
    [
        ('{"a": 1}', {"a": 1}),
        ("plain text", {"Message": "plain text"}),
        ("[1]", {"Message": "[1]"}),
        ("", {"Message": ""}),
        ("[" * 100_000, {"Message": "[" * 100_000}),
    ],
)
def test_local_payload(payload: str, meta: dict[str, Any]) -> None:
    found = parse_event(local_event_payload("h", payload, {"APIID": "a"}, NOW))
    assert (found.type, found.handler, found.api_id) == ("h", "h", "a")
    assert found.meta == meta
    assert found.timestamp == NOW


def test_local_payload_in_the_gateways_form() -> None:
    found = parse_event(local_event_payload("h", event_json(handler="other"), {}, NOW))
    assert (found.type, found.handler, found.api_id) == ("AuthFailure", "h", "api")
