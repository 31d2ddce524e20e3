"""`--workers`: one connection's calls reach all worker processes, and a worker's end is no other's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from coprocess.errors import ConfigError
from coprocess.gateways.tyk.registration import TYK
from coprocess.gateways.tyk.wire import Object
from coprocess.process.config import Settings
from coprocess.process.front_app import FrontApp
from coprocess.transport.engine import Engine, EngineOptions
from tests import forked
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, Client

OK = grpc.StatusCode.OK

PID = """
import os, time
from coprocess import Pre, Event

@Pre
def pid(request):
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def slow(request):
    time.sleep(0.5)
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def held(request):
    while not os.path.exists("go"):
        time.sleep(0.005)
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def broken(request):
    raise RuntimeError("the text stays here")

@Pre
async def hangs(request):
    import asyncio
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        open("cancelled", "w").close()
        raise
"""


def object_for(name: str) -> bytes:
    message = Object(hook_type="Pre", hook_name=name)
    message.request.url, message.request.method = "/", "GET"
    message.request.return_overrides.response_code = -1
    return message.SerializeToString()


def pid_of(reply: bytes) -> int:
    return int(Object.FromString(reply).request.set_headers["X-Pid"])


def eventually(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s, "it never came to hold"
        time.sleep(0.02)


class Connection:
    """One HTTP/2 connection, as a gateway has."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._dispatch: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            "/coprocess.Dispatcher/Dispatch"
        )

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, name: str, timeout_s: float = PATIENCE_S) -> bytes:
        return self._dispatch(object_for(name), timeout=timeout_s)


def pids_of_both(connection: Connection, pool: ThreadPoolExecutor) -> set[int]:
    pids: set[int] = set()

    def both_answer() -> bool:
        # Where the machine is busy, one may have answered its first before the next are sent.
        pids.update(pid_of(reply) for reply in pool.map(connection.call, ["slow"] * 8))
        return len(pids) > 1

    eventually(both_answer)
    assert len(pids) == 2
    return pids


def test_log_entries_name_the_worker_that_wrote_them(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        with pytest.raises(grpc.RpcError):
            connection.call("broken")
        failed = serve.wait_for('Pre hook "broken" raised RuntimeError')
        assert failed["worker"] in (0, 1)
        # The front's own entries are no worker's.
        assert "worker" not in serve.logged("serving")


def test_calls_of_one_connection_reach_all_workers(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with (
        ServeProcess(handlers, "--workers=2") as serve,
        Connection(serve.address) as connection,
        ThreadPoolExecutor(8) as pool,
    ):
        pids = pids_of_both(connection, pool)
        assert serve.process.pid not in pids
        with pytest.raises(grpc.RpcError) as failed:
            connection.call("broken")
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert "the text stays here" not in str(failed.value.details())
        with pytest.raises(grpc.RpcError) as unknown:
            connection.call("pidd")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        metrics = serve.http("GET", "/metrics")[1]
        assert 'worker="0"' in metrics
        assert 'worker="1"' in metrics
        assert {hook["name"] for hook in serve.page("/hooks")["hooks"]} == {
            "pid",
            "slow",
            "held",
            "broken",
            "hangs",
        }
        assert serve.end() == 0


def test_a_killed_worker_fails_its_own_calls_and_is_replaced(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        victim = pid_of(connection.call("pid"))
        os.kill(victim, signal.SIGKILL)
        serve.wait_for("a worker process ended")
        # The other one serves on.
        for _ in range(10):
            assert pid_of(connection.call("pid")) != victim
        eventually(lambda: "coprocess_worker_restarts_total 1.0" in serve.http("GET", "/metrics")[1])
        with ThreadPoolExecutor(8) as pool:
            eventually(lambda: len({pid_of(reply) for reply in pool.map(connection.call, ["slow"] * 8)}) == 2)
        assert serve.end() == 0


def test_health_tells_while_no_worker_can_take_calls(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with (
        ServeProcess(handlers, "--workers=2") as serve,
        Connection(serve.address) as connection,
        grpc.insecure_channel(serve.address) as channel,
        ThreadPoolExecutor(8) as pool,
    ):
        stub: Any = HealthStub(channel)
        statuses = stub.Watch(HealthCheckRequest(), timeout=PATIENCE_S)
        assert next(statuses).status == HealthCheckResponse.SERVING
        for worker in pids_of_both(connection, pool):
            os.kill(worker, signal.SIGKILL)
        assert next(statuses).status == HealthCheckResponse.NOT_SERVING
        assert next(statuses).status == HealthCheckResponse.SERVING
        assert pid_of(connection.call("pid"))
        assert serve.end() == 0


def test_reload_reaches_every_worker(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", stamp=stamping("old"))
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        write(handlers, stamp=stamping("new"))
        status, page = serve.http("POST", "/reload")
        assert status == 200, page
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(connection.call, ["stamp"] * 40))
        assert {Object.FromString(reply).request.set_headers["X-Stamp"] for reply in replies} == {"new"}
        write(handlers, stamp="broken(")
        status, page = serve.http("POST", "/reload")
        assert status == 409
        assert "SyntaxError" in page
        assert Object.FromString(connection.call("stamp")).request.set_headers["X-Stamp"] == "new"


def test_a_clients_deadline_reaches_the_handler_in_the_worker(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:

        def is_told() -> bool:
            # On a busy machine, time may be over before the worker has begun.
            with pytest.raises(grpc.RpcError) as late:
                connection.call("hangs", timeout_s=0.3)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return (tmp_path / "cancelled").exists()

        eventually(is_told)


def test_a_clients_deadline_ends_a_sync_handler_in_the_worker(tmp_path: Path) -> None:
    code = """
import os, time
from coprocess import Pre

@Pre(concurrency=1)
def once(request):
    if not os.path.exists(f"hung-{os.getpid()}"):
        open(f"hung-{os.getpid()}", "w").close()
        time.sleep(60)
    request.headers["X-Pid"] = str(os.getpid())
"""
    handlers = write(tmp_path / "handlers", once=code)
    with (
        ServeProcess(handlers, "--workers=2") as serve,
        Connection(serve.address) as connection,
        ThreadPoolExecutor(2) as pool,
    ):

        def both_hung() -> bool:
            # On a busy machine, time may be over before a worker has begun.
            for call in [pool.submit(connection.call, "once", 0.3) for _ in range(2)]:
                error = call.exception()
                assert error is None or isinstance(error, grpc.RpcError)
                assert error is None or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return len(list(tmp_path.glob("hung-*"))) == 2

        eventually(both_hung)
        # Both workers' only places are free again, long before the hook's own time limit.
        assert pid_of(connection.call("once"))


def test_a_worker_that_hangs_does_not_draw_the_calls_of_clients_that_give_up(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        hung = pid_of(connection.call("pid"))
        os.kill(hung, signal.SIGSTOP)
        try:
            eventually(lambda: state_of(hung) == "T")
            with pytest.raises(grpc.RpcError) as late:
                connection.call("pid", timeout_s=0.3)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert all(pid_of(connection.call("pid")) != hung for _ in range(5))
        finally:
            os.kill(hung, signal.SIGCONT)
        # Once it has answered, to nobody, it takes its part again.
        eventually(lambda: pid_of(connection.call("pid")) == hung)
        assert serve.end() == 0


HOLDS = """
import os, time
from coprocess import Pre

@Pre
def pid(request):
    request.headers["X-Pid"] = str(os.getpid())

@Pre
def holds_the_interpreter(request):
    import ctypes
    ctypes.PyDLL(None).sleep(60)  # PyDLL: other than CDLL, it does not let go of the interpreter's lock.
"""


def large_object_for(name: str) -> bytes:
    message = Object.FromString(object_for(name))
    message.request.body = "x" * 300_000
    return message.SerializeToString()


def end_of(call: Any) -> tuple[grpc.StatusCode, bytes]:
    """How a call ended, and its reply."""
    error = call.exception(timeout=PATIENCE_S)
    return (grpc.StatusCode.OK, call.result()) if error is None else (error.code(), b"")


@pytest.mark.parametrize(("engine", "hang"), [("http2", "held"), ("grpcio", "stopped")])
def test_a_worker_that_hangs_is_replaced_and_no_other_call_waits_for_it(
    tmp_path: Path, engine: str, hang: str
) -> None:
    handlers = write(tmp_path / "handlers", holds=HOLDS)
    flags = (f"--engine={engine}", "--workers=2", "--worker-silence-s=5")
    with ServeProcess(handlers, *flags) as serve, Client(serve.address) as client:
        with Connection(serve.address) as connection:
            hung = pid_of(connection.call("pid"))
        if hang == "stopped":
            os.kill(hung, signal.SIGSTOP)
            eventually(lambda: state_of(hung) == "T")
            held = []
        else:
            held = [client.raw.future(object_for("holds_the_interpreter"), timeout=PATIENCE_S)]
        large = large_object_for("pid")
        # Some with a deadline, which the front hears of; some that are cancelled; and some that wait.
        late = [client.raw.future(large, timeout=0.5) for _ in range(40)]
        given_up = [client.raw.future(large, timeout=PATIENCE_S) for _ in range(40)]
        for call in given_up:
            call.cancel()
        waiting = [client.raw.future(large, timeout=PATIENCE_S) for _ in range(40)]
        assert serve.http("GET", "/metrics")[0] == 200
        assert serve.http("GET", "/hooks")[0] == 200
        ends = [end_of(call) for call in (*late, *waiting)]
        # Those that the other worker took were answered; the hung one's failed when it was ended.
        codes = {code for code, _ in ends}
        assert codes <= {OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}, codes
        assert OK in {end_of(call)[0] for call in waiting} <= {OK, grpc.StatusCode.UNAVAILABLE}
        assert {end_of(call)[0] for call in held} <= {grpc.StatusCode.UNAVAILABLE}
        killed = serve.wait_for("a worker process hangs: it is killed")
        assert "silent" in killed["because"]
        eventually(lambda: "coprocess_worker_kills_total 1.0" in serve.http("GET", "/metrics")[1])
        eventually(lambda: "coprocess_workers_ready 2.0" in serve.http("GET", "/metrics")[1])
        assert end_of(client.raw.future(large, timeout=PATIENCE_S))[0] is OK
        assert serve.end() == 0


def test_stop_answers_what_is_in_flight(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with (
        ServeProcess(handlers, "--workers=2") as serve,
        Connection(serve.address) as connection,
        ThreadPoolExecutor(8) as pool,
    ):
        replies = [pool.submit(connection.call, "held") for _ in range(8)]
        running = re.compile(r'^coprocess_calls_in_flight{hook="held".* ([0-9.]+)$', re.MULTILINE)
        eventually(lambda: sum(map(float, running.findall(serve.http("GET", "/metrics")[1]))) == 8)
        serve.process.send_signal(signal.SIGTERM)
        serve.wait_for("stopping")
        (tmp_path / "go").touch()
        assert serve.wait() == 0
        assert all(pid_of(reply.result()) for reply in replies)


def test_workers_end_when_the_front_is_killed(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        worker = pid_of(connection.call("pid"))
        os.kill(serve.process.pid, signal.SIGKILL)
        serve.process.wait(PATIENCE_S)
        eventually(lambda: not _runs(worker))


def test_a_front_that_is_killed_leaves_no_folder(tmp_path: Path) -> None:
    """An empty one stayed among the temporary ones, each time."""
    handlers = write(tmp_path / "handlers", pid=PID)
    # Its workers are its children, and their command lines their own: not so of copies.
    with (
        ServeProcess(handlers, "--workers=2", real_start=True) as serve,
        Connection(serve.address) as connection,
    ):
        worker = pid_of(connection.call("pid"))
        words = ["ps", "-ww", "-o", "args=", "-p", str(worker)]
        line = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        found = re.search(r"--admin unix:(\S+)/worker-", line)
        assert found is not None
        folder = Path(found[1])
        os.kill(worker, signal.SIGTERM)
        serve.wait_for("a worker process ended")
        # The front lives, and starts another: it keeps the folder.
        eventually(lambda: "coprocess_workers_ready 2.0" in serve.http("GET", "/metrics")[1])
        assert folder.is_dir()
        os.kill(serve.process.pid, signal.SIGKILL)
        eventually(lambda: not folder.exists())


def test_a_worker_whose_front_was_killed_drains_for_nobody(tmp_path: Path) -> None:
    """Once, it waited for its async calls as long as a drain may take."""
    handlers = write(tmp_path / "handlers", pid=PID)
    with (
        ServeProcess(handlers, "--workers=2", "--drain-s=3600") as serve,
        Connection(serve.address) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        worker = pid_of(connection.call("pid"))
        call = pool.submit(connection.call, "hangs")
        running = re.compile(r'^coprocess_calls_in_flight{hook="hangs".* 1.0$', re.MULTILINE)
        eventually(lambda: running.search(serve.http("GET", "/metrics")[1]) is not None)
        os.kill(serve.process.pid, signal.SIGKILL)
        assert isinstance(call.exception(), grpc.RpcError)
        eventually((tmp_path / "cancelled").exists)
        eventually(lambda: not _runs(worker))


def _runs(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def state_of(pid: int) -> str:
    """A letter, as ps shows it; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_worker_that_cannot_start_ends_the_service(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", stamp="broken(")
    with ServeProcess(handlers, "--workers=2", "--strict", wait=False) as serve:
        assert serve.wait() == 1


def test_a_gateway_with_a_server_of_its_own_has_no_front_unless_it_brings_one(tmp_path: Path) -> None:
    def engine(options: EngineOptions) -> Engine:
        raise AssertionError("it is not made")

    settings = Settings(handlers=[tmp_path], workers=2, listen=["127.0.0.1:0"], admin="off")
    with pytest.raises(ConfigError, match="a server of its own, which no front stands before"):
        FrontApp(settings, gateway=replace(TYK, engine=engine)).run()


def test_a_worker_that_takes_the_place_of_another_serves_no_less_than_the_others(tmp_path: Path) -> None:
    """A worker ended after a reload that failed: the next one knew no hook, and refused all calls at once."""
    handlers = write(tmp_path / "handlers", pid=PID, other=stamping("old"))
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        write(handlers, other="broken(")
        assert serve.http("POST", "/reload")[0] == 409
        os.kill(pid_of(connection.call("pid")), signal.SIGKILL)
        serve.wait_for("a worker process ended", lambda line: line["exit_status"] == -signal.SIGKILL)
        # It tells why not, before it ends or just after: the next one is started later.
        serve.wait_for("coprocess: 1 problem with handlers, and other workers serve 6 hooks")
        assert {stamp_of(connection) for _ in range(20)} == {"old"}
        assert serve.page("/readyz")["hooks"] == 6
        # With nothing wrong it may serve less: somebody took a hook away.
        (handlers / "other.py").unlink()
        eventually(lambda: "coprocess_workers_ready 2.0" in serve.http("GET", "/metrics")[1])
        eventually(lambda: serve.http("POST", "/reload")[0] == 200)
        assert serve.end() == 0


def test_a_worker_takes_the_place_of_another_where_the_same_was_wrong_before(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID, other="broken(")
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        os.kill(pid_of(connection.call("pid")), signal.SIGKILL)
        eventually(lambda: "coprocess_worker_restarts_total 1.0" in serve.http("GET", "/metrics")[1])
        eventually(lambda: "coprocess_workers_ready 2.0" in serve.http("GET", "/metrics")[1])
        assert serve.end() == 0


def stamp_of(connection: Connection) -> str:
    return Object.FromString(connection.call("stamp")).request.set_headers["X-Stamp"]


def test_strict_workers_that_are_reloaded_stay_until_their_file_is_repaired(tmp_path: Path) -> None:
    """They ended, and the service with them: the front told them not to reload."""
    handlers = write(tmp_path / "handlers", pid="broken(")
    flags = ("--workers=2", "--strict", "--reload")
    with ServeProcess(handlers, *flags) as serve, Connection(serve.address) as connection:
        assert serve.http("GET", "/readyz")[0] == 503
        with pytest.raises(grpc.RpcError) as refused:
            connection.call("pid")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        write(handlers, pid=PID)
        eventually(lambda: serve.http("GET", "/readyz")[0] == 200)
        assert pid_of(connection.call("pid")) > 0
        assert serve.end() == 0


def test_a_start_that_fails_names_the_worker_and_its_status(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", ends="import os\n\nos._exit(7)\n")
    with ServeProcess(handlers, "--workers=2", wait=False) as serve:
        assert serve.wait() == 1
    assert re.fullmatch(
        "coprocess: a worker process could not start: worker [01] ended with status 7; its log tells why",
        serve.lines[-1]["event"],
    )


def test_a_command_that_some_workers_have_done_does_not_say_that_all_is_as_it_was(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID, stamp=stamping("old"))
    with ServeProcess(handlers, "--workers=2") as serve, Connection(serve.address) as connection:
        write(handlers, stamp=stamping("new"))
        assert serve.http("POST", "/reload")[0] == 200
        os.kill(pid_of(connection.call("pid")), signal.SIGKILL)
        ended = serve.wait_for("a worker process ended")["worker"]
        eventually(lambda: "coprocess_worker_restarts_total 1.0" in serve.http("GET", "/metrics")[1])
        eventually(lambda: "coprocess_workers_ready 2.0" in serve.http("GET", "/metrics")[1])
        # The one that took its place knows none but these.
        done = forked.run(
            [sys.executable, "-m", "coprocess", "rollback", f"--admin={serve.admin}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ),
        )
        assert done.returncode == 1
        assert f"rollback failed in part: done by worker {1 - ended}, and not by others" in done.stderr
        assert f"worker {ended}: nothing to roll back to" in done.stderr
        assert "all is as it was" not in done.stderr
        assert serve.end() == 0


def test_a_worker_that_is_stopped_alone_loses_no_call(tmp_path: Path) -> None:
    """The front went on to send it calls, which it refused."""
    handlers = write(tmp_path / "handlers", pid=PID)
    with (
        ServeProcess(handlers, "--workers=2") as serve,
        Connection(serve.address) as connection,
        ThreadPoolExecutor(4) as pool,
    ):
        ended = threading.Event()

        def call_all_the_time() -> int:
            calls = 0
            while not ended.is_set():
                connection.call("pid")
                calls += 1
            return calls

        callers = [pool.submit(call_all_the_time) for _ in range(3)]
        slow = pool.submit(connection.call, "slow")
        os.kill(pid_of(connection.call("pid")), signal.SIGTERM)
        try:
            assert serve.wait_for("a worker process ended")["exit_status"] == 0
        finally:
            ended.set()
        assert all(caller.result() > 0 for caller in callers)
        assert pid_of(slow.result()) > 0
        assert serve.end() == 0
