"""What Kong is asked for: part by part, and what of it a copy has; and what is left where Kong fails."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import kept
from coprocess.gateways.kong.asked import AskedRequest, AskedResponse
from coprocess.gateways.kong.native import native_class

GIVES = {
    "get_headers": {"a": ["b", "c"]},
    "get_method": "GET",
    "get_path_with_query": "/x?y=1",
    "get_scheme": "https",
    "get_status": 200,
    "get_raw_body": b"body",
}


class Gone(BaseException):
    """As the end of an event: no Exception."""


class Kong:
    """A PDK in one object. It gives what it is asked for, and fails at the call numbered `fails_at`."""

    def __init__(self, fails_at: int = -1) -> None:
        self.asked: list[str] = []
        self.fails_at = fails_at
        self.kept: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return Part(self, name)


class Part:
    def __init__(self, kong: Kong, name: str) -> None:
        self.kong, self.name = kong, name

    def __getattr__(self, name: str) -> Part:
        return Part(self.kong, f"{self.name}.{name}")

    def __call__(self, *arguments: Any) -> Any:
        if len(self.kong.asked) == self.kong.fails_at:
            raise Gone(self.name)
        self.kong.asked.append(self.name)
        if self.name == "ctx.shared.set":
            self.kong.kept[arguments[0]] = arguments[1]
        if self.name == "ctx.shared.get":
            return self.kong.kept.get(arguments[0])
        return GIVES.get(self.name.rpartition(".")[2])


def test_a_copy_of_a_request_has_what_was_asked_for_and_asks_later_for_the_rest() -> None:
    access, response = Kong(), Kong()
    request = AskedRequest(access)
    assert request.copy().headers is not request.headers
    assert access.asked == []
    assert (request.headers.getall("A"), request.method) == (["b", "c"], "GET")
    del access.asked[:]
    twin = request.copy()
    request.headers["A"] = "edited"
    request.headers.add("B", "added")
    request.method = "PUT"
    request.path = "/edited"
    del access.asked[:]
    assert (twin.headers.getall("A"), "B" in twin.headers, twin.method) == (["b", "c"], False, "GET")
    assert not twin.has_new_method
    assert access.asked == []
    twin.go_on(response)
    assert (twin.url, twin.scheme, twin.target, twin.raw_body) == ("/x?y=1", "https", "/x?y=1", b"body")
    assert access.asked == []
    assert response.asked == ["request.get_path_with_query", "request.get_scheme", "request.get_raw_body"]


def test_a_copy_has_the_edits_that_were_there() -> None:
    request = AskedRequest(Kong())
    request.headers["Set"] = "1"
    twin = request.copy()
    twin.headers["Set"] = "2"
    assert request.headers["Set"] == "1"
    request.headers.add("Set", "3")
    request.method, request.path, request.body = "PUT", "/edited", b"new"
    request.query["q"] = "a b"
    twin = request.copy()
    request.headers["Set"], request.method, request.path, request.body = "no", "POST", "/no", b"no"
    request.query["q"] = "no"
    assert twin.headers.getall("Set") == ["1", "3"]
    assert "Set" in twin.headers.edited
    assert (twin.method, twin.has_new_method) == ("PUT", True)
    assert (twin.path, twin.has_new_path, twin.target) == ("/edited", True, "/x?y=1")
    assert (twin.query_string, twin.has_new_query) == ("q=a+b&y=1", True)
    assert (twin.raw_body, twin.has_new_body) == (b"new", True)


def test_a_copy_of_a_response_asks_later_too() -> None:
    kong = Kong()
    response = AskedResponse(kong)
    response.headers["Set"] = "1"
    twin = response.copy()
    assert kong.asked == []
    response.status = 404
    response.headers["Set"] = "2"
    assert (twin.status, twin.has_new_status, twin.headers["Set"]) == (200, False, "1")
    assert (response.copy().status, response.copy().has_new_status) == (404, True)
    twin.status = 200
    assert not twin.has_new_status


@pytest.mark.parametrize("made", [AskedRequest, AskedResponse])
def test_a_misspelt_attribute_is_not_taken(made: Any) -> None:
    for message in (made(Kong()), made(Kong()).copy()):
        with pytest.raises(AttributeError):
            message.boddy = b"x"
        with pytest.raises(AttributeError):
            message.headers.boddy = b"x"


HANDLERS = """
from coprocess import App, CustomKeyCheck, Pre, Response

app = App()
events = []

@app.resource(scope="call")
def opened():
    events.append("opened")
    try:
        yield 1
    except BaseException as error:
        events.append(type(error).__name__)
        raise
    finally:
        events.append("closed")

@CustomKeyCheck
def check(session):
    session.allow("me")

@Pre(on_error="open")
def edits(request, opened):
    request.headers["X-Path"] = request.path

@Pre(body=True, order=2)
async def reads(request):
    request.body = request.raw_body + b"!"

@Response
async def after(request, response, opened):
    response.headers["X-Was"] = f"{request.scheme} {response.status}"
    response.body = response.raw_body + b"!"
"""


def test_a_request_ends_once_wherever_kong_fails(tmp_path: Path) -> None:
    """Once, a request in which Kong failed outside a handler never ended: what its App had open stayed so."""
    (tmp_path / "h.py").write_text(textwrap.dedent(HANDLERS))
    made = native_class([tmp_path], "x")
    try:
        plugin: Any = made({})
        hook = next(iter(made.adapter.gateway.table))
        events = hook.handler.__globals__["events"]
        failed_at: list[str | None] = [""]
        fails_at = left = 0
        while failed_at[-1] is not None:
            kong = Kong(fails_at)
            try:
                plugin._access(kong)
                plugin._response(kong)
                failed_at.append(None)
            except Gone as gone:
                failed_at.append(str(gone))
                # Nobody can tell which request this was: its time ends it.
                left += str(gone) == "ctx.shared.get"
            fails_at += 1
            assert len(plugin._adapter.chain.requests) == len(kept.requests) == left
            assert events.count("opened") - events.count("closed") == left
        assert {"request.get_raw_body", "client.authenticate", "response.exit"} < set(failed_at)
        assert "Gone" in events
    finally:
        made.adapter.close()
