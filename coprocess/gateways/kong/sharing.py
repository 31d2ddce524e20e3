"""Several processes as one plugin server: who takes connections, and what the processes know of each other.

The front takes what connects, and gives it to a worker for good. Kong knows instances by ids and asks for
them on any connection, so their configurations lie in a folder that all workers read. A step that comes on
a connection of another worker's goes, with the connection, to the worker whose event it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.answers import UNSENDABLE
from coprocess.gateways.kong.balance import Loads
from coprocess.gateways.kong.instances import Instance, Instances
from coprocess.gateways.kong.left_behind import LeftBehind
from coprocess.gateways.kong.overdue import MOST_QUEUED_S
from coprocess.gateways.kong.spare import Spare
from coprocess.runtime.log_limit import LimitedLog
from coprocess.transport.engine import EngineWithoutHandlers, ListenError, Methods

log = structlog.get_logger("coprocess")

_BACKLOG = 4096
#: Between attempts where no worker takes a connection.
_PAUSE_S = 0.05
#: For what another process of ours can do at once.
_SEND_WAIT_S = 5.0
#: What the taker of a connection answers.
_TAKEN = b"\1"
#: Kong counts in floats: below 2^53 they are exact.
_MOST_ID = 2**52


class Share:
    """A worker's place among the others, in a folder that only this user enters."""

    def __init__(self, folder: Path, number: int, count: int) -> None:
        self.folder = folder
        self.number = number
        self.count = count

    def loads(self) -> Loads:
        return Loads(self.folder / "kong-loads", self.number, self.count)

    def listen(self) -> socket.socket:
        """Where this worker takes connections."""
        path = _place(self.folder, self.number)
        path.unlink(missing_ok=True)  # Of the worker before it.
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen(_BACKLOG)
        return listening

    def first_id(self, least: int) -> int:
        """Of this worker's events; those after it are `count` more each."""
        return least * self.count + self.number

    def owner_of(self, event_id: int) -> int:
        """The number of the worker that has this event."""
        return event_id % self.count

    def give(self, owner: int, connected: socket.socket, value: Any) -> bool:
        """Give a connection, and what has come on it, to another worker. False where that takes none."""
        try:
            came = wire.pack(value)
        except UNSENDABLE:  # Some releases of msgpack read what is nested deeper than they write.
            return False
        return _give(_place(self.folder, owner), connected, came)


def _place(folder: Path, number: int) -> Path:
    return folder / f"kong-{number}.sock"


def _give(path: Path, connected: socket.socket, came: bytes = b"") -> bool:
    """False where the other process does not take it, as it ends; or where no more files may be open here."""
    try:
        other = socket.socket(socket.AF_UNIX)
    except OSError:
        return False
    with other:
        other.settimeout(_SEND_WAIT_S)
        try:
            other.connect(str(path))
            socket.send_fds(other, [b"\0"], [connected.fileno()])
            other.sendall(came)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        try:
            return other.recv(1) == _TAKEN
        except TimeoutError:
            return True  # It hangs, and may take it yet: of two that read, neither would get all.
        except OSError:
            return False


def take(
    from_other: socket.socket, max_frame_bytes: int = wire.DEFAULT_MAX_FRAME_BYTES
) -> tuple[socket.socket, Any] | None:
    """What `_give` sends: the connection, and what has come on it; None: nothing has, as it is new.

    None where the other process ended meanwhile, or sends what is no value: it has the connection then.
    """
    from_other.settimeout(_SEND_WAIT_S)
    connected: socket.socket | None = None
    try:
        _, descriptors, _, _ = socket.recv_fds(from_other, 1, 1)
        if not descriptors:
            return None
        connected = socket.socket(fileno=descriptors[0])
        came = b"".join(iter(lambda: from_other.recv(65536), b""))
        value = wire.Reader(max_frame_bytes).feed(came)[0] if came else None
        with contextlib.suppress(OSError):
            # Where nobody hears it, the other waits no more, and has closed its own: it is this one's alone.
            from_other.sendall(_TAKEN)
        return connected, value
    except (OSError, IndexError, wire.FrameError):
        if connected is not None:
            connected.close()
        return None


class SharedInstances(Instances):
    """Those that any worker has started: another reads how when Kong asks for one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def _next_id(self) -> int:
        return secrets.randbelow(_MOST_ID)

    def add(self, instance: Instance) -> Instance:
        added = super().add(instance)
        path = self._path(added.id)
        beside = path.with_suffix(".new")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump([added.plugin_name, added.config], file)
        beside.rename(path)
        # Others close instances, too.
        for each in list(self._by_id):
            if not self._path(each).exists():
                self._by_id.pop(each, None)
        return added

    def find(self, instance_id: Any) -> Instance | None:
        return super().find(instance_id) or self._read(instance_id)

    def close(self, instance_id: Any) -> Instance | None:
        instance = self.find(instance_id)
        if instance is not None:
            super().close(instance_id)
            self._path(instance_id).unlink(missing_ok=True)
        return instance

    def _forget(self, instance_id: Any) -> None:
        super()._forget(instance_id)
        self._path(instance_id).unlink(missing_ok=True)

    def _read(self, instance_id: Any) -> Instance | None:
        if type(instance_id) is not int:
            return None
        try:
            name, config = json.loads(self._path(instance_id).read_text())
        except (OSError, ValueError):
            return None
        instance = Instance(name, config)
        instance.id = instance_id
        # Where two threads do so at one time, both get the same.
        return self._by_id.setdefault(instance_id, instance)

    def _path(self, instance_id: Any) -> Path:
        return self._folder / f"instance-{instance_id}.json"


class Front(EngineWithoutHandlers):
    """Takes Kong's connections and gives them to the workers, in turn."""

    name = "kong"

    takes_over = True

    def __init__(
        self,
        folder: Path,
        workers: int,
        ready: Callable[[], Sequence[bool]],
        pids: Callable[[], Sequence[int]],
    ) -> None:
        """`ready` tells of each worker whether it is heard of, `pids` which ones live."""
        self._folder = folder
        self._workers = workers
        self._ready = ready
        self._listening: list[socket.socket] = []
        self._stopped = threading.Event()
        self._left_behind = LeftBehind(pids)
        self.most_queued_s = MOST_QUEUED_S
        #: Since when no worker takes connections.
        self._none_since_s: float | None = None
        self._log = LimitedLog(log)
        self._next = 0
        self._lock = threading.Lock()

    def listen(self, address: str) -> str:
        self._listening.append(listen_at(address))
        return address

    def start(self, methods: Methods) -> None:
        self._left_behind.start()
        for listening in self._listening:
            threading.Thread(target=self._accept, args=(listening,), name="kong-front", daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        spare, comes = Spare(), select.poll()
        comes.register(listening, select.POLLIN)
        while not self._stopped.is_set():
            try:
                comes.poll()  # Else accept could tell of a full table before anybody comes.
                connected, _ = listening.accept()
            except OSError as error:
                if not self._stopped.is_set():
                    text = "a connection could not be taken"
                    self._log.write("error", "not taken", text, reason=str(error))
                    if not spare.refuse_next(listening, error):
                        self._stopped.wait(_PAUSE_S)
                continue
            with connected:
                self._give_in_time(connected)
            self._log.end_window()
        spare.close()

    def _give_in_time(self, connected: socket.socket) -> None:
        """It waits for a worker, rather than to be closed, and is refused in the end: Kong lets by else.

        Those behind it wait no longer than the first one.
        """
        while not self._stopped.is_set():
            if self._give_to_one(connected):
                self._none_since_s = None
                self._left_behind.keep(connected)
                return
            now_s = time.monotonic()
            since_s = self._none_since_s = self._none_since_s or now_s
            if now_s - since_s > self.most_queued_s:
                text = "no worker takes a connection: it is refused"
                self._log.write("error", "refused", text, waited_s=self.most_queued_s)
                self._left_behind.refuse(connected)
                return
            self._stopped.wait(_PAUSE_S)

    def _give_to_one(self, connected: socket.socket) -> bool:
        with self._lock:
            first, self._next = self._next, self._next + 1
        ready = self._ready()
        for each in range(self._workers):
            number = (first + each) % self._workers
            if number < len(ready) and ready[number] and _give(_place(self._folder, number), connected):
                return True
        return False

    def stop(self) -> None:
        self._stopped.set()
        self._left_behind.stop()
        for listening in self._listening:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # Who waits for a connection is woken.
            listening.close()


def listen_at(address: str) -> socket.socket:
    """Raises ListenError."""
    if not address.startswith("unix:"):
        raise ListenError(f"cannot listen on {address}. Expected: unix:/path, as Kong connects to no other")
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(address.removeprefix("unix:"))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from None
    return listening
