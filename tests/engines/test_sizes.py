"""Messages, replies and metadata up to their limits and beyond, on both engines."""

from __future__ import annotations

import grpc
import pytest

from coprocess.gateways.tyk.wire import Object
from tests.engines.hooks import LIMIT, stamped
from tests.objects import make_object
from tests.server import (
    PATIENCE_S,
    Server,
    fails,
)


def test_a_message_that_is_too_large(server: Server) -> None:
    message = make_object(hook_name="stamp")
    message.request.raw_body = b"x" * (LIMIT + 1)
    code, _ = fails(lambda: server.client.dispatch(message))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stamped(server.client) == "7"
    # grpcio tells nobody.
    assert server.engine.refused_calls == (server.engine.name != "grpcio")


@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT])
def test_a_reply_that_is_too_large(server: Server, size: int) -> None:
    message = make_object(hook_name="grow")
    message.request.headers["X-Size"] = str(size)
    code, text = fails(lambda: server.client.dispatch(message))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text.startswith("the reply is larger than the limit: ")
    assert stamped(server.client) == "7"


def test_messages_just_below_the_limit(server: Server) -> None:
    message = make_object(hook_name="grow")
    message.request.headers["X-Size"] = str(LIMIT - 1000)
    message.request.raw_body = b"x" * (LIMIT - 1000)
    reply = server.client.dispatch(message)
    assert len(reply.request.raw_body) == LIMIT - 1000


@pytest.mark.parametrize("size", [1000, LIMIT - 1000])
def test_a_compressed_message(server: Server, size: int) -> None:
    message = make_object(hook_name="stamp")
    message.request.raw_body = b"x" * size
    reply = server.client.raw(
        message.SerializeToString(), timeout=PATIENCE_S, compression=grpc.Compression.Gzip
    )
    assert Object.FromString(reply).request.raw_body == message.request.raw_body


def test_a_compressed_message_that_unpacks_to_more_than_the_limit(server: Server) -> None:
    zeros = bytes(2 * LIMIT)
    code, _ = fails(lambda: server.client.raw(zeros, timeout=PATIENCE_S, compression=grpc.Compression.Gzip))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stamped(server.client) == "7"


@pytest.mark.parametrize("size", [30_000, 200_000])
def test_metadata_beyond_the_limit_ends_the_call(server: Server, size: int) -> None:
    payload = make_object(hook_name="stamp").SerializeToString()
    code, _ = fails(
        lambda: server.client.raw(payload, timeout=PATIENCE_S, metadata=(("x-large", "x" * size),))
    )
    # An engine may refuse as HTTP does, and close the connection where it is much too large.
    refusals = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
    assert code in refusals
    assert stamped(server.client) == "7"
