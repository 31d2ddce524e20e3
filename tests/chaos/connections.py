"""Connections that do nothing, or little, or do not read."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.hostile import PREFACE, SETTINGS, frame, request_headers
from tests.chaos.load import Figures, Load, descriptor_count, settle, stamp_is
from tests.objects import make_object, make_request
from tests.serve_process import ServeProcess, stamping, write

SILENT, HALF_A_PREFACE, IDLE, HALF_A_CALL, SLOW_READER = range(5)
#: A setting: the initial window is nothing, so no answer may be sent.
_NO_WINDOW = frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x00")


def opening(kind: int) -> bytes:
    """What a connection of this kind sends, all in all."""
    body = make_object(hook_name="stamp", request=make_request(body=b"x" * 2000)).SerializeToString()
    message = b"\x00" + len(body).to_bytes(4, "big") + body
    start = PREFACE + SETTINGS
    if kind == SILENT:
        return b""
    if kind == HALF_A_PREFACE:
        return PREFACE[:12]
    if kind == IDLE:
        return start
    if kind == HALF_A_CALL:
        return start + frame(1, 4, 1, request_headers()) + frame(0, 0, 1, message[:900])
    calls = b"".join(
        frame(1, 4, stream, request_headers()) + frame(0, 1, stream, message) for stream in range(1, 21, 2)
    )
    return PREFACE + _NO_WINDOW + calls


def trial(folder: Path, engine: str, connections: int, *, measure_s: float, strict: bool) -> Figures:
    """Good calls beside so many connections, a fifth of each kind. `strict`: their p99 less than doubles."""
    handlers = write(folder / "handlers", good=stamping("good"))
    with ExitStack() as at_end:
        service = at_end.enter_context(ServeProcess(handlers, f"--engine={engine}"))
        host, _, port = service.address.rpartition(":")
        good = Load(service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.004)
        with good:
            good.wait_for(100)
            before_ms = _p99_ms(good, measure_s)
            descriptors = descriptor_count(service.process.pid)
            opened = []
            for number in range(connections):
                connection = at_end.enter_context(socket.create_connection((host, int(port)), 20))
                connection.sendall(opening(number % 5))
                opened.append(connection)
            good.wait_for(50)  # What they sent has been taken by then.
            beside_ms = _p99_ms(good, measure_s)
            held = descriptor_count(service.process.pid) - descriptors
            for connection in opened:
                connection.close()
            after = settle(lambda: descriptor_count(service.process.pid), descriptors + 4)
            good.wait_for(10)
    good.check(200)
    assert after <= descriptors + 4, f"{descriptors} descriptors became {after}"
    if strict:
        assert beside_ms < 2 * before_ms, f"p99 {before_ms} ms became {beside_ms} ms"
    return {
        "engine": engine,
        "connections": connections,
        "held_by_the_service": held,
        "good_calls": good.answered,
        "good_failed": len(good.errors),
        "p99_before_ms": before_ms,
        "p99_beside_ms": beside_ms,
        "descriptors_before_and_after": [descriptors, after],
    }


def _p99_ms(load: Load, seconds: float) -> float:
    first = load.answered
    time.sleep(seconds)
    load.wait_for(10)
    return load.p99_ms(first)
