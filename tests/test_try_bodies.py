"""Encoded bodies through the gateway: what handlers make of them, what arrives, and what `try` says of it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from coprocess import Reply, Request, Response, respond
from coprocess.api.moments import HookType
from coprocess.desk.tyk.trial import Trial
from coprocess.gateways.tyk.compat import decorators
from coprocess.loading.hooks import HookTable
from coprocess.testing import Result
from coprocess.testing.gateway import SentRequest
from tests.objects import table_of
from tests.trial import found, try_handler

DATA = {"name": "Anna"}
ENCODED = gzip.compress(json.dumps(DATA).encode(), mtime=0)  # In names of tests: always the same.
HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip", "ETag": '"1"'}
UPSTREAM = respond(200, ENCODED, headers=HEADERS)
ACCEPTS = [("Accept-Encoding", "gzip")]


def embedded(function: Any) -> HookTable:
    function.__name__ = "hook"
    return table_of(lambda: decorators.Hook(function))


def try_response(function: Any, table: HookTable | None = None) -> Trial:
    return try_handler(function, HookType.Response, upstream=UPSTREAM, headers=ACCEPTS, table=table)


def rules(trial: Trial) -> list[str]:
    return [finding.rule for finding in trial.findings]


def test_a_gzipped_response_is_read_and_rewritten() -> None:
    def hook(response: Response) -> None:
        data = response.json()
        response.set_json({**data, "seen": response.text})

    trial = try_response(hook)
    result = Result(trial)
    assert result.json() == {**DATA, "seen": json.dumps(DATA)}
    assert result.body.startswith(b"{")
    assert "Content-Encoding" not in result.headers
    assert "ETag" not in result.headers
    assert rules(trial) == []


def test_a_gzipped_response_that_is_only_read_arrives_as_it_was() -> None:
    def hook(response: Response) -> None:
        assert response.json() == DATA

    result = Result(try_response(hook))
    assert result.body == ENCODED
    assert (result.json(), result.text) == (DATA, json.dumps(DATA))
    assert result.headers["ETag"] == '"1"'


def test_a_gzipped_request_is_read_and_rewritten() -> None:
    def hook(request: Request) -> None:
        request.set_json({**request.json(), "seen": True})

    trial = try_handler(hook, body=ENCODED, headers=[*HEADERS.items()])
    assert trial.exchange.upstream_request is not None
    sent = SentRequest(trial.exchange.upstream_request)
    assert sent.json() == {**DATA, "seen": True}
    assert "Content-Encoding" not in sent.headers
    assert rules(trial) == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", [], 400),
        (ENCODED[:-3], [("Content-Encoding", "gzip")], 400),
        (b"x", [("Content-Encoding", "lz4")], 415),
    ],
)
def test_what_the_client_broke_is_answered_without_an_event(
    body: bytes, headers: list[tuple[str, str]], status: int
) -> None:
    def hook(request: Request) -> None:
        request.json()

    trial = try_handler(hook, body=body, headers=headers)
    result = Result(trial)
    assert result.status == status
    assert result.ok
    assert result.upstream is None
    assert "the request's body" in result.json()["error"]
    assert result.headers["Content-Type"] == "application/json"
    assert result.events == []
    assert result.hooks["hook"].error is None


def test_what_the_upstream_broke_is_a_failure() -> None:
    def hook(response: Response) -> None:
        response.json()

    trial = try_handler(hook, HookType.Response, upstream=respond(200, "<html>"))
    assert trial.status == 500
    assert "the response's body is not JSON" in found(trial, "handler-failed").problem


# Raw messages


def test_a_raw_response_under_the_encoding_of_the_old_one() -> None:
    def hook(request: Any, response: Any, session: Any, metadata: Any, spec: Any) -> Any:
        response.raw_body = b'{"new": true}'
        return response

    trial = try_response(hook, embedded(hook))
    finding = found(trial, "body-not-encoded")
    assert finding.severity == "error"
    assert finding.problem == "It replaced the response's body and left Content-Encoding: gzip."
    assert finding.effect == "The new bytes are not gzip: the client cannot read them."
    assert 'Write response.headers.pop("Content-Encoding", "");' in finding.remedy
    kept = found(trial, "body-headers-kept")
    assert kept.problem == "It replaced the response's body and left Etag."


def test_what_the_finding_advises_mends_it() -> None:
    def hook(request: Any, response: Any, session: Any, metadata: Any, spec: Any) -> Any:
        response.raw_body = b'{"new": true}'
        response.headers.pop("Content-Encoding", "")
        response.headers.pop("Etag", "")
        return response

    trial = try_response(hook, embedded(hook))
    assert "body-not-encoded" not in rules(trial)
    assert "body-headers-kept" not in rules(trial)
    assert Result(trial).json() == {"new": True}


def test_a_raw_body_that_is_encoded_is_no_finding() -> None:
    def hook(response: Response) -> None:
        response.object.raw_body = gzip.compress(b"{}")  # type: ignore[attr-defined]  # Tyk's view has it
        response.headers["ETag"] = '"2"'

    assert rules(try_response(hook)) == []


def test_a_raw_request_under_the_encoding_of_the_old_one() -> None:
    def hook(request: Any, session: Any, spec: Any) -> Any:
        request.object.raw_body = b"{}"
        return request, session

    headers = [("Content-Encoding", "gzip"), ("Content-MD5", "x"), ("If-Match", "1")]
    trial = try_handler(hook, table=embedded(hook), body=ENCODED, headers=headers)
    finding = found(trial, "body-not-encoded")
    assert "the upstream cannot read them" in finding.effect
    assert 'request.delete_header("Content-Encoding")' in finding.remedy
    assert found(trial, "body-headers-kept").problem == "It replaced the request's body and left Content-Md5."


def test_looking_for_what_is_absent_is_no_edit() -> None:
    def hook(request: Any, session: Any, metadata: Any, spec: Any) -> Any:
        found = [request.object.headers["X-No"], request.object.params["no"], metadata["no"], spec["no"]]
        assert found == [""] * 4
        assert request.object.set_headers["X-No"] == session.metadata["no"] == ""
        return request, session, metadata

    [trial] = try_handler(hook, table=embedded(hook)).hooks
    assert (trial.changes, trial.ignored) == ({}, {})


# `Response(...)` as a reply


@pytest.mark.parametrize(
    ("reply", "status", "body", "content_type"),
    [
        (lambda: Response(status=401), 401, b"", None),
        (lambda: Response("no", 401), 401, b"no", None),
        (lambda: Response("no", status="403 FORBIDDEN"), 403, b"no", None),
        (lambda: Response(b"{}", mimetype="application/json"), 200, b"{}", "application/json"),
        (
            lambda: Response("<p>", 200, {"X-A": "1"}, mimetype="text/html"),
            200,
            b"<p>",
            "text/html; charset=utf-8",
        ),
        (lambda: Response(response="a", content_type="text/csv"), 200, b"a", "text/csv"),
        (lambda: Response(None, 204), 204, b"", None),
        (lambda: Response(json={"a": 1}, status=422), 422, b'{"a":1}', "application/json"),
        (lambda: Response(headers={"X-A": "1"}), 200, b"", None),
    ],
)
def test_a_response_that_is_made_is_a_reply(
    reply: Any, status: int, body: bytes, content_type: str | None
) -> None:
    made = reply()
    assert type(made) is Reply
    assert (made.status, made.body) == (status, body)
    assert made.headers.get("Content-Type") == content_type


@pytest.mark.parametrize("hook_type", [HookType.Pre, HookType.Response])
def test_a_response_that_is_returned_ends_the_request(hook_type: HookType) -> None:
    result = Result(try_handler(lambda: Response("stop", status=401), hook_type, name="hook"))
    assert (result.status, result.text) == (401, "stop")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Response({"a": 1}), "a body is bytes or str, not dict: write json=…"),
        (lambda: Response(401), "a body is bytes or str, not int"),
        (lambda: Response("x", nmae="y"), "nmae"),
        (lambda: Response("x", headers={"X": 7}), "header X: the value is a str, not int"),
    ],
)
def test_a_response_that_cannot_be_made(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()
