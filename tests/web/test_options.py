"""What a Middleware refuses when it is made, and not at a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coprocess import Pre
from coprocess.errors import ConfigError
from coprocess.wsgi import Middleware


def site(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout_s": "3"}, TypeError, "timeout_s='3'. Expected: a number"),
        ({"max_body_bytes": True}, TypeError, "max_body_bytes=True. Expected: a number"),
        ({"failure_status": 99}, ConfigError, "failure_status=99. Expected: 400 to 599"),
        ({"failure_status": 200}, ConfigError, "failure_status=200. Expected: 400 to 599"),
        ({"timeouts": 3}, TypeError, "no such option: timeouts"),
    ],
)
def test_an_option_that_makes_no_sense(options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Middleware(site, (), **options)


def test_a_folder_without_handlers_would_let_every_request_pass(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no handler is loaded, so every request would pass"):
        Middleware(site, tmp_path)


@pytest.mark.parametrize("chain", [None, {"pre": "log"}])
@pytest.mark.parametrize(("api_id", "runs"), [("orders", ["orders"]), ("others", ["all"]), ("", ["all"])])
def test_of_one_name_the_handler_of_this_api_runs_in_the_place_of_the_one_for_all(
    chain: Any, api_id: str, runs: list[str]
) -> None:
    """Where no chain was given both ran, which no gateway does."""
    ran: list[str] = []

    @Pre(name="log")
    def for_all() -> None:
        ran.append("all")

    @Pre(name="log", api_id="orders")
    def for_orders() -> None:
        ran.append("orders")

    middleware = Middleware(site, [for_all, for_orders], api_id=api_id, chain=chain)
    list(middleware({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: lambda _: None))
    assert ran == runs
