"""A request to a service's admin listener, on a port or a unix socket."""

from __future__ import annotations

import http.client
import socket
from typing import Any

from coprocess.process.admin_access import COMMAND_HEADER


def ask(address: str, method: str, page: str, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of a page. `address` is HOST:PORT or unix:/path.

    Raises OSError where nothing answers, HTTPException where what answers does not speak HTTP.
    """
    connection = _connection(address, timeout_s)
    try:
        connection.request(method, page, headers={COMMAND_HEADER: "1"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def errors_of(page: dict[str, Any]) -> list[str]:
    """Why a service did not do what it was asked for, by its answer."""
    return page.get("errors") or [page.get("error", "no reason was given")]


def _connection(address: str, timeout_s: float) -> http.client.HTTPConnection:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), timeout_s)
    host, _, port = address.rpartition(":")
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
