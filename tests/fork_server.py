"""Starts `coprocess …` for tests, as a copy of a process that has imported it. `tests/forked.py` runs this.

A start takes most of a second of CPU, nearly all of it imports. The fork server does them once, and builds
the command line once. It has one thread, and forks for each command. A copy takes on what a new process
would have been given (arguments, folder, environment, descriptors, process group), runs the command and
ends as any interpreter does. Its exit status goes to who asked for it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import inspect
import io
import json
import math
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any, NoReturn

Asked = dict[str, Any]

#: Told when a copy has become what it was asked for.
READY = 0

#: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_RIGHTS = (1, 2)

#: What commands import late, beside the package's own modules.
_LATE = (
    "encodings.idna",
    "redis.asyncio",
    "redis.asyncio.cluster",
    "redis.cluster",
    "uvloop",
    "wsgiref.simple_server",
)
#: Modules of the package that need more than it does, or that users import.
_LEFT_OUT = (
    "coprocess.testing",
    "coprocess.scaffold",
    "coprocess.__main__",
    "coprocess.process.trace_export",
    "coprocess.gateways.kong.stand_in",
)


def without_roots_rights() -> None:
    """For `preexec_fn`. Root may read and write whatever it wants, but for two capabilities."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in _RIGHTS:
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: for what it runs.
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        libc.capget(header, sets)
        for number in range(3):
            sets[number] &= ~sum(1 << capability for capability in _RIGHTS)
        libc.capset(header, sets)


class Channel:
    """To a fork server."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def start(self, asked: Asked, descriptors: Sequence[int]) -> socket.socket:
        """The socket that tells of the copy: its process id, READY, and when it has ended its wait status."""
        ours, theirs = socket.socketpair()
        body = json.dumps(asked).encode()
        with theirs:
            socket.send_fds(self._end, [len(body).to_bytes(8)], [theirs.fileno(), *descriptors])
            self._end.sendall(body)
        return ours


class Process(subprocess.Popen[Any]):
    """As subprocess.Popen, but a copy where `channel_for` says of which server."""

    #: `pass_fds` are sockets of a .socket unit.
    as_systemd = False
    _told: socket.socket | None = None

    def channel_for(self, words: list[str], environment: dict[str, str]) -> Channel | None:
        raise NotImplementedError

    def _execute_child(self, *values: Any) -> None:
        ask = inspect.signature(super()._execute_child).bind(*values).arguments  # type: ignore[misc]  # Private.
        words = [os.fsdecode(word) for word in ask["args"]] if isinstance(ask["args"], list) else []
        environment = dict(os.environ if ask["env"] is None else ask["env"])
        is_own = ask["preexec_fn"] not in (None, without_roots_rights) or ask["shell"]
        channel = None if is_own else self.channel_for(words, environment)
        if channel is None:
            super()._execute_child(*values)  # type: ignore[misc]  # As above.
            return
        streams = [ask["p2cread"], ask["c2pwrite"], ask["errwrite"]]
        pass_fds = list(ask["pass_fds"])
        asked = {
            "argv": words,
            "cwd": os.path.abspath(ask["cwd"] or "."),
            "env": environment,
            "group": os.getpgrp() if ask["process_group"] < 0 else ask["process_group"],
            "session": bool(ask["start_new_session"]),
            # As systemd does, where that is asked for: from descriptor 3 on, and told of in variables.
            "pass_fds": list(range(3, 3 + len(pass_fds))) if self.as_systemd else pass_fds,
            "as_systemd": self.as_systemd,
            "rights": ask["preexec_fn"] is None,
        }
        given = [number if stream < 0 else stream for number, stream in enumerate(streams)]
        self._told = channel.start(asked, given + pass_fds)
        self.pid, told = self._read(), self._read()
        if self.pid == READY:
            self.pid, told = told, self.pid
        assert told == READY, f"the copy ended with status {told} before it was ready"
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(ask[name] for name in names))  # type: ignore[attr-defined]  # As above.

    def _read(self) -> int:
        assert self._told is not None
        data = self._told.recv(8)
        assert data, "the fork server has ended"
        return int.from_bytes(data)

    def _has_ended(self, timeout_s: float | None) -> bool:
        """Waits so long."""
        assert self._told is not None
        waiting = select.poll()
        waiting.register(self._told, select.POLLIN)
        if not waiting.poll(None if timeout_s is None else max(0, math.ceil(timeout_s * 1000))):
            return self.returncode is not None
        with self._waitpid_lock:  # type: ignore[attr-defined]  # As above.
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(self._read())
                self._told.close()
        return True

    def _internal_poll(self, *values: Any, **options: Any) -> int | None:
        if self._told is None:
            status: int | None = super()._internal_poll(*values, **options)  # type: ignore[misc]  # As above.
            return status
        if self.returncode is None:
            self._has_ended(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._told is None:
            status: int = super()._wait(timeout)  # type: ignore[misc]  # As above.
            return status
        if self.returncode is None and not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode


class Server:
    """What it holds of its own is closed in a copy."""

    def __init__(self, asking: socket.socket, *, ends_copies: bool) -> None:
        """`ends_copies`: when who asked for them has ended."""
        self._asking = asking
        self._ends_copies = ends_copies
        #: Where wait statuses go, by process.
        self._told: dict[int, socket.socket] = {}
        self._awake, self._wake = socket.socketpair()
        self._awake.setblocking(False)
        self._wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> tuple[Asked, list[int], socket.socket]:
        """Returns in copies only: what one is to become, the descriptors that it was given, and who waits."""
        while True:
            ready, _, _ = select.select([self._asking, self._awake], [], [])
            if self._awake in ready:
                self._reap()
            if self._asking in ready:
                asked, descriptors = self._receive()
                told = socket.socket(fileno=descriptors.pop(0))
                pid = os.fork()
                if pid == 0:
                    self._close()
                    return asked, descriptors, told
                self._told[pid] = told
                with contextlib.suppress(OSError):
                    told.sendall(pid.to_bytes(8))
                for descriptor in descriptors:
                    os.close(descriptor)

    def _receive(self) -> tuple[Asked, list[int]]:
        size, descriptors, _, _ = socket.recv_fds(self._asking, 8, 64)
        if not size:
            self._end()
        body = b""
        while len(body) < int.from_bytes(size):
            body += self._asking.recv(int.from_bytes(size) - len(body))
        return json.loads(body), descriptors

    def _end(self) -> NoReturn:
        if self._ends_copies:
            for pid in self._told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        os._exit(0)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._awake.recv(4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with contextlib.suppress(OSError), self._told.pop(ended[0]) as told:
                    told.sendall(ended[1].to_bytes(8))

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for own in (self._asking, self._awake, self._wake, *self._told.values()):
            own.close()


def import_all() -> None:
    """What any command imports."""
    # Read at the import of grpc; commands set it before.
    os.environ["GRPC_VERBOSITY"] = "NONE"
    package = importlib.import_module("coprocess")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "coprocess.")]
    for name in [*names, *_LATE]:
        if not name.startswith(_LEFT_OUT):
            with contextlib.suppress(ImportError):  # Of an extra that is not installed.
                importlib.import_module(name)


def build_commands() -> None:
    """What any command line is made of, from the signatures of its functions: a third of a start's CPU."""
    commands: Any = importlib.import_module("coprocess.cli.app")
    make = commands.Commands.get_command
    made: dict[tuple[str, str], Any] = {}

    def get_command(group: Any, context: Any, name: str) -> Any:
        key = group.package, name
        if key not in made:
            made[key] = make(group, context, name)
        return made[key]

    commands.Commands.get_command = get_command
    waiting = [importlib.import_module("typer").main.get_command(commands.app)]
    while waiting:
        command = waiting.pop()
        for parameter in command.params:
            parameter.get_runtime_param()
        waiting += [command.get_command(None, name) for name in getattr(command, "commands", ())]


def become(asked: Asked, descriptors: list[int]) -> None:
    """All that a new process is given."""
    _place(descriptors, [0, 1, 2, *asked["pass_fds"]])
    if asked["session"]:
        os.setsid()
    else:
        os.setpgid(0, asked["group"])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    if asked["as_systemd"]:
        count, pid = str(len(asked["pass_fds"])), str(os.getpid())
        os.environ.pop("NOTIFY_SOCKET", None)
        os.environ.update(LISTEN_FDS=count, LISTEN_PID=pid, LISTEN_FDNAMES="one:two")
    _renew_streams()
    if not asked["rights"]:
        without_roots_rights()
    sys.orig_argv = asked["argv"]
    importlib.invalidate_caches()


def _place(descriptors: list[int], numbers: list[int]) -> None:
    first = max(256, *numbers, *descriptors) + 1
    aside = list(range(first, first + len(descriptors)))
    for descriptor, free in zip(descriptors, aside, strict=True):
        os.dup2(descriptor, free)
        os.close(descriptor)
    for free, number in zip(aside, numbers, strict=True):
        os.dup2(free, number, inheritable=True)
        os.close(free)


def _renew_streams() -> None:
    """As the interpreter makes them at its start."""
    unbuffered = sys.__stdout__.write_through  # type: ignore[union-attr]  # A text stream.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old, mode = getattr(sys, name), "w" if number else "r"
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        buffer: Any = raw
        if number == 0:
            buffer = io.BufferedReader(raw)
        elif not unbuffered:
            buffer = io.BufferedWriter(raw)
        new: Any = io.TextIOWrapper(
            buffer,
            old.encoding,
            old.errors,
            newline="\n" if number else None,
            line_buffering=not unbuffered and (number == 2 or raw.isatty()),
            write_through=number > 0 and unbuffered,
        )
        new.mode = mode
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def run(words: list[str]) -> None:
    """The command, as `python [-P] -m coprocess …` and `bin/coprocess …` do."""
    script, options = words[0], words[1:]
    is_safe_path = options[:1] == ["-P"]
    if is_safe_path:
        options.pop(0)
        del sys.path[0]
    as_module = options[:1] == ["-m"]
    if not is_safe_path:
        sys.path[0] = os.getcwd() if as_module else os.path.dirname(script)
    sys.argv = ["-m", *options[2:]] if as_module else words
    if as_module and options[1] != "coprocess":
        del sys.modules[options[1]]  # It runs as its own program.
    else:
        importlib.import_module("coprocess.early_signals")._take()
    if as_module:
        runpy.run_module(options[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(script, run_name="__main__")


def copy_workers_too() -> None:
    """This process, which has one thread still, gets a fork server of its own for them; it ends with it."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        _place([nothing, os.dup(nothing), os.dup(nothing)], [0, 1, 2])
        os.setpgid(0, 0)
        # Workers are to end by themselves.
        serve_and_run(theirs, ends_copies=False)
        sys.exit()
    theirs.close()
    channel = Channel(ours)

    class Worker(Process):
        def channel_for(self, words: list[str], environment: dict[str, str]) -> Channel:
            return channel

    module: Any = importlib.import_module("coprocess.process.worker_process")
    module.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": Worker})


def serve_and_run(asking: socket.socket, *, ends_copies: bool) -> None:
    asked, descriptors, told = Server(asking, ends_copies=ends_copies).serve()
    # Out of the way of the numbers that are asked for.
    waiting = socket.socket(fileno=fcntl.fcntl(told, fcntl.F_DUPFD_CLOEXEC, 512))
    told.close()
    become(asked, descriptors)
    waiting.sendall(READY.to_bytes(8))
    waiting.close()
    words = asked["argv"]
    if any(word.startswith("--workers") for word in words) and not any(
        "--worker-fd" in word for word in words
    ):
        copy_workers_too()
    try:
        run(words)
    except SystemExit as ended:
        # Services end in full: what they leave to the interpreter's end is to be seen.
        if "serve" not in words and (ended.code is None or isinstance(ended.code, int)):
            end_soon(ended.code or 0)
        raise


def end_soon(status: int) -> None:
    """End as an interpreter does, but take nothing apart: that would copy the memory of the fork server."""
    shutdown: Any = threading
    shutdown._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):  # Then the interpreter tells.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


if __name__ == "__main__":
    # The folder of tests is none of those where modules are found.
    sys.path[0] = os.devnull
    import_all()
    build_commands()
    gc.collect()
    gc.freeze()
    serve_and_run(socket.socket(fileno=int(sys.argv[1])), ends_copies=True)
