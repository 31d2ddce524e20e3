"""What commands ask of a service that runs on this machine."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from coprocess.cli.options import describe
from coprocess.errors import ConfigError, CoprocessError
from coprocess.process.admin_client import ask, errors_of
from coprocess.process.config import OFF
from coprocess.process.settings_loading import load_settings

# Longer than the service itself waits.
_TIMEOUT_S = 90.0

Admin = Annotated[str | None, typer.Option("--admin", metavar="ADDRESS", help=describe("admin"))]


def post(page: str, admin: str | None, config: Path | None) -> dict[str, Any]:
    """What the service answers to a POST of that admin page. Raises CoprocessError where none answers."""
    address = load_settings({"admin": admin}, config).admin
    if address == OFF:
        raise ConfigError("admin is off, so the service cannot be asked. Expected: an address")
    try:
        answer = json.loads(ask(address, "POST", page, _TIMEOUT_S)[1])
    except OSError as error:
        raise CoprocessError(f"admin: no service answers at {address}: {error.strerror or error}") from None
    except (http.client.HTTPException, ValueError):
        answer = None
    if not isinstance(answer, dict):
        raise CoprocessError(f"admin: what answers at {address} is not coprocess")
    return answer


def failure(command: str, page: dict[str, Any], so_it_is: str) -> CoprocessError:
    """What the answer `page` says of a command that was not done. `so_it_is`, where no worker has done it."""
    done = page.get("done_by_workers")
    head = f"{command} failed; {so_it_is}"
    if done:
        head = f"{command} failed in part: done by worker {', '.join(map(str, done))}, and not by others"
    return CoprocessError("\n".join([head, *errors_of(page)]))
