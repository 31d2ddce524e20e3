"""Clients of the admin pages that send slowly, or not at all, and come again when they are ended."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread

from tests.chaos.load import Figures
from tests.serve_process import ServeProcess, stamping, write

#: What a connection sends at first.
OPENINGS = (b"", b"GET /healthz HT", b"POST /reload HTTP/1.1\r\nContent-Length: 9\r\n\r\n")


def trial(folder: Path, engine: str, connections: int, *, pages: int) -> Figures:
    """Ask for so many pages beside so many connections that send a byte a time. Each must be given."""
    handlers = write(folder / "handlers", good=stamping("good"))
    with ExitStack() as at_end:
        service = at_end.enter_context(ServeProcess(handlers, f"--engine={engine}"))
        host, _, port = service.admin.rpartition(":")
        enough = Event()
        slow = Thread(target=_be_slow, args=((host, int(port)), connections, enough))
        slow.start()
        at_end.callback(slow.join)
        at_end.callback(enough.set)
        took_s = []
        for number in range(pages):
            started = time.monotonic()
            page = ("/healthz", "/metrics", "/readyz", "/hooks")[number % 4]
            assert service.http("GET", page)[0] == 200, page
            took_s.append(time.monotonic() - started)
    return {
        "engine": engine,
        "connections": connections,
        "pages": pages,
        "slowest_page_ms": round(max(took_s) * 1000),
    }


def _be_slow(address: tuple[str, int], number: int, enough: Event) -> None:
    opened: list[socket.socket] = []
    while not enough.wait(0.001):
        if len(opened) >= number:
            opened.pop(0).close()
        with suppress(OSError):
            client = socket.create_connection(address, timeout=1)
            opened.append(client)
            client.sendall(OPENINGS[len(opened) % len(OPENINGS)])
        for client in opened[:50]:
            with suppress(OSError):
                client.send(b"G", socket.MSG_DONTWAIT)
    for client in opened:
        client.close()
