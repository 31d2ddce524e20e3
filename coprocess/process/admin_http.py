"""HTTP of the admin listener, and of the one for webhooks: few clients, none of which can keep out another.

One loop reads requests and sends answers, so that a slow client costs a connection and no thread. Each of
both has a deadline as a whole. Where there are too many connections, the one that has been sending its
request for longest goes. Threads only make the pages, each page with its own, so that none waits for another.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
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

#: How long a client that was refused may go on sending its body, which nobody keeps.
_LINGER_S = 1.0

#: Says from a request's method, path and headers (names in lower case), before its body is read, what refuses
#: it: the status line and a sentence; None where the body may come.
Admit = Callable[[str, str, Mapping[str, str]], tuple[str, str] | None]

#: Is told of what the listener itself refuses: the status line and a sentence.
TellRefused = Callable[[str, str], object]


class _Phase(Enum):
    """What a connection is at."""

    READING = auto()
    ANSWERING = auto()
    WRITING = auto()
    #: It was told to go, and is about to.
    GONE = auto()


class AdminServer:
    """Listens from the start; answers when started. Raises ListenError."""

    def __init__(
        self,
        address: str,
        hosts: tuple[str, ...] = (),
        *,
        listener: str = "admin",
        threads: Mapping[str, int] = _THREADS,
        max_body_bytes: int = _MAX_BODY_BYTES,
        max_waiting: int = _MAX_WAITING,
        admit: Admit = lambda method, path, headers: None,
        tell_refused: TellRefused = lambda status, sentence: None,
    ) -> None:
        """`hosts`: further names by which requests may come; `listener`: what errors call it."""
        self._listener = listener
        self._max_body_bytes = max_body_bytes
        self._max_waiting = max_waiting
        self._admit = admit
        self._tell_refused = tell_refused
        self._socket, name = _listen(address, listener)
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
            path: ThreadPoolExecutor(number, f"{listener}{path}") for path, number in threads.items()
        }
        self._thread = threading.Thread(target=self._run, name=listener, daemon=True)

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
                length, refusal = self._look_at(head)
                body = b"" if refusal else await reader.readexactly(length)
            self._connections[writer] = _Phase.ANSWERING
            answer = refusal or await self._answer(head, body, writer)
            self._connections[writer] = _Phase.WRITING
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                if refusal:
                    await _linger(reader, writer, answer)
                    return
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

    def _look_at(self, head: bytes) -> tuple[int, bytes]:
        """How many bytes the body has, and what refuses the request before it is read; else empty."""
        line, *rest = head.decode("latin-1").split("\r\n")
        pairs = (each.partition(":") for each in rest)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if "transfer-encoding" in headers:
            return 0, self._refuse("411 Length Required", "the body must have a Content-Length")
        stated = headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdigit()):
            return 0, self._refuse("400 Bad Request", "Content-Length is no number")
        method, _, target = line.partition(" ")
        path = target.partition(" ")[0].partition("?")[0]
        if (refused := self._admit(method, path, headers)) is not None:
            return 0, _refusal(*refused)
        # The number may be longer than any that can be taken.
        if (length := int(stated[:20])) > self._max_body_bytes:
            sentence = f"the body is larger than {self._max_body_bytes} bytes"
            return 0, self._refuse("413 Content Too Large", sentence)
        return length, b""

    def _refuse(self, status: str, sentence: str) -> bytes:
        self._tell_refused(status, sentence)
        return _refusal(status, sentence)

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        assert self._pages is not None  # noqa: S101 - nothing is served before `start`
        peer = writer.get_extra_info("peername") or UNIX
        address = peer[0] if isinstance(peer, tuple) else UNIX
        request = _Request(head + body, address, self._environ, self._pages, self._listener)
        page = request.page if request.page in self._threads else ""
        if self._waiting[page] >= self._max_waiting:
            return self._refuse("503 Service Unavailable", "too many requests wait")
        self._waiting[page] += 1
        try:
            return await self._loop.run_in_executor(self._threads[page], request.answer)
        finally:
            self._waiting[page] -= 1


def _refusal(status: str, sentence: str) -> bytes:
    body = json.dumps({"error": sentence}).encode() + b"\n"
    head = f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Send `answer` to a client whose body is not wanted: it is dropped, as else the answer may be lost."""
    writer.write(answer)
    writer.write_eof()
    async with asyncio.timeout(_LINGER_S):
        while await reader.read(_MAX_HEAD_BYTES):
            pass


class _Request(WSGIRequestHandler):
    """A request that is there as a whole, and its answer."""

    def __init__(
        self, request: bytes, peer: str, environ: dict[str, Any], pages: WSGIApplication, listener: str
    ) -> None:
        self._listener = listener
        self.rfile, self._answer = io.BytesIO(request), io.BytesIO()
        self.wfile = self._answer
        self.client_address = (peer, 0)
        self.server: Any = SimpleNamespace(base_environ=environ, get_app=lambda: pages)
        self._errors = io.StringIO()
        line = request.partition(b"\r\n")[0].split(b" ")
        self.page = line[1].partition(b"?")[0].decode("latin-1") if len(line) > 1 else ""

    def answer(self) -> bytes:
        self.handle()
        if errors := self._errors.getvalue():
            log.error(f"an {self._listener} page failed", page=self.page[:100], errors=errors)
        return self._answer.getvalue()

    def get_stderr(self) -> io.StringIO:
        return self._errors

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """Probes and scrapes come every few seconds: nothing worth a line."""


def _listen(address: str, listener: str) -> tuple[socket.socket, str]:
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
        raise ListenError(f"{listener}: cannot listen on {address}: {reason}") from None
    listening.setblocking(False)
    return listening, host
