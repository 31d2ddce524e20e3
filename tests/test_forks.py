"""Processes that handlers fork: they keep nothing of the service, and end when they are told to."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.objects import make_object
from tests.serve_process import ServeProcess, write
from tests.server import ENGINES, PATIENCE_S, Client
from tests.test_front import Connection, eventually, pid_of

CODE = """
import multiprocessing, os, signal, subprocess, time
from coprocess import Pre

HERE = {here!r}

def note(pid):
    with open(HERE, "a") as file:
        file.write(f"{{pid}}\\n")
    return str(pid)

@Pre
def pid(request):
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def forks(request):
    child = os.fork()
    if child == 0:
        os.closerange(1, 3)  # The test reads the log to its end.
        time.sleep(60)
        os._exit(0)
    note(child)
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def forks_and_returns(request):
    child = os.fork()
    if child:
        note(child)
        status = os.waitpid(child, 0)[1]
        request.headers["X-Stamp"] = str(os.waitstatus_to_exitcode(status))

@Pre
async def forks_and_returns_async(request):
    child = os.fork()
    if child:
        note(child)
        status = os.waitpid(child, 0)[1]
        request.headers["X-Stamp"] = str(os.waitstatus_to_exitcode(status))

@Pre
def forks_and_raises(request):
    child = os.fork()
    if not child:
        raise OSError
    note(child)
    status = os.waitpid(child, 0)[1]
    request.headers["X-Stamp"] = str(os.waitstatus_to_exitcode(status))

@Pre
def starts_a_program(request):
    # As os.system does: the program gets each descriptor that is not kept from it.
    note(subprocess.Popen(["sleep", "60"], close_fds=False, stderr=subprocess.DEVNULL).pid)
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def signals_children(request):
    ends = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        note(child.pid)
        for _ in range(15):
            # Again: Python itself loses a KeyboardInterrupt within what is to be called after a fork.
            os.kill(child.pid, number)
            child.join(1)
            if child.exitcode is not None:
                break
        ends.append(child.exitcode)
    request.headers["X-Stamp"] = repr(ends)
"""


@pytest.fixture
def handlers(tmp_path: Path) -> Iterator[Path]:
    children = tmp_path / "children"
    yield write(tmp_path / "handlers", forks=CODE.format(here=str(children)))
    for pid in children.read_text().split() if children.exists() else ():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("hook", ["forks", "starts_a_program"])
def test_a_killed_worker_is_replaced_though_its_child_lives(handlers: Path, hook: str) -> None:
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        victim = pid_of(connection.call(hook))
        os.kill(victim, signal.SIGKILL)
        serve.wait_for("a worker process ended")
        eventually(lambda: "coprocess_workers_ready 2.0" in serve.http("GET", "/metrics")[1])
        assert pid_of(connection.call("pid")) != victim
        assert serve.end() == 0


@pytest.mark.parametrize("engine", [*ENGINES, "http2 --workers=2"])
def test_a_forked_child_that_comes_out_of_its_handler_ends(handlers: Path, engine: str) -> None:
    with ServeProcess(handlers, *f"--engine={engine}".split()) as serve, Client(serve.address) as client:
        for hook in ("forks_and_returns", "forks_and_returns_async", "forks_and_raises") * 3:
            reply = client.dispatch(make_object(hook_name=hook))
            # gRPC's core may end a forked child itself.
            ends = {str(os.EX_SOFTWARE)} | ({str(-signal.SIGSEGV)} if "grpcio" in engine else set())
            assert reply.request.set_headers["X-Stamp"] in ends
        serve.wait_for(
            "coprocess: a process that a handler forked came out of the handler, and was ended. Use os._exit"
        )
        assert serve.end() == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_child_keeps_neither_the_port_nor_a_connection(handlers: Path, engine: str) -> None:
    with ServeProcess(handlers, f"--engine={engine}") as serve:
        host, _, port = serve.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as idle:
            with Connection(serve.address) as connection:
                connection.call("forks")
            addresses = serve.address, serve.admin
            os.kill(serve.process.pid, signal.SIGKILL)
            serve.process.wait(PATIENCE_S)
            while idle.recv(4096):  # The end comes, once nobody has the other end.
                continue
    with (
        ServeProcess(handlers, f"--engine={engine}", listen=addresses[0], admin=addresses[1]) as again,
        Connection(again.address) as connection,
    ):
        assert pid_of(connection.call("pid")) == again.process.pid


def test_a_forked_child_keeps_no_unix_socket(handlers: Path, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path / 'service.sock'}"
    with ServeProcess(handlers, listen=listen) as serve, Connection(serve.address) as connection:
        connection.call("forks")
        os.kill(serve.process.pid, signal.SIGKILL)
        serve.process.wait(PATIENCE_S)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(str(tmp_path / "service.sock"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_a_forked_child(handlers: Path, workers: int) -> None:
    with ServeProcess(handlers, f"--workers={workers}") as serve, serve.client() as client:
        reply = client.dispatch(make_object(hook_name="signals_children"))
        # SIGINT is KeyboardInterrupt there, as in any program of Python: exit status 1.
        assert reply.request.set_headers["X-Stamp"] == "[-15, 1, -1]"
        assert serve.end() == 0
