"""A value of the wrong type is refused where it is set, in words that name the key and the type."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from coprocess import Reject, respond, trigger_event
from coprocess.api.http import MultiHeaders
from coprocess.api.moments import HookType
from coprocess.gateways.tyk.compat.request import TykCoProcessRequest
from coprocess.gateways.tyk.request import TykRequest
from coprocess.gateways.tyk.response import TykResponse
from coprocess.gateways.tyk.session import TextMap, TykSession
from coprocess.gateways.tyk.wire import Object, SessionState
from tests.objects import make_object

Edit = Callable[[Any], object]


def refused(edit: Callable[[], object]) -> str:
    with pytest.raises(TypeError) as refusal:
        edit()
    return str(refusal.value)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda request: request.add_header("X", 7), "header X: the value is a str, not int: write str(…)"),
        (lambda request: request.add_header(7, "x"), "the header's name is a str, not int: write str(…)"),
        (lambda request: request.add_header("X", None), "header X: the value is a str, not NoneType"),
        (lambda request: request.add_header("X", b"v"), "a str, not bytes: write ….decode()"),
        (lambda request: request.delete_header(7), "the header's name is a str, not int"),
        (lambda request: request.get_header(7), "the header's name is a str, not int"),
        (lambda request: request.add_param("p", 1.5), "query parameter p: the value is a str, not float"),
        (lambda request: request.add_param(["p"], "1"), "the query parameter's name is a str, not list"),
        (lambda request: request.delete_param(None), "the query parameter's name is a str, not NoneType"),
        (lambda request: setattr(request, "method", 7), "method is a str, not int"),
        (lambda request: setattr(request, "raw_body", "x"), "raw_body is bytes, not str: write ….encode()"),
        (lambda request: setattr(request.object, "url", ["/"]), "url is a str, not list"),
        (lambda request: request.object.set_headers.__setitem__("X", 7), "X: the value is a str, not int"),
        (lambda request: request.object.set_headers.__setitem__(7, "X"), "a key is a str, not int"),
        (lambda request: request.object.headers[7], "a key is a str, not int"),
        (lambda request: request.object.headers.__delitem__(7), "a key is a str, not int"),
        (lambda request: request.object.headers.pop(None), "a key is a str, not NoneType"),
        (lambda request: request.object.headers.setdefault("X", 7), "X: the value is a str, not int"),
        (lambda request: request.object.delete_headers.append(7), "of the list is a str, not int: write str"),
        (lambda request: request.object.delete_headers.extend(["a", 7]), "a str, not int: write"),
        (lambda request: request.object.delete_headers.insert(0, None), "a str, not NoneType"),
        (
            lambda request: setattr(request.object.return_overrides, "response_code", "401"),
            "response_code is an int, not str: write int(…)",
        ),
    ],
)
def test_in_embedded_style(edit: Edit, text: str) -> None:
    assert text in refused(lambda: edit(TykCoProcessRequest(make_object().request)))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda request: request.headers.__setitem__("X", 7), "header X: the value is a str, not int"),
        (lambda request: request.headers.__setitem__(7, "7"), "a header name is a str, not int"),
        (lambda request: request.headers.add("X", None), "header X: the value is a str, not NoneType"),
        (lambda request: request.headers[7], "a header name is a str, not int"),
        (lambda request: request.headers.get(None), "a header name is a str, not NoneType"),
        (lambda request: request.headers.__delitem__(7), "a header name is a str, not int: write"),
        (lambda request: request.headers.update(X=True), "header X: the value is a str, not bool"),
        (lambda request: request.query.__setitem__("p", 7), "query parameter p: the value is text, not int"),
        (lambda request: request.query.__setitem__(7, "p"), "a query parameter's name is text, not int"),
        (lambda request: setattr(request, "method", 7), "request.method is a str, not int"),
        (lambda request: setattr(request, "url", None), "request.url is a str, not NoneType"),
        (lambda request: setattr(request, "path", b"/"), "request.path is a str, not bytes"),
    ],
)
def test_of_a_request(edit: Edit, text: str) -> None:
    assert text in refused(lambda: edit(TykRequest(make_object().request)))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda response: response.headers.__setitem__("X", 7), "header X: the value is a str, not int"),
        (lambda response: response.headers.add("X", 7), "header X: the value is a str, not int"),
        (lambda response: response.object.headers.__setitem__("X", 7), "X: the value is a str, not int"),
        (lambda response: setattr(response.object, "status_code", "200"), "status_code is an int, not str"),
    ],
)
def test_of_a_response(edit: Edit, text: str) -> None:
    assert text in refused(lambda: edit(TykResponse(make_object(HookType.Response).response)))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda session: setattr(session, "rate", "5"), "rate is a number, not str: write float(…)"),
        (lambda session: setattr(session, "quota_max", 1.5), "quota_max is an int, not float: write int(…)"),
        (lambda session: setattr(session, "is_inactive", "yes"), "is_inactive is a bool, not str"),
        (lambda session: setattr(session, "alias", 7), "alias is a str, not int"),
        (lambda session: setattr(session, "tags", ["a", 7]), "a value of session.tags is a str, not int"),
        (lambda session: session.tags.append(7), "a value of session.tags is a str, not int"),
        (lambda session: session.tags.extend([7]), "a value of session.tags is a str, not int"),
        (lambda session: session.tags.insert(0, None), "a value of session.tags is a str, not NoneType"),
        (lambda session: setattr(session, "metadata", {"a": 7}), "session.metadata['a'] is a str, not int"),
        (lambda session: session.metadata.update(a=7), "session.metadata['a'] is a str, not int"),
        (
            lambda session: session.oauth_keys.update({7: "a"}),
            "a key of session.oauth_keys is a str, not int",
        ),
        (
            lambda session: setattr(session, "monitor", 7),
            "session.monitor is a message of type Monitor, not int",
        ),
        (
            lambda session: setattr(session, "access_rights", {"api": {}}),
            "session.access_rights['api'] is a message of type AccessDefinition, not dict",
        ),
        (lambda session: session.allow("t", rate="5"), "rate is a number, not str"),
        (lambda session: session.allow("t", quota_max="5"), "quota_max is an int, not str"),
        (
            lambda session: session.allow("t", quota_renewal_rate_s=0.5),
            "quota_renewal_rate_s is an int, not f",
        ),
        (lambda session: session.allow("t", expires_at=1.5), "expires_at is an int, not float: write int(…)"),
        (
            lambda session: session.allow("t", expires_at=datetime.now(UTC)),
            "expires_at is an int, not datetime",
        ),
        (lambda session: session.allow("t", cache_for_s="60"), "cache_for_s is an int, not str"),
        (lambda session: session.allow("t", alias=7), "alias is a str, not int"),
        (lambda session: session.allow("t", tags=[7]), "a value of tags is a str, not int"),
        (lambda session: session.allow("t", policies=[None]), "a value of policies is a str, not NoneType"),
        (lambda session: session.allow("t", metadata={"user": 7}), "metadata['user'] is a str, not int"),
    ],
)
def test_of_a_session(edit: Edit, text: str) -> None:
    assert text in refused(lambda: edit(TykSession(Object())))


def test_of_metadata() -> None:
    metadata: Any = TextMap(Object().metadata)
    assert refused(lambda: metadata.update(a=7)) == "metadata['a'] is a str, not int: write str(…)"
    metadata = SessionState().metadata
    assert refused(lambda: metadata.setdefault("a", 7))


def test_of_answers() -> None:
    text = "header X: the value is a str, not int: write str(…)"
    headers: Any = {"X": 7}
    assert refused(lambda: respond(401, headers=headers)) == text
    assert refused(lambda: Reject(401, "no", headers=headers.items())) == text
    assert refused(lambda: MultiHeaders(headers)) == text


def test_of_an_event_that_is_triggered() -> None:
    text = refused(lambda: trigger_event("audit", {"a": 1}))  # type: ignore[arg-type]  # what is tested
    assert text == 'the payload of event "audit" is a str, not dict: write json.dumps(…)'


def test_numbers_out_of_range_name_their_field() -> None:
    with pytest.raises(ValueError, match="quota_max: Value out of range"):
        TykSession(Object()).quota_max = 2**70


def test_tags_act_as_a_list() -> None:
    session = TykSession(Object())
    session.tags = ["b", "a"]
    session.tags[0] = "c"
    session.tags[1:] = ["d", "e"]
    session.tags += ["f"]
    session.tags.remove("d")
    assert session.tags == ["c", "e", "f"]
    assert session.tags == session.tags
    assert repr(session.tags) == "['c', 'e', 'f']"
    del session.tags[0]
    assert session.tags[::-1] == ["f", "e"]
