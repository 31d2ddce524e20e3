"""Reply trimming: what comes back is what the gateway reads for that hook, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from coprocess.api.moments import HookType
from coprocess.gateways.tyk.wire import (
    AccessDefinition,
    Header,
    MiniRequestObject,
    Object,
    ResponseObject,
    ReturnOverrides,
    SessionState,
)
from tests.objects import RecordedDispatch, answer, make_object, recorded_dispatches

LEAST_REQUEST = {
    "request.raw_body",
    "request.url",
    "request.method",
    "request.set_headers",
    "request.delete_headers",
    "request.add_params",
    "request.delete_params",
    "request.return_overrides",
}
LEAST_RESPONSE = {
    "response.status_code",
    "response.raw_body",
    "response.headers",
    "response.multivalue_headers",
}
LEAST = {
    HookType.Pre: LEAST_REQUEST,
    HookType.PostKeyAuth: LEAST_REQUEST,
    HookType.Post: LEAST_REQUEST,
    HookType.CustomKeyCheck: LEAST_REQUEST | {"session", "metadata"},
    HookType.Response: LEAST_RESPONSE,
}


def parts(message: Object) -> set[str]:
    """The fields that are there; of request and response, theirs."""
    found = set()
    for field, value in message.ListFields():
        if field.name in ("request", "response"):
            assert isinstance(value, Message)
            found |= {f"{field.name}.{inner.name}" for inner, _ in value.ListFields()}
        else:
            found.add(field.name)
    return found


def everything(hook_type: HookType) -> Object:
    """An Object in which every field that a gateway sends to such a hook is set, and the edits, too."""
    message = make_object(hook_type)
    message.request.CopyFrom(
        MiniRequestObject(
            headers={"Host": "h"},
            set_headers={"A": "1"},
            delete_headers=["B"],
            body="text",
            url="/a",
            params={"a": "1"},
            add_params={"b": "1"},
            delete_params=["c"],
            return_overrides=ReturnOverrides(response_code=-1),
            method="POST",
            request_uri="/a",
            scheme="http",
            raw_body=b"text",
        )
    )
    if hook_type not in (HookType.Pre, HookType.CustomKeyCheck):
        message.session.CopyFrom(SessionState(alias="a", access_rights={"a": AccessDefinition()}))
        message.metadata["token"] = "t"
    if hook_type is HookType.Response:
        message.response.CopyFrom(
            ResponseObject(
                status_code=200,
                raw_body=b"text",
                body="text",
                headers={"A": "1"},
                multivalue_headers=[Header(key="A", values=["1", "2"])],
            )
        )
    return message


@pytest.mark.parametrize("hook_type", LEAST)
def test_the_least_reply(hook_type: HookType) -> None:
    def handler(session: Any) -> None:
        if hook_type is HookType.CustomKeyCheck:
            session.allow("t")

    sent = everything(hook_type)
    reply = answer(handler, sent, full_reply=False)
    assert parts(reply) == LEAST[hook_type]
    if hook_type is HookType.Response:
        whole = sent.response
        assert (reply.response.status_code, reply.response.raw_body) == (200, b"text")
        assert reply.response.headers == whole.headers
        assert list(reply.response.multivalue_headers) == list(whole.multivalue_headers)
    else:
        for name in LEAST_REQUEST:
            field = name.removeprefix("request.")
            assert getattr(reply.request, field) == getattr(sent.request, field)


@pytest.mark.parametrize("hook_type", LEAST)
def test_a_full_reply_is_the_whole_object(hook_type: HookType) -> None:
    sent = everything(hook_type)
    assert answer(lambda: None, sent, full_reply=True) == sent


# What another hook's status of 0 left: no reply to it is one that the gateway takes.
UNANSWERABLE = "resp_status_zero-4"
ANSWERABLE = [recorded for recorded in recorded_dispatches() if str(recorded) != UNANSWERABLE]


@pytest.mark.parametrize("recorded", ANSWERABLE, ids=str)
def test_every_recorded_object_is_trimmed_to_the_least(recorded: RecordedDispatch) -> None:
    sent = Object.FromString(recorded.sent)
    reply = answer(lambda: None, sent, full_reply=False)
    hook_type = HookType(sent.hook_type)
    assert parts(reply) == parts(sent) & LEAST[hook_type]


def test_a_large_body_travels_once() -> None:
    body = "x" * 100_000
    sent = make_object()
    sent.request.raw_body, sent.request.body = body.encode(), body
    size = len(answer(lambda: None, sent, full_reply=False).SerializeToString())
    assert len(body) < size < len(body) + 200
