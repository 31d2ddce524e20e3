"""A log that nobody reads, that is closed, or whose reader is gone: calls are answered, the service ends."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import pytest

from coprocess.process import log_writer
from coprocess.process.log_writer import LogWriter
from tests import forked
from tests.objects import make_object, make_request
from tests.serve_process import write
from tests.server import PATIENCE_S, Client, fails, until

CODE = """
import os, sys, time
from coprocess import Pre

@Pre
def noisy(request):
    for _ in range(300):
        print("x" * 1000)
        print("y" * 100, file=sys.stderr)

@Pre
def fails(request): raise ValueError("x" * 10_000)

@Pre(timeout=0.2)
def overruns(request):
    while not os.path.exists(request.headers["X-Go"]):
        time.sleep(0.005)

@Pre(timeout=0.2)
async def overruns_async(request):
    import asyncio
    await asyncio.sleep(60)

@Pre
def forks(request):
    child = os.fork()
    if child == 0:
        print("of the child", flush=True)
        os._exit(0)
    os.waitpid(child, 0)

@Pre
def stamp(request): request.headers["X-Stamp"] = os.readlink("/proc/self/fd/2")
"""


@contextmanager
def service(folder: Path, *shell: str, stderr: int) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    handlers = write(folder / "handlers", a=CODE)
    words = [sys.executable, "-m", "coprocess", "serve", f"--handlers={handlers}", "--admin=off"]
    words += [f"--listen=unix:{folder / 'listen'}", "--redis=redis://127.0.0.1:1/0", "--log-format=json"]
    with (
        forked.Process([*shell, *words], cwd=folder, stderr=stderr) as process,
        Client(f"unix:{folder / 'listen'}") as client,
    ):
        try:
            grpc.channel_ready_future(client.channel).result(PATIENCE_S)
            yield process, client
        finally:
            process.kill()


def all_are_answered(client: Client, folder: Path) -> None:
    for number in range(3):
        go = folder / f"go-{number}"
        request = make_request(headers={"X-Go": str(go)})
        client.dispatch(make_object(hook_name="noisy"))
        for name, code in (
            ("fails", grpc.StatusCode.INTERNAL),
            ("overruns", grpc.StatusCode.DEADLINE_EXCEEDED),
            ("overruns_async", grpc.StatusCode.DEADLINE_EXCEEDED),
            ("absent", grpc.StatusCode.NOT_FOUND),
        ):
            message = make_object(hook_name=name, request=request)
            ended, text = fails(lambda message=message: client.dispatch(message))  # type: ignore[misc]  # a default is no parameter
            assert (ended, name in text) == (code, True)
        go.touch()


def read_all(stream: IO[bytes], into: list[bytes]) -> threading.Thread:
    thread = threading.Thread(target=lambda: into.extend(stream.readlines()))
    thread.start()
    return thread


def test_calls_are_answered_and_end_in_time_though_nobody_reads_the_log(tmp_path: Path) -> None:
    with service(tmp_path, stderr=subprocess.PIPE) as (process, client):
        client.dispatch(make_object(hook_name="forks"))
        all_are_answered(client, tmp_path)
        # Who reads late misses nothing, as long as it is not too much.
        lines: list[bytes] = []
        assert process.stderr is not None
        reader = read_all(process.stderr, lines)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        reader.join(PATIENCE_S)
    text = b"".join(lines).decode()
    assert text.count("x" * 1000 + '"') == 900
    assert text.count('raised ValueError"') == 3
    assert text.count("of the child") == 1
    assert '"stopped"' in text


def test_the_service_ends_though_nobody_reads_the_log(tmp_path: Path) -> None:
    with service(tmp_path, stderr=subprocess.PIPE) as (process, client):
        client.dispatch(make_object(hook_name="noisy"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_a_closed_standard_error_is_no_reason_to_fail(tmp_path: Path) -> None:
    closed = ("sh", "-c", 'exec "$@" 2>&-', "sh")
    with service(tmp_path, *closed, stderr=subprocess.DEVNULL) as (process, client):
        all_are_answered(client, tmp_path)
        # Not a client's socket.
        reply = client.dispatch(make_object(hook_name="stamp"))
        assert reply.request.set_headers["X-Stamp"] == "/dev/null"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_a_reader_that_is_gone_fails_no_call(tmp_path: Path) -> None:
    with service(tmp_path, stderr=subprocess.PIPE) as (process, client):
        assert process.stderr is not None
        process.stderr.close()
        all_are_answered(client, tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ours, theirs = os.pipe()
    yield ours, theirs
    os.close(ours)


def test_what_is_too_much_is_lost_and_counted_and_told(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "MOST_BYTES", 10_000)
    ours, theirs = pipe
    told: list[int] = []
    writer = LogWriter(theirs, told.append)
    os.close(theirs)  # It has its own.
    os.set_blocking(ours, True)
    entry = "z" * 999 + "\n"
    for _ in range(200):
        writer.write(entry)
        writer.flush(0.001)
    lost = writer.lost
    assert 0 < lost < 200
    # On a busy machine, some may be lost, and told, before the pipe is full.
    assert sum(told) < lost
    text = b""
    while len(text) < (200 - lost) * len(entry):
        text += os.read(ours, 65_536)
    assert text == entry.encode() * (200 - lost)
    until(lambda: sum(told) == lost)
    writer.write("again\n")
    assert os.read(ours, 100) == b"again\n"


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    os.set_blocking(theirs, False)
    writer = LogWriter(theirs, lambda lost: None)
    os.close(theirs)
    for _ in range(200):
        writer.write("z" * 999 + "\n")
    size = 0
    while size < 200_000:
        size += len(os.read(ours, 65_536))
    assert (size, writer.lost) == (200_000, 0)


def test_where_no_thread_can_be_started_the_log_is_written_all_the_same(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = pipe
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        writer = LogWriter(theirs, lambda lost: None)
    os.close(theirs)
    writer.write("text\n")
    assert os.read(ours, 100) == b"text\n"


def test_entries_of_several_processes_come_whole_where_the_log_is_read_slowly(
    pipe: tuple[int, int], tmp_path: Path
) -> None:
    """Long ones came in pieces: a piece that began a line could have looked like an entry of its own."""
    ours, theirs = pipe
    # As each process has: descriptors of its own for the file that they take turns by.
    writers = [LogWriter(theirs, lambda lost: None) for _ in range(4)]
    os.close(theirs)
    for writer in writers:
        writer.take_turns(tmp_path / "log.lock")
    entries = [f"{letter * 100_000}\n".encode() for letter in "abcd"]
    for _ in range(5):
        for writer, entry in zip(writers, entries, strict=True):
            writer.write(entry.decode())
    text = b""
    while len(text) < 20 * len(entries[0]):
        text += os.read(ours, 4096)
    assert sorted(text.splitlines(keepends=True)) == sorted(entries * 5)


def test_a_process_that_is_stopped_while_it_writes_keeps_no_other_from_the_log(
    pipe: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "_TURN_S", 0.01)
    ours, theirs = pipe
    writer = LogWriter(theirs, lambda lost: None)
    os.close(theirs)
    writer.take_turns(tmp_path / "log.lock")
    with (tmp_path / "log.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer.write("text\n")
        assert os.read(ours, 100) == b"text\n"
    writer.write("again\n")
    assert os.read(ours, 100) == b"again\n"
