"""Calls with many messages each way, on the engines that serve them, with a real client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from coprocess.errors import Status
from coprocess.transport.engine import BidiHandler, BidiRpc, Methods, NotingHandler
from coprocess.transport.engines import EngineChoice
from coprocess.transport.http2 import frames
from tests.engines.hooks import bare, methods, tcp_connection
from tests.http2.peer import STREAM_CALL, headers
from tests.server import PATIENCE_S, Client, status_of, until

PATH = "/test.Echo/Bidi"


_engine: EngineChoice = "http2"


@pytest.fixture(autouse=True, params=["http2", "grpcio"])
def engine(request: pytest.FixtureRequest) -> EngineChoice:
    """The engine that `served` runs."""
    global _engine
    _engine = request.param
    return _engine


@contextmanager
def served(handler: BidiHandler, **options: Any) -> Iterator[tuple[Client, Any]]:
    """A client, and the method as one with many messages each way."""
    table = methods(lambda rpc: rpc.respond(b"")) | Methods(bidi={PATH: handler})
    with bare(_engine, table, **options) as (client, _):
        yield client, client.channel.stream_stream(PATH)


def echo(rpc: BidiRpc) -> None:
    rpc.on_message = lambda message: None if rpc.send(b"<" + message + b">") else rpc.end(Status.INTERNAL)


def test_messages_are_answered_as_they_come() -> None:
    gate = threading.Semaphore(0)

    def ask() -> Iterator[bytes]:
        for number in range(3):
            gate.acquire(timeout=PATIENCE_S)
            yield b"%d" % number

    with served(echo) as (_, method):
        replies = method(ask(), timeout=PATIENCE_S)
        for number in range(3):
            gate.release()
            assert next(replies) == b"<%d>" % number
        assert list(replies) == []
        assert replies.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("size", [0, 1, 100_000, 1_000_000])
def test_many_messages_of_any_size(size: int) -> None:
    with served(echo) as (_, method):
        sent = [bytes([number % 256]) * size for number in range(20)]
        assert [len(reply) for reply in method(iter(sent), timeout=PATIENCE_S)] == [size + 2] * 20


def test_many_messages_become_one_and_one_becomes_many() -> None:
    def gather(rpc: BidiRpc) -> None:
        got: list[bytes] = []
        rpc.on_message = got.append

        def all_came() -> None:
            for message in reversed(got):
                rpc.send(message)
            rpc.end()

        rpc.on_half_close = all_came

    with served(gather) as (client, _):
        many_to_one: Any = client.channel.stream_unary(PATH)
        one_to_many: Any = client.channel.unary_stream(PATH)
        assert many_to_one(iter([b"only"]), timeout=PATIENCE_S) == b"only"
        assert list(one_to_many(b"only", timeout=PATIENCE_S)) == [b"only"]


def test_an_end_with_a_status_and_details_from_another_thread() -> None:
    def end(rpc: BidiRpc) -> None:
        def later() -> None:
            rpc.send(b"one")
            rpc.end(Status.NOT_FOUND, "it is gone: é", b"\x08\x05")
            rpc.end(Status.INTERNAL, "second")
            assert not rpc.send(b"late")

        rpc.on_half_close = lambda: None
        threading.Thread(target=later).start()

    with served(end) as (_, method):
        replies = method(iter([]), timeout=PATIENCE_S)
        assert next(replies) == b"one"
        with pytest.raises(grpc.RpcError) as error:
            next(replies)
        assert status_of(error.value) == (grpc.StatusCode.NOT_FOUND, "it is gone: é")
        assert dict(replies.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x05"


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
def test_a_client_that_gives_up(how: str) -> None:
    told, begun = threading.Event(), threading.Event()
    kept: list[BidiRpc] = []

    def wait(rpc: BidiRpc) -> None:
        kept.append(rpc)
        rpc.on_half_close = lambda: None
        rpc.on_cancel(told.set)
        begun.set()

    with served(wait) as (client, method):
        for timeout_s in (2.0, PATIENCE_S / 2) if how == "deadline" else (PATIENCE_S,):
            call = method(iter([b"x"]), timeout=timeout_s)
            until(lambda call=call: begun.is_set() or call.done())  # type: ignore[misc]  # a default is no parameter
            if begun.is_set():  # Else the machine stood still for as long.
                break
        if how == "cancel":
            call.cancel()
        elif how == "disconnect":
            client.close()
        assert told.wait(PATIENCE_S)
        until(lambda: not kept[0].send(b"late"))


def test_metadata_and_deadline() -> None:
    seen: list[Any] = []

    def look(rpc: BidiRpc) -> None:
        seen.append((rpc.method, dict(rpc.metadata())["x-bin"], rpc.time_allowed_s()))

    with served(look) as (_, method):
        assert list(method(iter([]), timeout=100, metadata=(("x-bin", b"\xff"),))) == []
    ((path, value, allowed_s),) = seen
    assert (path, value) == (PATH, b"\xff")
    assert 0 < allowed_s < 110


def test_metadata_that_is_sent_back(engine: EngineChoice) -> None:
    if engine == "grpcio":
        pytest.skip("grpcio looks at metadata when it sends it")

    def begin(rpc: BidiRpc) -> None:
        rpc.begin([("first", "1"), ("first-bin", b"\x00\xff")])
        for wrong in (("Upper", "x"), ("text-bin", "x"), ("bytes", b"x"), ("line", "a\nb"), ("é", "x")):
            with pytest.raises(ValueError, match="metadata"):
                rpc.begin([wrong])
            with pytest.raises(ValueError, match="metadata"):
                rpc.end(metadata=[wrong])
        rpc.send(b"x")
        rpc.end(metadata=[("last", "2"), ("last-bin", b"")])

    with served(begin) as (_, method):
        call = method(iter([]), timeout=PATIENCE_S)
        first = dict(call.initial_metadata())
        assert (first["first"], first["first-bin"]) == ("1", b"\x00\xff")
        assert list(call) == [b"x"]
        assert dict(call.trailing_metadata()) == {"last": "2", "last-bin": b""}


@pytest.mark.parametrize("kind", [lambda handler: handler, NotingHandler])
def test_a_callback_that_raises_ends_its_own_call_only(
    kind: Callable[[BidiHandler], BidiHandler], capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(rpc: BidiRpc) -> None:
        def fail(message: bytes) -> None:
            raise ValueError("secret detail")

        rpc.on_message = fail

    with served(kind(broken)) as (client, method):
        with pytest.raises(grpc.RpcError) as error:
            list(method(iter([b"x"]), timeout=PATIENCE_S))
        assert status_of(error.value) == (grpc.StatusCode.INTERNAL, "internal error")
        assert client.raw(b"", timeout=PATIENCE_S) == b""
    assert "secret detail" in "".join(capfd.readouterr())


@pytest.mark.parametrize("kind", [lambda handler: handler, NotingHandler])
def test_a_handler_that_raises_ends_its_own_call_only(
    kind: Callable[[BidiHandler], BidiHandler], capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(rpc: BidiRpc) -> None:
        raise ValueError("secret detail")

    with served(kind(broken)) as (client, method):
        with pytest.raises(grpc.RpcError) as error:
            list(method(iter([b"x"]), timeout=PATIENCE_S))
        assert status_of(error.value) == (grpc.StatusCode.INTERNAL, "internal error")
        assert client.raw(b"", timeout=PATIENCE_S) == b""
    assert "secret detail" in "".join(capfd.readouterr())


def test_a_client_that_does_not_read_is_told_no_more() -> None:
    refused = threading.Event()

    def pour(rpc: BidiRpc) -> None:
        def send_until_refused() -> None:
            while rpc.send(bytes(100_000)):
                pass
            refused.set()

        threading.Thread(target=send_until_refused).start()

    with served(pour) as (client, method):
        call = method(iter([b"x"]), timeout=PATIENCE_S)
        assert refused.wait(PATIENCE_S)
        assert client.raw(b"", timeout=PATIENCE_S) == b""
        call.cancel()


def test_a_last_reply_that_is_too_large_ends_the_call_badly() -> None:
    def answer(rpc: BidiRpc) -> None:
        rpc.on_message = lambda message: None if rpc.finish(bytes(1001)) else refused.set()

    refused = threading.Event()
    with served(answer, max_message_bytes=1000) as (_, method):
        call = method(iter([b"x"]), timeout=PATIENCE_S)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.wait(PATIENCE_S)


def test_a_last_reply_to_a_client_that_does_not_read_is_refused_and_ends_nothing(
    engine: EngineChoice,
) -> None:
    if engine == "grpcio":
        pytest.skip("it reads for its client")
    outcome: list[bool] = []
    done = threading.Event()

    def pour(rpc: BidiRpc) -> None:
        def send_until_refused() -> None:
            while rpc.send(bytes(100_000)):
                pass
            outcome.extend((rpc.finish(b"last"), rpc.send(b"more")))
            done.set()

        threading.Thread(target=send_until_refused).start()

    with served(pour) as (client, _), tcp_connection(client.address) as connection:
        no_window = frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0})
        connection.sendall(frames.PREFACE + no_window + headers(1, STREAM_CALL))
        assert done.wait(PATIENCE_S)
    assert outcome == [False, False]


def test_streams_keep_no_thread(engine: EngineChoice) -> None:
    if engine == "grpcio":
        pytest.skip("grpcio has a thread for each")
    rpcs: list[BidiRpc] = []

    def keep(rpc: BidiRpc) -> None:
        rpcs.append(rpc)
        rpc.on_half_close = lambda: None

    with served(keep, min_threads=1, max_threads=2) as (client, method):
        calls = [method(iter([b"x"]), timeout=PATIENCE_S) for _ in range(30)]
        until(lambda: len(rpcs) == 30)
        assert client.raw(b"", timeout=PATIENCE_S) == b""
        for rpc in rpcs:
            assert rpc.send(b"done")
            rpc.end()
        assert [list(call) for call in calls] == [[b"done"]] * 30
