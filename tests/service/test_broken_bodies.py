"""What a client broke, over a real connection: it is the client's error, and no failure of the handler."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from coprocess.api.moments import HookType
from coprocess.transport.engines import EngineChoice
from tests.objects import hook_table, make_object, make_request
from tests.server import fails, serving, until
from tests.service.hooks import counts


def read(request: Any) -> None:
    request.headers["X-Name"] = request.json()["name"]


async def read_async(request: Any) -> None:
    request.headers["X-Name"] = request.json()["name"]


@pytest.mark.parametrize("handler", [read, read_async])
def test_what_the_client_broke_is_answered_with_400(engine: EngineChoice, handler: Any) -> None:
    good = gzip.compress(b'{"name": "Anna"}')
    with serving(hook_table(HookType.Pre, handler, name="hook"), engine=engine) as server:

        def send(body: bytes) -> Any:
            came = make_request(body=body, headers={"Content-Encoding": "gzip"})
            return server.client.dispatch(make_object(request=came)).request

        assert send(good).set_headers["X-Name"] == "Anna"
        for broken in (good[:-3], b"plain", gzip.compress(b"{")):
            overrides = send(broken).return_overrides
            assert (overrides.response_code, overrides.override_error) == (400, True)
            assert json.loads(overrides.response_body)["error"].startswith("the request's body is not ")
        until(lambda: counts(server, "hook")["ran"] == 4)  # It is counted after the answer.
        assert counts(server, "hook")["failed"] == 0


def test_a_bomb_is_answered_with_413(engine: EngineChoice) -> None:
    with serving(hook_table(HookType.Pre, read, name="hook"), engine=engine) as server:
        bomb = make_request(body=gzip.compress(bytes(20 * 2**20)), headers={"Content-Encoding": "gzip"})
        overrides = server.client.dispatch(make_object(request=bomb)).request.return_overrides
        assert overrides.response_code == 413


def test_what_the_upstream_broke_is_counted_as_a_failure(engine: EngineChoice) -> None:
    def read_response(response: Any) -> None:
        response.json()

    with serving(hook_table(HookType.Response, read_response, name="hook"), engine=engine) as server:
        sent = make_object(HookType.Response)
        sent.response.raw_body = b"<html>"
        fails(lambda: server.client.dispatch(sent))
        until(lambda: counts(server, "hook")["failed"] == 1)
