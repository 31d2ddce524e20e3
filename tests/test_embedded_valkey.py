"""The embedded Valkey: started, shared, adopted, revived and stopped, with real processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from coprocess.errors import ConfigError, StoreError
from coprocess.store import Store
from coprocess.store.embedded import EmbeddedValkey, socket_path_in
from coprocess.store.last_user import takes
from tests.server import PATIENCE_S

SERVICE = """
import sys
from pathlib import Path
from coprocess.store import store, configure, close
configure(None, data_dir=Path(sys.argv[1]), fsync="always", timeout_s=50)
print("ready", flush=True)
for line in sys.stdin:
    verb, *arguments = line.split()
    print(getattr(store, verb)(*arguments), flush=True)
close()
print("closed", flush=True)
"""


def is_alive(pid: int) -> bool:
    """Whether this process runs; an ended one that nobody has waited for does not count."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return done.stdout.strip()[:1] not in (b"", b"Z")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory whose server is gone after the test, whatever happened."""
    # Not in tmp_path: only where the path is short does the server's socket lie in the data directory.
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short) / "with space" / ".coprocess"
        yield folder
        stop_leftover(folder)


def stop_leftover(folder: Path) -> None:
    pid = EmbeddedValkey(folder).pid
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def embedded_store(data_dir: Path, *, timeout_s: float = PATIENCE_S) -> Iterator[Store]:
    store = Store()
    store.configure(None, data_dir=data_dir, fsync="always", timeout_s=timeout_s)
    try:
        yield store
    finally:
        store.close()


class Service:
    """Another service, in a process of its own, that shares the data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def finish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.read() == "closed"
        assert self.process.wait(PATIENCE_S) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


@contextmanager
def another_service(data_dir: Path) -> Iterator[Service]:
    service = Service(data_dir)
    try:
        assert service.read() == "ready"
        yield service
    finally:
        service.kill()


def server_pid(data_dir: Path) -> int:
    pid = EmbeddedValkey(data_dir).pid
    assert pid is not None
    return pid


def test_data_survives_a_stop_and_the_last_user_stops_the_server(data_dir: Path) -> None:
    with embedded_store(data_dir) as store:
        assert store.describe() == f"embedded Valkey 9.1 in {data_dir} (unix socket)"
        store.set("k", "v")
        store.increment("n", 5)
        pid = server_pid(data_dir)
        assert is_alive(pid)
        folder = data_dir / "valkey"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "valkey.sock").stat().st_mode) == 0o700
    assert not is_alive(pid)
    with embedded_store(data_dir) as store:
        assert store.get("k") == b"v"
        assert asyncio.run(store.aio.increment("n")) == 6


def test_the_server_listens_on_its_socket_only_and_keeps_everything(data_dir: Path) -> None:
    from redis import Redis

    new_client: Any = Redis  # Through Any, as it has no annotations.
    with (
        embedded_store(data_dir),
        new_client(unix_socket_path=str(EmbeddedValkey(data_dir).socket_path)) as bare,
    ):
        settings = bare.config_get("*")
        assert settings["port"] == "0"
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "always"
        assert settings["save"] == ""
        assert settings["maxmemory-policy"] == "noeviction"
        # Its own session, so that a terminal's Ctrl-C does not reach it.
        assert os.getsid(server_pid(data_dir)) != os.getsid(0)


def test_always_is_also_set_on_a_server_that_runs_already(data_dir: Path) -> None:
    from redis import Redis

    new_client: Any = Redis
    lazy = Store()
    lazy.configure(None, data_dir=data_dir)
    with new_client(unix_socket_path=str(EmbeddedValkey(data_dir).socket_path)) as bare:
        assert bare.config_get("appendfsync") == {"appendfsync": "everysec"}
        with embedded_store(data_dir):
            assert bare.config_get("appendfsync") == {"appendfsync": "always"}
    lazy.close()


def test_two_services_share_one_server(data_dir: Path) -> None:
    with embedded_store(data_dir) as store:
        pid = server_pid(data_dir)
        with another_service(data_dir) as service:
            assert server_pid(data_dir) == pid
            store.set("k", "v")
            assert service.ask("get k") == "b'v'"
            service.finish()
        assert store.get("k") == b"v"
        with another_service(data_dir) as service:
            store.close()
            assert is_alive(pid)
            assert service.ask("get k") == "b'v'"
            service.finish()
    assert not is_alive(pid)


def test_services_that_start_together_start_one_server(data_dir: Path) -> None:
    services = [Service(data_dir) for _ in range(4)]
    try:
        assert [service.read() for service in services] == ["ready"] * 4
        for service in services:
            service.ask("increment n")
        assert services[0].ask("get n") == "b'4'"
        pid = server_pid(data_dir)
        for service in services:
            assert is_alive(pid)
            service.finish()
        assert not is_alive(pid)
        log = (data_dir / "valkey" / "valkey.log").read_text()
        assert log.count("Ready to accept connections") == 1
    finally:
        for service in services:
            service.kill()


def test_the_server_of_a_killed_service_is_adopted(data_dir: Path) -> None:
    with another_service(data_dir) as service:
        service.ask("set k v")
        pid = server_pid(data_dir)
        service.kill()
    assert is_alive(pid)
    with embedded_store(data_dir) as store:
        assert server_pid(data_dir) == pid
        assert store.get("k") == b"v"
    assert not is_alive(pid)


WATCH = """
import sys, time
from coprocess.store import last_user

def sleep(seconds):
    if seconds == look_s:
        print("looked", flush=True)
    wait(seconds)

wait, time.sleep = time.sleep, sleep
folder, socket_path, grace_s, look_s, last_user._REMOVAL_S = *sys.argv[1:3], *map(float, sys.argv[3:])
last_user.watch(folder, socket_path, grace_s, look_s)
"""


@contextmanager
def watching_over(
    data_dir: Path, *, grace_s: float, look_s: float, removal_s: float = 0.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A watch of the store's server, which has looked once."""
    lock = data_dir.resolve() / "valkey" / "watch.lock"
    lock.touch(0o600)
    places = [str(lock.parent), str(socket_path_in(lock.parent))]
    words = [sys.executable, "-c", WATCH, *places, *map(str, (grace_s, look_s, removal_s))]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == b"looked\n"
        yield watching


def test_the_server_of_a_killed_service_is_stopped_where_none_follows(data_dir: Path) -> None:
    with another_service(data_dir) as service:
        service.ask("set k v")
        pid = server_pid(data_dir)
        with watching_over(data_dir, grace_s=1, look_s=0.1) as watching:
            with another_service(data_dir) as following:
                service.kill()
                time.sleep(1.3)  # As long as the watch would wait for somebody, and more.
                assert is_alive(pid)
                following.kill()
            assert watching.wait(PATIENCE_S) == 0
        wait_until(lambda: not is_alive(pid))
    with embedded_store(data_dir) as store:
        assert store.get("k") == b"v"


def test_the_server_of_a_killed_service_is_stopped_though_its_folder_was_removed(data_dir: Path) -> None:
    """Its socket was gone, and so nobody could tell it to stop: it stayed for ever."""
    with another_service(data_dir) as service:
        service.ask("set k v")
        pid = server_pid(data_dir)
        with watching_over(data_dir, grace_s=1, look_s=0.1) as watching:
            service.kill()
            shutil.rmtree(data_dir / "valkey")
            assert watching.wait(PATIENCE_S) == 0
        wait_until(lambda: not is_alive(pid))


def test_a_server_whose_folder_was_removed_ends_with_its_last_user(data_dir: Path) -> None:
    """Without a watch nobody could tell it to stop, and it stayed for ever."""
    first, last = Store(), Store()
    for each in (first, last):
        each.configure(None, data_dir=data_dir)
    pid = server_pid(data_dir)
    shutil.rmtree(data_dir / "valkey")
    first.close()
    assert is_alive(pid)
    last.close()
    wait_until(lambda: not is_alive(pid))


def test_a_folder_made_anew_keeps_its_new_server_when_the_old_ones_user_ends(data_dir: Path) -> None:
    old = Store()
    old.configure(None, data_dir=data_dir)
    pid = server_pid(data_dir)
    shutil.rmtree(data_dir / "valkey")
    with embedded_store(data_dir) as new:
        new.set("k", "v")
        old.close()
        wait_until(lambda: not is_alive(pid))
        # An old server that is told to stop removes the socket of that name.
        assert (data_dir / "valkey" / "valkey.sock").exists()
        with another_service(data_dir) as service:
            assert service.ask("get k") == "b'v'"


def test_the_watch_of_a_folder_that_was_made_anew_stops_its_own_server(data_dir: Path) -> None:
    """It stopped the new one, which was in use, and left its own for ever."""
    with another_service(data_dir) as service:
        pid = server_pid(data_dir)
        with watching_over(data_dir, grace_s=0.1, look_s=0.05) as watching:
            shutil.rmtree(data_dir / "valkey")
            with embedded_store(data_dir) as new:
                new.set("k", "v")
                service.kill()
                assert watching.wait(PATIENCE_S) == 0
                wait_until(lambda: not is_alive(pid))
                assert is_alive(server_pid(data_dir))
                assert (data_dir / "valkey" / "valkey.sock").exists()


RUN = """
import sys, time
from pathlib import Path
from coprocess.desk.store import TemporaryServer
from tests.valkey import ValkeyProcess

folder = Path(sys.argv[1])
server = TemporaryServer(folder)
bare = ValkeyProcess(folder / "bare")
bare.start()
print(server._server.pid, bare.pid, flush=True)
time.sleep(3600)
"""


def test_the_servers_of_a_killed_test_run_end_with_it(data_dir: Path) -> None:
    """Once they stayed: what should have ended them was killed with the group, or nobody was to."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(data_dir)],
        stdout=subprocess.PIPE,
        process_group=0,
        cwd=Path(__file__).parents[1],
    ) as run:
        assert run.stdout is not None
        pids = [int(word) for word in run.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        os.killpg(run.pid, signal.SIGKILL)
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]  # mypy infers no type for it


def test_a_watched_server_has_one_watch_that_ends_with_it(data_dir: Path) -> None:
    lazy = Store()
    lazy.configure(None, data_dir=data_dir, watched=True)

    def is_watched() -> bool:
        ran = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
        return any(str(data_dir) in line and "last_user.py" in line for line in ran.stdout.splitlines())

    wait_until(is_watched)
    lazy.close()
    wait_until(lambda: not is_watched())


def test_a_dead_servers_socket_does_not_confuse(data_dir: Path) -> None:
    with another_service(data_dir) as service:
        service.ask("set k v")
        pid = server_pid(data_dir)
        service.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    assert (data_dir / "valkey" / "valkey.sock").exists()
    with embedded_store(data_dir) as store:
        assert store.get("k") == b"v"
        assert server_pid(data_dir) != pid


def test_a_server_that_ends_while_another_service_starts_is_followed_by_a_new_one(data_dir: Path) -> None:
    """Its threads hold the lock a little longer than it is there: the service took that for its own's end."""
    with embedded_store(data_dir) as store:
        store.set("k", "v")
    lock = os.open(data_dir / "valkey" / "server.lock", os.O_RDWR)
    until_free = time.monotonic() + PATIENCE_S
    while not takes(lock) and time.monotonic() < until_free:
        time.sleep(0.01)
    ends = threading.Timer(0.3, os.close, [lock])
    ends.start()
    with embedded_store(data_dir) as store:
        assert store.get("k") == b"v"
    ends.join()


def test_a_killed_server_is_revived_with_its_data(data_dir: Path) -> None:
    with embedded_store(data_dir) as store:
        store.set("k", "v")
        reads: list[Callable[[], bytes | None]] = [
            lambda: store.get("k"),
            lambda: asyncio.run(store.aio.get("k")),
        ]
        for read in reads:
            pid = server_pid(data_dir)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc] # lambda's default

            def comes_back() -> bool:
                started = time.monotonic()
                try:
                    return read() == b"v"  # noqa: B023 - called in this turn
                except StoreError:
                    assert time.monotonic() - started < PATIENCE_S
                    return False

            wait_until(comes_back)
            assert server_pid(data_dir) != pid


def test_a_frozen_server_is_not_replaced(data_dir: Path) -> None:
    with embedded_store(data_dir) as store, embedded_store(data_dir, timeout_s=0.5) as hasty:
        store.set("k", "v")
        pid = server_pid(data_dir)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="no answer within"):
                hasty.get("k")
            late = EmbeddedValkey(data_dir, start_timeout_s=0.3)
            with pytest.raises(StoreError, match="runs but does not answer"):
                late.start()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert store.get("k") == b"v"
        assert server_pid(data_dir) == pid


@pytest.fixture
def long_data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose path is too long for a socket in it."""
    folder = tmp_path / ("long" * 30)
    yield folder
    stop_leftover(folder)


def socket_folder_of(data_dir: Path) -> Path:
    server = EmbeddedValkey(data_dir)
    server.start()
    try:
        return server.socket_path.parent
    finally:
        server.close()


def test_a_long_path(long_data_dir: Path) -> None:
    with embedded_store(long_data_dir) as store:
        place = EmbeddedValkey(long_data_dir)
        place.start()
        assert len(os.fsencode(place.socket_path)) < 104
        assert stat.S_IMODE(place.socket_path.parent.stat().st_mode) == 0o700
        place.close()
        store.set("k", "v")
        with another_service(long_data_dir) as service:
            assert service.ask("get k") == "b'v'"
            service.finish()
    with embedded_store(long_data_dir) as store:
        assert store.get("k") == b"v"


def test_the_last_user_removes_the_folder_of_a_socket(long_data_dir: Path) -> None:
    """Each data directory with a long path left an empty folder among the temporary ones."""
    with embedded_store(long_data_dir):
        place = socket_folder_of(long_data_dir)
        assert place != long_data_dir / "valkey"
        assert (place / "valkey.sock").exists()
    assert not place.exists()


def test_a_start_that_fails_leaves_no_folder_of_a_socket(
    long_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = socket_folder_of(long_data_dir)
    monkeypatch.setattr("platform.machine", lambda: "mainframe")
    with pytest.raises(ConfigError, match="no embedded Valkey server"):
        EmbeddedValkey(long_data_dir).start()
    assert not place.exists()


@pytest.mark.parametrize("ends", ["the service", "the service and its server", "the service and its data"])
def test_the_watch_removes_the_folder_of_a_socket(long_data_dir: Path, ends: str) -> None:
    with another_service(long_data_dir) as service:
        place = socket_folder_of(long_data_dir)
        with watching_over(long_data_dir, grace_s=0.1, look_s=0.05, removal_s=PATIENCE_S) as watching:
            pid = server_pid(long_data_dir)
            service.kill()
            if ends == "the service and its server":
                os.kill(pid, signal.SIGKILL)
            elif ends == "the service and its data":
                shutil.rmtree(long_data_dir)
            assert watching.wait(PATIENCE_S) == 0
    wait_until(lambda: not is_alive(pid))
    assert not place.exists()


def test_the_watch_removes_the_folder_of_a_socket_though_the_data_is_still_being_removed(
    long_data_dir: Path,
) -> None:
    """Who removes a folder takes its files one by one: it was there yet, and the socket's stayed for ever."""
    with another_service(long_data_dir) as service:
        place = socket_folder_of(long_data_dir)
        with watching_over(long_data_dir, grace_s=0.1, look_s=0.05, removal_s=PATIENCE_S) as watching:
            pid = server_pid(long_data_dir)
            (long_data_dir / "valkey" / "server.lock").unlink()
            service.kill()
            wait_until(lambda: not is_alive(pid))
            shutil.rmtree(long_data_dir)
            assert watching.wait(PATIENCE_S) == 0
    assert not place.exists()


def test_services_that_start_while_others_end_keep_the_folder_of_their_socket(long_data_dir: Path) -> None:
    """The last user removes it: never from under one that starts."""
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(15):
                with embedded_store(long_data_dir) as store:
                    store.set("k", "v")
        except Exception as error:  # noqa: BLE001 - whatever it is, a user lost its store
            failures.append(error)

    users = [threading.Thread(target=come_and_go) for _ in range(3)]
    for each in users:
        each.start()
    for each in users:
        each.join(PATIENCE_S)
    assert failures == []


def test_a_revived_server_has_the_folder_of_its_socket_again(long_data_dir: Path) -> None:
    """Whoever clears the temporary folder takes one whose server is gone."""
    server = EmbeddedValkey(long_data_dir)
    server.start()
    pid = server_pid(long_data_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    shutil.rmtree(server.socket_path.parent)
    wait_until(lambda: server.revive(PATIENCE_S))
    server.close()


def test_a_private_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    private = socket_path_in(data_dir.resolve() / "valkey").parent
    try:
        private.chmod(0o755)
        with pytest.raises(ConfigError, match="only this user"):
            EmbeddedValkey(data_dir).start()
    finally:
        private.rmdir()


def test_a_forked_child_does_not_stop_the_server(data_dir: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from coprocess.store import store, configure, close
configure(None, data_dir=Path(sys.argv[1]), timeout_s=50)
child = os.fork()
if child == 0:
    store.set("k", "from the child")
    close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert store.get_text("k") == "from the child"
close()
"""
    subprocess.run(
        [sys.executable, "-c", program, str(data_dir)],
        check=True,
        timeout=PATIENCE_S,
        cwd=Path(__file__).parents[1],
    )
    assert EmbeddedValkey(data_dir).pid is None


def test_a_server_that_ends_at_start_says_why(data_dir: Path) -> None:
    with embedded_store(data_dir) as store:
        store.set("k", "v")
    for part in (data_dir / "valkey" / "appendonlydir").glob("*.manifest"):
        part.write_text("nonsense\n")
    with pytest.raises(StoreError, match=r"(?s)--redis URL.*manifest"):
        Store().configure(None, data_dir=data_dir)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--redis URL"):
        EmbeddedValkey(tmp_path / "file").start()


def test_an_unsupported_platform(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    with pytest.raises(ConfigError, match=r"pdp11.*--redis URL"):
        EmbeddedValkey(data_dir).start()


def test_fsync_is_checked() -> None:
    with pytest.raises(ConfigError, match="fsync"):
        EmbeddedValkey(Path(), fsync="never")  # type: ignore[arg-type] # the wrong value is what is tested


@pytest.mark.parametrize("name", ["valkey.log", "start.lock", "users.lock", "server.lock", "valkey.pid", "x"])
def test_a_link_in_its_folder_is_refused_and_not_followed(data_dir: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.write_text("somebody else's")
    target.chmod(0o644)
    folder = data_dir.resolve() / "valkey"
    folder.mkdir(parents=True)
    (folder / name).symlink_to(target)

    with pytest.raises(ConfigError, match=f"{name}: is a link, to {target}"):
        EmbeddedValkey(data_dir).start()

    assert target.read_text() == "somebody else's"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_folder_that_is_a_link_is_refused_and_keeps_its_mode(data_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    data_dir.mkdir(parents=True)
    (data_dir / "valkey").symlink_to(target)

    with pytest.raises(ConfigError, match="valkey: is a link"):
        EmbeddedValkey(data_dir).start()

    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert not list(target.iterdir())


def test_links_further_down_and_hard_links_are_refused(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir.resolve() / "valkey"
    (folder / "appendonlydir").mkdir(parents=True)
    link = folder / "appendonlydir" / "appendonly.aof.1.incr.aof"
    link.symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"incr\.aof: is a link"):
        EmbeddedValkey(data_dir).start()
    link.unlink()
    (folder / "one").write_text("x")
    os.link(folder / "one", data_dir / "two")
    with pytest.raises(ConfigError, match="one: is a hard link"):
        EmbeddedValkey(data_dir).start()


def test_a_folder_of_somebody_else_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data_dir / "valkey").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to user"):
        EmbeddedValkey(data_dir).start()


def test_a_start_that_fails_shows_its_own_log_and_no_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "valkey"
    broken = folder / "appendonlydir"
    broken.mkdir(parents=True)
    (broken / "appendonly.aof.manifest").write_text("nonsense\n")
    (folder / "valkey.log").write_text("a line of another day\n")
    with pytest.raises(StoreError, match="manifest") as error:
        EmbeddedValkey(tmp_path).start()
    assert "another day" not in str(error.value)


def test_a_full_disk_is_named_where_not_even_a_log_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 16, 0, 0, 16, 0, 0, 0, 255))
    # By its module: `coprocess.store` is the store.
    monkeypatch.setattr(sys.modules[EmbeddedValkey.__module__], "find_binary", lambda: Path("/bin/false"))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(StoreError, match=f"no space is left on the disk of {tmp_path}/valkey"):
        EmbeddedValkey(tmp_path).start()
