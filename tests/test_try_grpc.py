"""`coprocess try` over gRPC: the replies of a server that is not ours, and of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coprocess import Reject, Session
from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator import ApiDefinition
from coprocess.desk.tyk.trial import (
    GrpcDispatcher,
    InProcessDispatcher,
    ObservedGateway,
    Trial,
    as_upstream,
)
from coprocess.gateways.tyk.wire import Object
from tests.objects import hook_table
from tests.server import serving
from tests.trial import Handler, document, foreign_server, found

# A server that is not ours, over gRPC


def try_foreign(edit: Callable[[Object], None], hook_type: HookType = HookType.Pre) -> Trial:
    def reply(message: Object) -> bytes:
        edit(message)
        return message.SerializeToString()

    with foreign_server(reply) as address, GrpcDispatcher(address) as dispatcher:
        definition = ApiDefinition.parse(document(hook_type))
        return ObservedGateway(definition, dispatcher, as_upstream(None)).request(
            "POST", "/api/a?q=1", [("X-A", "1")], b"body"
        )


def test_foreign_body_only() -> None:
    def edit(message: Object) -> None:
        message.request.body = "new"

    finding = found(try_foreign(edit), "edit-ignored")
    assert "request.body = new" in finding.problem
    assert "raw_body" in finding.remedy


@pytest.mark.parametrize("field", ["request", "return_overrides"])
def test_foreign_reply_without_request(field: str) -> None:
    def edit(message: Object) -> None:
        if field == "request":
            message.ClearField("request")
        else:
            message.request.ClearField("return_overrides")

    trial = try_foreign(edit)
    finding = found(trial, "connection-dropped")
    assert f"no {field}" in finding.problem
    assert "without any answer" in finding.effect
    assert trial.status is None
    assert not trial.ok


def test_foreign_status_zero() -> None:
    def edit(message: Object) -> None:
        message.response.status_code = 0

    trial = try_foreign(edit, HookType.Response)
    assert "Status 0" in found(trial, "connection-dropped").problem


def test_foreign_url() -> None:
    def edit(message: Object) -> None:
        message.request.url = "a/b"

    assert try_foreign(edit).status == 500
    assert "slash" in found(try_foreign(edit), "url").problem


def test_foreign_header_that_cannot_be_sent() -> None:
    def edit(message: Object) -> None:
        message.request.set_headers["X Y"] = "1"

    assert found(try_foreign(edit), "unsendable").hook is not None


def test_foreign_reply_without_response() -> None:
    trial = try_foreign(lambda message: message.ClearField("response"), HookType.Response)
    assert found(trial, "no-response").hook is not None
    assert trial.status == 500


def test_foreign_headers_in_one_form() -> None:
    def edit(message: Object) -> None:
        message.response.multivalue_headers.add(key="X-Many", values=["1"])
        message.response.headers["X-One"] = "1"

    finding = found(try_foreign(edit, HookType.Response), "response-headers-lost")
    assert "X-Many" in finding.problem


def test_foreign_token_without_session() -> None:
    def edit(message: Object) -> None:
        message.metadata["token"] = "caller"

    trial = try_foreign(edit, HookType.CustomKeyCheck)
    assert "session absent" in found(trial, "no-session").problem


def test_server_that_does_not_run() -> None:
    with GrpcDispatcher("127.0.0.1:1", timeout_s=5) as dispatcher:
        definition = ApiDefinition.parse(document())
        trial = ObservedGateway(definition, dispatcher, as_upstream(None)).request("GET", "/api/")
    assert "coprocess serve" in found(trial, "server-unavailable").remedy


# Our own service, over gRPC: in process it must be the same


def edit_everything(request: Any) -> None:
    request.headers["X-New"] = "2"
    del request.headers["X-A"]
    request.query["a"] = "b"
    request.path = "/api/elsewhere"
    request.body = "changed"


def edit_response(response: Any) -> None:
    response.status = 404
    response.headers["X-New"] = "1"
    response.body = ""


def limited(session: Session) -> None:
    session.allow("caller", rate=5)


def refuse() -> None:
    raise Reject(402, "pay")


def raising() -> None:
    raise KeyError("missing")


def nonsense() -> int:
    return 42


@pytest.mark.parametrize(
    ("hook_type", "handler", "name"),
    [
        (HookType.Pre, edit_everything, "hook"),
        (HookType.Response, edit_response, "hook"),
        (HookType.CustomKeyCheck, limited, "hook"),
        (HookType.Pre, refuse, "hook"),
        (HookType.Pre, raising, "hook"),
        (HookType.Pre, nonsense, "hook"),
        (HookType.Pre, nonsense, "missing"),
    ],
)
def test_served_and_in_process_are_the_same(hook_type: HookType, handler: Handler, name: str) -> None:
    table = hook_table(hook_type, handler)
    definition = ApiDefinition.parse(document(hook_type, name))
    with serving(table, engine="grpcio") as server:
        dispatchers: list[Any] = [InProcessDispatcher(table), GrpcDispatcher(server.address)]
        trials = []
        for dispatcher in dispatchers:
            with dispatcher:
                gateway = ObservedGateway(definition, dispatcher, as_upstream(None))
                trials.append(gateway.request("POST", "/api/a?q=1", [("X-A", "1")], b"body"))
    here, there = trials
    assert there.hooks[0].changes == here.hooks[0].changes
    assert there.hooks[0].ignored == here.hooks[0].ignored == {}
    assert (there.hooks[0].status, there.hooks[0].error) == (here.hooks[0].status, here.hooks[0].error)
    assert there.exchange.upstream_request == here.exchange.upstream_request
    assert (there.status, there.ok) == (here.status, here.ok)
    assert [finding.rule for finding in there.findings] == [finding.rule for finding in here.findings]
