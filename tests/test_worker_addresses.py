"""`--worker-listen own`: each worker takes calls at an address of its own, and one front looks after all."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from coprocess.errors import ConfigError
from coprocess.gateways.tyk.wire import Object
from coprocess.process.settings_loading import load_settings
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, Client
from tests.test_front import PID, Connection, eventually, object_for, pid_of, state_of

FLAGS = ("--workers=2", "--worker-listen=own", "--listen=127.0.0.1:0")
SERVING = HealthCheckResponse.SERVING


def addresses_of(serve: ServeProcess) -> list[str]:
    addresses: list[str] = serve.logged("listening")["listen"]
    return addresses


def pids(serve: ServeProcess) -> list[int]:
    """Of who answers at each address."""
    found = []
    for address in addresses_of(serve):
        with Connection(address) as connection:
            (pid,) = {pid_of(connection.call("pid")) for _ in range(3)}
        found.append(pid)
    return found


def health_at(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = HealthStub(channel)
        status: int = stub.Check(
            HealthCheckRequest(service=service), timeout=PATIENCE_S, wait_for_ready=True
        ).status
        return status


def answers_at(address: str) -> bool:
    try:
        with Connection(address) as connection:
            return pid_of(connection.call("pid")) > 0
    except grpc.RpcError:
        return False


def is_in_metrics(serve: ServeProcess, text: str) -> bool:
    return text in serve.http("GET", "/metrics")[1]


def stamps(serve: ServeProcess) -> set[str]:
    found = set()
    for address in addresses_of(serve):
        with Connection(address) as connection:
            found.add(Object.FromString(connection.call("stamp")).request.set_headers["X-Stamp"])
    return found


def test_each_worker_answers_at_its_own_address_and_one_front_looks_after_all(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID, stamp=stamping("old"))
    with ServeProcess(handlers, *FLAGS) as serve, ThreadPoolExecutor(4) as pool:
        first, second = pids(serve)
        assert len({first, second, serve.process.pid}) == 3
        assert [health_at(address) for address in addresses_of(serve)] == [SERVING, SERVING]

        write(handlers, stamp=stamping("new"))
        assert serve.http("POST", "/reload")[0] == 200
        assert stamps(serve) == {"new"}
        write(handlers, stamp="broken(")
        assert serve.http("POST", "/reload")[0] == 409
        assert stamps(serve) == {"new"}
        assert serve.http("POST", "/rollback?to=previous")[0] == 200
        assert stamps(serve) == {"old"}
        write(handlers, stamp=stamping("by signal"))
        serve.process.send_signal(signal.SIGHUP)
        eventually(lambda: stamps(serve) == {"by signal"})

        metrics = serve.http("GET", "/metrics")[1]
        counts = "".join(line for line in metrics.splitlines() if "seconds_count" in line and "stamp" in line)
        assert all(f'worker="{number}"' in counts for number in (0, 1))

        os.kill(first, signal.SIGKILL)
        # The other's calls know nothing of it.
        assert pids_at(addresses_of(serve)[1]) == second
        # It comes back where it was, by whatever port it was given.
        eventually(lambda: answers_at(addresses_of(serve)[0]))
        assert pids(serve)[0] not in (first, second)
        assert pids(serve)[1] == second
        eventually(lambda: "coprocess_worker_restarts_total 1.0" in serve.http("GET", "/metrics")[1])
        eventually(lambda: "coprocess_workers_ready 2.0" in serve.http("GET", "/metrics")[1])
        assert serve.http("GET", "/readyz")[0] == 200

        with Client(addresses_of(serve)[0]) as one, Client(addresses_of(serve)[1]) as other:
            slow = [each.raw.future(object_for("slow"), timeout=PATIENCE_S) for each in (one, other)]
            for number in (0, 1):
                in_flight = f'calls_in_flight{{hook="slow",hook_type="Pre",version="",worker="{number}"}} 1.0'
                eventually(partial(is_in_metrics, serve, in_flight))
            assert pool.submit(serve.end).result() == 0
            assert all(pid_of(call.result()) for call in slow)


def pids_at(address: str) -> int:
    with Connection(address) as connection:
        return pid_of(connection.call("pid"))


def test_a_stopped_worker_is_replaced_at_its_address_and_all_end_with_the_front(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    paths = [f"unix:{tmp_path / name}" for name in ("a.sock", "b.sock")]
    flags = ("--workers=2", "--worker-listen=own", f"--listen={paths[1]}", "--worker-silence-s=1")
    with ServeProcess(handlers, *flags, "--unix-socket-mode=0660", listen=paths[0]) as serve:
        assert addresses_of(serve) == paths
        assert (tmp_path / "a.sock").stat().st_mode & 0o777 == 0o660
        hung, other = pids(serve)
        os.kill(hung, signal.SIGSTOP)
        serve.wait_for("a worker process hangs: it is killed")
        eventually(lambda: answers_at(paths[0]))
        now = pids(serve)
        assert now[0] != hung
        assert now[1] == other
        os.kill(serve.process.pid, signal.SIGKILL)
        serve.process.wait(PATIENCE_S)
        eventually(lambda: all(state_of(pid) in ("", "Z") for pid in now))


def test_an_address_that_is_taken_ends_the_start_and_is_named(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ("--workers=2", "--worker-listen=own", f"--listen={address}")
        with ServeProcess(handlers, *flags, wait=False) as serve:
            assert serve.wait() == 1
            assert f"cannot listen on {address}" in serve.text


def test_envoy_is_served_by_workers_with_addresses_of_their_own(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with ServeProcess(handlers, *FLAGS, "--envoy") as serve:
        service = "envoy.service.ext_proc.v3.ExternalProcessor"
        assert [health_at(address, service) for address in addresses_of(serve)] == [SERVING, SERVING]
        assert serve.end() == 0


@pytest.mark.parametrize(
    ("listen", "workers", "told"),
    [
        (["127.0.0.1:5555"], 2, "listen has 1 address, and workers is 2"),
        (["127.0.0.1:5555", "127.0.0.2:5555"], 1, "listen has 2 addresses, and workers is 1"),
        (["127.0.0.1:5555", "127.0.0.1:5555"], 2, "listen has 127.0.0.1:5555 twice"),
    ],
)
def test_addresses_that_do_not_fit_the_workers(listen: list[str], workers: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        load_settings({"listen": listen, "workers": workers, "worker_listen": "own"})
    assert "--worker-listen" in str(error.value)


def test_workers_behind_the_front_do_not_drain_once_more_after_it(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", pid=PID)
    with ServeProcess(handlers, "--workers=2", "--drain-s=0.1", "--log-level=debug", wait=False) as serve:
        # The front's: each worker tells of its own before, for debugging.
        serve.wait_for("serving", lambda line: line["level"] == "info")
        assert serve.end() == 0
    drains = sorted(line["drain_s"] for line in serve.lines if line["event"] == "stopping")
    assert drains == [0.0, 0.0, 0.1]


def test_a_unix_socket_of_a_worker_that_was_killed_goes_with_the_service(tmp_path: Path) -> None:
    """It stayed, where the service was stopped before another worker had taken it over."""
    handlers = write(tmp_path / "handlers", pid=PID)
    path = tmp_path / "worker.sock"
    flags = ("--workers=2", "--worker-listen=own", f"--listen=unix:{path}")
    with ServeProcess(handlers, *flags) as serve:
        killed = pids(serve)[1]
        # The next one ends as it starts.
        write(handlers, pid="import os\n\nos._exit(7)\n")
        os.kill(killed, signal.SIGKILL)
        serve.wait_for("a worker process ended", lambda line: line["exit_status"] == 7)
        assert path.exists()
        assert serve.end() == 0
    assert not path.exists()
