"""Calls that were taken when the service is told to stop, as GOAWAY tells their client: all are answered."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from coprocess.gateways.tyk.wire import DISPATCH
from coprocess.transport.http2 import frames
from tests.engines.hooks import tcp_connection
from tests.engines.test_http2_connections import read_frames
from tests.http2.peer import CALL, START, Fields, call, data, headers, message
from tests.objects import make_object
from tests.serve_process import ServeProcess, write
from tests.server import PATIENCE_S

HANDLERS = """
import time
from coprocess import Pre

@Pre
def quick(request):
    request.headers["X-Done"] = "yes"

@Pre
def slow(request):
    time.sleep(0.3)
    request.headers["X-Done"] = "yes"
"""
METHOD_CALL: Fields = [*CALL[:2], (b":path", DISPATCH.encode()), *CALL[3:]]
PING = frames.frame(frames.PING, 0, 0, bytes(8))
FLAGS = {"one process": (), "workers": ("--workers=2",)}


def last(stream_id: int) -> bytes:
    """Of the GOAWAY that says which stream was the last."""
    return frames.goaway(stream_id, 0)[frames.FRAME_HEADER_BYTES :]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_a_call_whose_message_is_still_coming(tmp_path: Path, flags: Sequence[str]) -> None:
    """Once, it was refused: GOAWAY had told that it was taken."""
    handlers = write(tmp_path, hook=HANDLERS)
    # The rest must come within a second: where the machine stood still, it did not.
    assert any(_is_answered_in_time(handlers, flags) for _ in range(5))


def _is_answered_in_time(handlers: Path, flags: Sequence[str]) -> bool:
    """False where what was to come came too late."""
    raw = message(make_object(hook_name="quick").SerializeToString())
    with ServeProcess(handlers, *flags) as service:
        with tcp_connection(service.address) as connection:
            connection.sendall(START + headers(1, METHOD_CALL) + data(1, raw[:10]) + PING)
            coming = read_frames(connection)
            next(each for each in coming if each.kind == frames.PING)
            stops_s = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            next(each for each in coming if each.kind == frames.GOAWAY and each.payload == last(1))
            connection.sendall(data(1, raw[10:], ends=True))
            took_s = time.monotonic() - stops_s
            answered = [each for each in coming if each.kind in (frames.HEADERS, frames.DATA)]
        kinds = [each.kind for each in answered]
        assert kinds == [frames.HEADERS, frames.DATA, frames.HEADERS] or took_s > 0.9
        assert service.process.wait(PATIENCE_S) == 0
    return len(kinds) == 3


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_calls_that_wait_for_a_thread(tmp_path: Path, flags: Sequence[str]) -> None:
    """Once, they were refused, too."""
    raw = make_object(hook_name="slow").SerializeToString()
    with ServeProcess(write(tmp_path, hook=HANDLERS), "--max-threads=2", *flags) as service:
        with tcp_connection(service.address) as connection:
            calls = b"".join(call(number, raw, METHOD_CALL) for number in range(1, 16, 2))
            connection.sendall(START + calls + PING)
            coming = read_frames(connection)
            next(each for each in coming if each.kind == frames.PING)
            service.process.send_signal(signal.SIGTERM)
            assert len([each for each in coming if each.kind == frames.DATA]) == 8
        assert service.process.wait(PATIENCE_S) == 0
