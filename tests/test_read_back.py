"""The one list of what the gateway reads: the doctor, the trials and the reply guard go by it."""

from __future__ import annotations

import pytest

from coprocess.api.moments import HookType
from coprocess.desk.tyk.doctor import edits
from coprocess.desk.tyk.read_back import UNREAD_IN_REQUEST, is_read
from coprocess.gateways.tyk import guard
from coprocess.gateways.tyk.wire import Object
from tests.objects import make_object

MOMENTS = [HookType.Pre, HookType.CustomKeyCheck, HookType.PostKeyAuth, HookType.Post, HookType.Response]


def fields(message: Object) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for part, value in message.ListFields():
        if part.name in ("request", "response"):
            found |= {(part.name, field.name) for field, _ in value.ListFields()}
        else:
            found.add((part.name,))
    return found


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_guard_sends_back_what_is_read(moment: HookType) -> None:
    message = make_object(moment)
    message.request.headers["A"] = message.request.params["a"] = message.request.body = "text"
    message.request.raw_body = b"text"
    message.request.set_headers["A"] = "1"
    message.session.alias, message.metadata["token"] = "alias", "token"
    message.response.status_code, message.response.body, message.response.raw_body = 200, "b", b"b"
    message.response.headers["A"] = "1"
    before = fields(message)
    guard.trim(message, moment)
    # Of what is not there at that moment, it takes no care: a session before, a response without one.
    left_alone = {path for path in before if path[0] in ("response", "session", "metadata")}
    assert {path for path in before if is_read(path, moment)} <= fields(message)
    assert {path for path in fields(message) - left_alone if not is_read(path, moment)} == set()


def test_the_doctor_has_advice_for_every_field_that_is_not_read() -> None:
    assert {*edits._INSTEAD, "body"} == UNREAD_IN_REQUEST
    assert {*edits._NATIVE_INSTEAD, "body"} == UNREAD_IN_REQUEST
