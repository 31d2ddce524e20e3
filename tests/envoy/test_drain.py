"""What streams see of a service that stops: GOAWAY at once, and the time to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from coprocess.gateways.envoy import wire
from tests.chaos.raw_streams import RawStreams
from tests.envoy.call import Call
from tests.envoy.drive import GET, OK, edits, header_map
from tests.serve_process import ServeProcess, write
from tests.server import fails

HANDLERS = """
from coprocess import Pre, Response
@Pre
def hook(request): request.headers["X-Version"] = "1"
@Response
def after(response): response.headers["X-Version"] = "1"
"""
CHAIN = {"pre": "hook", "response": "after"}
REQUEST = wire.ProcessingRequest(
    request_headers=wire.HttpHeaders(headers=header_map(GET), end_of_stream=True)
)
RESPONSE = wire.ProcessingRequest(response_headers=wire.HttpHeaders(headers=header_map(OK)))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServeProcess]:
    with ServeProcess(write(tmp_path / "handlers", one=HANDLERS), "--envoy") as service:
        yield service


def test_a_stop_tells_clients_at_once_and_lets_streams_end(served: ServeProcess) -> None:
    with RawStreams(served.address) as raw:
        opened = raw.open(CHAIN, REQUEST, 3)
        raw.read_replies(opened)
        served.process.send_signal(signal.SIGTERM)
        raw.read_goaways(2)
        assert raw.goaways == [2**31 - 1, opened[-1]]
        with pytest.raises(ConnectionRefusedError):
            RawStreams(served.address)
        raw.send(opened, RESPONSE)
        raw.read_replies(opened, 2)
        raw.half_close(opened)
        raw.read_ends(opened)
        assert set(raw.ends.values()) == {0}
    assert served.wait() == 0


def test_a_stream_that_is_on_its_way_at_a_stop_is_answered_or_was_never_taken(served: ServeProcess) -> None:
    with RawStreams(served.address) as raw:
        before = raw.open(CHAIN, REQUEST)
        raw.read_replies(before)
        raw.holds_pings = True
        served.process.send_signal(signal.SIGTERM)
        raw.read_goaways(1)
        late = raw.open(CHAIN, REQUEST)
        raw.answer_pings()
        raw.read_goaways(2)
        taken = [*before, *(each for each in late if each <= raw.goaways[-1])]
        raw.send(taken, RESPONSE)
        raw.read_replies(taken, 2)
        raw.half_close(taken)
        raw.read_ends(taken)
        assert [raw.ends[each] for each in taken] == [0] * len(taken)
        assert set(raw.replies) == set(taken)
    assert served.wait() == 0


def test_a_grpc_client_ends_its_stream_and_finds_nobody_for_the_next(served: ServeProcess) -> None:
    with served.client() as client:
        call = Call(client.channel, **CHAIN)
        call.request()
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("stopping")
        assert edits(call.response().response_headers.response) == [("x-version", b"1", False)]
        assert call.end() == []
        assert served.wait() == 0
        assert fails(Call(client.channel, **CHAIN).request)[0] is grpc.StatusCode.UNAVAILABLE
