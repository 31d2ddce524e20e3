"""Whatever a handler returns, raises or leaves, the reply is one that the gateway takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess import Reject
from coprocess.desk.tyk.simulator.outcome import Answered, Failed
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.wire import MiniRequestObject, Object, ResponseObject
from coprocess.loading.hooks import HookTable
from tests.guard.edits import at_the_gateway, raw, raw_response
from tests.objects import answer, make_object, make_request

# What a handler returns.


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize("result", [1, "text", {}, object, b"", ("a",), Reject(401, "x"), Unspeakable()])
def test_nonsense_is_the_handlers_failure(result: Any) -> None:
    with pytest.raises(HandlerFailed, match=r'Pre hook "hook" returned'):
        answer(lambda: result)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError(), MemoryError(), Unspeakable()],
)
def test_whatever_a_handler_raises_is_its_failure(error: BaseException) -> None:
    def handler() -> None:
        raise error

    with pytest.raises(HandlerFailed) as failed:
        answer(handler)
    assert str(failed.value) == f'Pre hook "hook" raised {type(error).__name__}'
    assert failed.value.__cause__ is error


# Any raw edit whatever gives a reply that the gateway takes, or a failure that is told.


def outcome_of(action: Callable[[], object]) -> object:
    """What `action` gives, or what it raises."""
    try:
        return action()
    except (HandlerFailed, Answered, Failed) as error:
        return error


TEXT = st.text(st.characters(codec="utf-8"), max_size=6)


STRANGE_REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "url": st.one_of(TEXT, st.just("/a"), st.just("")),
        "method": st.sampled_from(["", "GET", "X"]),
        "body": TEXT,
        "raw_body": st.binary(max_size=6),
        "request_uri": TEXT,
        "set_headers": st.dictionaries(TEXT, TEXT, max_size=2),
        "delete_headers": st.lists(TEXT, max_size=2),
        "add_params": st.dictionaries(TEXT, TEXT, max_size=2),
        "return_overrides": st.fixed_dictionaries(
            {}, optional={"response_code": st.integers(-2, 1200), "response_body": TEXT}
        ),
    },
)


@settings(deadline=None)
@given(fields=STRANGE_REQUEST, full_reply=st.booleans())
def test_any_request_that_a_handler_leaves(fields: dict[str, Any], *, full_reply: bool) -> None:
    replacement = MiniRequestObject(**fields)
    sent = make_object(request=make_request(body=b"old"))
    reply = outcome_of(
        lambda: raw(lambda request: request.CopyFrom(replacement), sent, full_reply=full_reply)
    )
    if isinstance(reply, HandlerFailed):
        refusals = ("set the URL", "set response_code", "set a header that cannot be sent")
        assert any(refusal in str(reply) for refusal in refusals)
        return
    assert isinstance(reply, Object)
    result = outcome_of(lambda: at_the_gateway(reply))
    if isinstance(result, Answered):
        assert 100 <= result.status <= 999
    elif isinstance(result, Failed):
        assert 400 <= result.status <= 999
        assert result.message != "Middleware error"
    else:
        assert isinstance(result, GatewayRequest)
        expected = fields.get("raw_body") or fields.get("body", "").encode()
        assert result.body == expected or (not expected and result.body in (b"", b"old"))
    if full_reply:
        text, body = reply.request.body, reply.request.raw_body
        assert text.encode() == body or (text == "" and b"\xff" not in text.encode())


@settings(deadline=None)
@given(
    status=st.integers(-1, 1100),
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    many=st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=3)), max_size=3),
)
def test_any_response_that_a_handler_leaves(
    status: int, headers: dict[str, str], many: list[tuple[str, list[str]]]
) -> None:
    def edit(response: ResponseObject) -> None:
        response.Clear()
        response.status_code = status
        response.headers.update(headers)
        for key, values in many:
            response.multivalue_headers.add(key=key, values=values)

    reply = outcome_of(lambda: raw_response(edit))
    if isinstance(reply, HandlerFailed):
        assert f"set status_code to {status}" in str(reply) or "set a header that cannot" in str(reply)
        return
    assert isinstance(reply, Object)
    assert 100 <= reply.response.status_code <= 999
    first = {entry.key: entry.values[0] for entry in reply.response.multivalue_headers}
    assert dict(reply.response.headers) == first


@pytest.mark.parametrize(
    ("name", "value"), [("Bad\nName", "v"), ("a b", "v"), ("", "v"), ("X-A", "v\r\nInjected: 1")]
)
def test_headers_that_http_does_not_allow_are_refused(name: str, value: str) -> None:
    def on_request(request: MiniRequestObject) -> None:
        request.set_headers[name] = value

    def on_override(request: MiniRequestObject) -> None:
        request.return_overrides.response_code = 401
        request.return_overrides.headers[name] = value

    def on_response(response: ResponseObject) -> None:
        response.headers[name] = value

    for outcome in (
        outcome_of(lambda: raw(on_request)),
        outcome_of(lambda: raw(on_override)),
        outcome_of(lambda: raw_response(on_response)),
    ):
        assert isinstance(outcome, HandlerFailed)
        assert "set a header that cannot be sent" in str(outcome)


def test_an_empty_table_has_no_handler() -> None:
    assert len(HookTable()) == 0
