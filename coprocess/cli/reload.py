"""`coprocess reload`."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Annotated, Any

import typer

from coprocess.cli.options import Config, describe
from coprocess.config import OFF, load_settings
from coprocess.errors import ConfigError, CoprocessError

# Longer than the service itself waits.
_TIMEOUT_S = 90.0


def reload(
    admin: Annotated[str | None, typer.Option("--admin", metavar="ADDRESS", help=describe("admin"))] = None,
    config: Config = None,
) -> None:
    """Have the service that runs on this machine load its handlers again. Exit status 1 where that fails."""
    address = load_settings({"admin": admin}, config).admin
    if address == OFF:
        raise ConfigError("admin is off, so the service cannot be asked. Expected: an address, or use SIGHUP")
    page = _post_reload(address)
    if not page.get("succeeded"):
        reasons = page.get("errors") or [page.get("error", "no reason was given")]
        raise CoprocessError("\n".join(["reload failed; the handlers from before serve on", *reasons]))
    typer.echo(f"reloaded: {page['hooks']} hooks")


def _post_reload(address: str) -> dict[str, Any]:
    connection = _UnixConnection(address) if address.startswith("unix:") else _tcp_connection(address)
    try:
        connection.request("POST", "/reload")
        page = json.loads(connection.getresponse().read())
    except OSError as error:
        raise CoprocessError(f"admin: no service answers at {address}: {error.strerror or error}") from None
    except (http.client.HTTPException, ValueError):
        raise CoprocessError(f"admin: what answers at {address} is not coprocess") from None
    finally:
        connection.close()
    if not isinstance(page, dict):
        raise CoprocessError(f"admin: what answers at {address} is not coprocess")
    return page


def _tcp_connection(address: str) -> http.client.HTTPConnection:
    host, _, port = address.rpartition(":")
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = address.removeprefix("unix:")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
