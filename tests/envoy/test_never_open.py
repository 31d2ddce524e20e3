"""What a client, an upstream, or the operator's own moves could make pass, or shut, and must not."""

from __future__ import annotations

from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, Pre
from coprocess.gateways.envoy import gateway as gateway_module
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.runtime.registration import GatewayOptions
from tests.envoy.drive import GET, POST, Stream, header_map
from tests.envoy.served_stream import ServedStream
from tests.envoy.world import table_of

Message = wire.ProcessingRequest


# Reloads.


@pytest.mark.parametrize("is_check", [False, True])
def test_a_chain_that_was_looked_up_during_a_reload_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, *, is_check: bool
) -> None:
    """Handlers of before would have run for that route until the next reload."""

    @CustomKeyCheck(name="check")
    def before(session: Any) -> None:
        session.allow("anybody")

    @CustomKeyCheck(name="check")
    def after() -> None: ...

    gateway = EnvoyGateway(table_of(before), GatewayOptions())
    new = table_of(after)
    chain_of = gateway_module.chain_of

    def reloaded_meanwhile(*given: Any) -> Any:
        found = chain_of(*given)
        gateway.table = new
        return found

    def looked_up() -> Any:
        return gateway._chain_of_check(b"", []) if is_check else gateway.chain({}, "")

    monkeypatch.setattr(gateway_module, "chain_of", reloaded_meanwhile)
    looked_up()
    monkeypatch.undo()
    assert looked_up().table is new


def test_a_reload_keeps_what_waits_for_a_body() -> None:
    """What the handlers' app had opened was closed, and they failed once the body was there."""
    seen: list[bytes] = []

    @Post
    def reads(request: Any) -> None:
        seen.append(request.raw_body)

    gateway = EnvoyGateway(table_of(reads), GatewayOptions())
    (hook,) = gateway.table
    served = ServedStream(gateway)
    served.send(Message(request_headers=wire.HttpHeaders(headers=header_map(POST))).SerializeToString())
    served.service.use(table_of())
    assert served.service.has_calls(hook)
    served.send(
        Message(request_body=wire.HttpBody(body=b"12345", end_of_stream=True)).SerializeToString()
    )
    assert seen == [b"12345"]
    assert served.is_done
    assert not served.service.has_calls(hook)
