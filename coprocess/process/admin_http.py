"""The admin listener's HTTP: few clients, none of which can keep out another.

One loop reads requests and sends answers, so that a slow client costs a connection and no thread. Each of
both has a deadline as a whole. Where there are too many connections, the one that has been sending its
request for longest goes. Threads only make the pages, each page with its own, so that none waits for another.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import WSGIApplication

import structlog

from coprocess.process.admin_access import NAMES, UNIX
from coprocess.transport import listeners
from coprocess.transport.engine import ListenError

log = structlog.get_logger("coprocess")

_MAX_CONNECTIONS = 256
_MAX_HEAD_BYTES = 16 * 1024
_MAX_BODY_BYTES = 64 * 1024
#: Requests of one page that wait for a thread, or have one.
_MAX_WAITING = 32
_BACKLOG = 128
_READ_TIMEOUT_S = 5.0
_WRITE_TIMEOUT_S = 10.0

#: Threads by page. `/healthz` waits for nobody, and a command may take a minute.
_THREADS = {"/healthz": 1, "/readyz": 2, "/metrics": 4, "/reload": 2, "/rollback": 2, "": 4}

_REFUSED = b"HTTP/1.0 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Phase(Enum):
    """What a connection is at."""

    READING = auto()
    ANSWERING = auto()
    WRITING = auto()
    #: It was told to go, and is about to.
    GONE = auto()


class AdminServer:
    """Listens from the start; answers when started. Raises ListenError."""

    def __init__(self, address: str, hosts: tuple[str, ...] = ()) -> None:
        """`hosts`: further names by which requests may come."""
        self._socket, name = _listen(address)
        self.address = address
        if name != UNIX:
            self.address = f"{address.rpartition(':')[0]}:{self._socket.getsockname()[1]}"
        self._environ = {
            "SERVER_NAME": name,
            "SERVER_PORT": self.address.rpartition(":")[2],
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            NAMES: frozenset(host.lower() for host in (name, *hosts)),
        }
        self._pages: WSGIApplication | None = None
        self._loop = asyncio.SelectorEventLoop()
        # Nobody is helped by a line for each client that goes away in the middle.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._stop = asyncio.Event()
        #: In the order in which they came.
        self._connections: dict[asyncio.StreamWriter, _Phase] = {}
        self._waiting: Counter[str] = Counter()
        self._threads = {
            path: ThreadPoolExecutor(number, f"admin{path}") for path, number in _THREADS.items()
        }
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self, pages: WSGIApplication) -> None:
        self._pages = pages
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._socket.close()
        self._loop.close()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        listeners.remove_socket(self.address)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        # They get to know of it.
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self) -> None:
        # A socket's file is removed by `close`, where it is still ours.
        options: dict[str, Any] = {"sock": self._socket, "limit": _MAX_HEAD_BYTES, "backlog": _BACKLOG}
        server = await asyncio.start_server(self._attend, **options)
        await self._stop.wait()
        server.close()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._make_room()
        self._connections[writer] = _Phase.READING
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                answer = await _read_body(reader, head)
            self._connections[writer] = _Phase.ANSWERING
            answer = answer or await self._answer(head, writer)
            self._connections[writer] = _Phase.WRITING
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                writer.write(answer)
                # Closing sends what is left, and waits for that.
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            del self._connections[writer]
            writer.transport.abort()

    def _make_room(self) -> None:
        if len(self._connections) < _MAX_CONNECTIONS:
            return
        for phase in (_Phase.READING, _Phase.WRITING, _Phase.ANSWERING):
            for writer, its_phase in self._connections.items():
                if its_phase is phase:
                    self._connections[writer] = _Phase.GONE
                    writer.transport.abort()
                    return

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bytes:
        assert self._pages is not None  # noqa: S101 - nothing is served before `start`
        peer = writer.get_extra_info("peername") or UNIX
        request = _Request(head, peer[0] if isinstance(peer, tuple) else UNIX, self._environ, self._pages)
        page = request.page if request.page in self._threads else ""
        if self._waiting[page] >= _MAX_WAITING:
            return _REFUSED % b"503 Service Unavailable"
        self._waiting[page] += 1
        try:
            return await self._loop.run_in_executor(self._threads[page], request.answer)
        finally:
            self._waiting[page] -= 1


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes | None:
    """Take the body, of which nobody reads anything: else the answer may be lost. Or give what refuses it."""
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"transfer-encoding":
            return _REFUSED % b"411 Length Required"
        if name.strip().lower() == b"content-length":
            if not value.strip().isdigit():
                return _REFUSED % b"400 Bad Request"
            # The number may be longer than any that can be taken.
            length = int(value.strip()[:20])
    if length > _MAX_BODY_BYTES:
        return _REFUSED % b"413 Content Too Large"
    await reader.readexactly(length)
    return None


class _Request(WSGIRequestHandler):
    """A request that is there as a whole, and its answer."""

    def __init__(self, head: bytes, peer: str, environ: dict[str, Any], pages: WSGIApplication) -> None:
        self.rfile, self._answer = io.BytesIO(head), io.BytesIO()
        self.wfile = self._answer
        self.client_address = (peer, 0)
        self.server: Any = SimpleNamespace(base_environ=environ, get_app=lambda: pages)
        self._errors = io.StringIO()
        line = head.partition(b"\r\n")[0].split(b" ")
        self.page = line[1].partition(b"?")[0].decode("latin-1") if len(line) > 1 else ""

    def answer(self) -> bytes:
        self.handle()
        if errors := self._errors.getvalue():
            log.error("an admin page failed", page=self.page[:100], errors=errors)
        return self._answer.getvalue()

    def get_stderr(self) -> io.StringIO:
        return self._errors

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """Probes and scrapes come every few seconds: nothing worth a line."""


def _listen(address: str) -> tuple[socket.socket, str]:
    """A socket that listens at `address`, and the host's name there."""
    is_unix = address.startswith("unix:")
    host = UNIX if is_unix else address.rpartition(":")[0].strip("[]")
    family = socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        if is_unix:
            listening.bind(address.removeprefix("unix:"))
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, int(address.rpartition(":")[2])))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        # A host's name that is not known has an error number of another kind.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ListenError(f"admin: cannot listen on {address}: {reason}") from None
    listening.setblocking(False)
    return listening, host
