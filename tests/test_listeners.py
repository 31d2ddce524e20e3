"""Unix sockets as files: who may connect, and from when on."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coprocess.errors import ConfigError
from coprocess.process.settings_loading import load_settings
from coprocess.transport.engine import ListenError
from coprocess.transport.engines import EngineChoice
from coprocess.transport.listeners import SocketAccess, listen, remove_socket
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import ENGINES, PATIENCE_S, Client

IS_ROOT = os.geteuid() == 0
OWN_GROUP = grp.getgrgid(os.getegid()).gr_name
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may give files away")


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=stamping("one"))


def owner_of(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def bound_at(address: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(address.removeprefix("unix:"))
    bound.listen()
    return bound


def refusal(owner: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings({"unix_socket_owner": owner})
    return str(caught.value)


def test_nobody_gets_in_before_the_owner_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    seen: list[tuple[str, int]] = []

    def note(step: str) -> None:
        seen.append((step, owner_of(path)[0]))

    def bind(address: str) -> socket.socket:
        bound = bound_at(address)
        note("bound")
        return bound

    chown = os.chown

    def noting_chown(target: Any, uid: int, gid: int, **options: Any) -> None:
        note("user" if gid == -1 else "group")
        chown(target, uid, gid, **options)
        assert options == {"follow_symlinks": False}

    monkeypatch.setattr(os, "chown", noting_chown)
    with listen(f"unix:{path}", bind, SocketAccess(0o660, os.geteuid(), os.getegid())):
        assert seen == [("bound", 0), ("group", 0), ("user", 0o660)]
        assert owner_of(path) == (0o660, os.geteuid(), os.getegid())


def test_a_socket_that_cannot_be_given_away_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as root, whom the kernel would let do it."""
    path = tmp_path / "s"

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    bound: list[socket.socket] = []
    with pytest.raises(ListenError) as caught:
        listen(f"unix:{path}", lambda address: bound.append(bound_at(address)), SocketAccess(0o660, -1, 12))
    bound[0].close()
    assert str(caught.value) == (
        f"cannot listen on unix:{path}: the socket cannot be given mode 0660 and owner ':12': "
        "Operation not permitted"
    )
    assert not path.exists()


def test_a_service_that_may_not_give_sockets_away_does_not_start(tmp_path: Path, handlers: Path) -> None:
    without_right = []
    if IS_ROOT:
        if shutil.which("setpriv") is None:
            pytest.skip("root may give files away, and there is no setpriv to take that right")
        without_right = ["setpriv", "--bounding-set=-chown"]
    path, other = tmp_path / "s", "1" if IS_ROOT else "0"
    command = [*without_right, sys.executable, "-m", "coprocess", "serve", f"--handlers={handlers}"]
    command += [f"--listen=unix:{path}", f"--unix-socket-owner={other}", "--admin=off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    expected = f"owner '{other}': Operation not permitted"
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not path.exists()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("workers", [1, 2])
def test_sockets_of_a_service_have_the_owner(
    tmp_path: Path, handlers: Path, engine: EngineChoice, workers: int
) -> None:
    """Where the tests run as root, it is another user and group than the service's."""
    owner = "1:2" if IS_ROOT else f":{OWN_GROUP}"
    expected = (0o660, 1, 2) if IS_ROOT else (0o660, os.geteuid(), os.getegid())
    path, admin = tmp_path / "s", tmp_path / "a"
    flags = [f"--engine={engine}", f"--workers={workers}", f"--admin=unix:{admin}"]
    flags += ["--unix-socket-mode=0660", f"--unix-socket-owner={owner}"]
    with ServeProcess(handlers, *flags, listen=f"unix:{path}") as service:
        assert owner_of(path) == owner_of(admin) == expected
        with Client(f"unix:{path}") as client:
            client.dispatch(make_object(hook_name="stamp"))
        assert service.end() == 0
    assert not path.exists()
    assert not admin.exists()


@needs_root
def test_only_the_owner_can_connect() -> None:
    path = Path("/tmp", f"coprocess-test-{os.getpid()}.sock")  # noqa: S108 - one that others may enter
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
    with listen(f"unix:{path}", bound_at, SocketAccess(0o660, 1, 2)):
        try:
            ended = [
                subprocess.run(
                    ["/usr/bin/env", "python3", "-c", code],
                    user=user,
                    group=group,
                    extra_groups=[],
                    capture_output=True,
                    check=False,
                    cwd="/",
                )
                for user, group in ((1, 1), (3, 2), (3, 3))
            ]
        finally:
            path.unlink()
    assert [process.returncode for process in ended] == [0, 0, 1]
    assert b"PermissionError" in ended[2].stderr


@pytest.mark.parametrize("owner", ["no-such-user", "no-such-user:0", "0:no-such-group", ":no-such-group"])
def test_owners_must_exist(owner: str) -> None:
    kind = "user" if owner.startswith("no-such-user") else "group"
    assert refusal(owner) == f"--unix-socket-owner: no such {kind} on this machine: 'no-such-{kind}'"


@pytest.mark.parametrize("owner", ["", ":", "0:", "0:0:0", "4294967295", ":99999999999"])
def test_owners_are_checked(owner: str) -> None:
    assert refusal(owner).startswith("--unix-socket-owner: ")


@pytest.mark.parametrize("owner", ["0", "0:0", ":0", "4294967294"])
def test_owners_by_number_need_not_exist(owner: str) -> None:
    assert load_settings({"unix_socket_owner": owner}).unix_socket_owner == owner


def test_owners_by_name() -> None:
    user = pwd.getpwuid(0).pw_name
    assert load_settings({"unix_socket_owner": f"{user}:{OWN_GROUP}"}).unix_socket_owner


def test_only_the_socket_that_was_made_is_removed(tmp_path: Path) -> None:
    """Another service may have come, or somebody put a file there."""
    path = tmp_path / "s"
    address = f"unix:{path}"
    with listen(address, bound_at, SocketAccess()):
        path.unlink()
        path.write_text("a file")
        remove_socket(address)
        assert path.read_text() == "a file"
        path.unlink()
    with listen(address, bound_at, SocketAccess()):
        path.rename(tmp_path / "old")
        with bound_at(address):
            remove_socket(address)
            assert path.is_socket()
        path.unlink()
    with listen(address, bound_at, SocketAccess()):
        remove_socket(address)
        assert not path.exists()


def test_a_link_in_the_place_of_a_socket_is_refused_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with bound_at(f"unix:{target}"):
        pass
    (tmp_path / "s").symlink_to(target)
    with pytest.raises(ListenError, match="it is there, and no socket"):
        listen(f"unix:{tmp_path / 's'}", bound_at, SocketAccess())
    assert target.is_socket()


def test_a_path_that_is_too_long_for_a_socket_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"the path has \d+ bytes"):
        listen(f"unix:{tmp_path}/{'a' * 200}"[:260], bound_at, SocketAccess())
