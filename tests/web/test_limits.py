"""Rates and quotas on a store that several processes share, and where they cannot be kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import coprocess
from coprocess import CustomKeyCheck
from coprocess.wsgi import Middleware
from tests.free_ports import free_port
from tests.valkey import ValkeyProcess
from tests.web.servers import wsgiref_at


def hello(environ: Any, start_response: Any) -> list[bytes]:
    session = environ["coprocess"].session
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session.quota_remaining).encode()]


def limited(store: str | None, **promise: Any) -> Middleware:
    @CustomKeyCheck
    def check(request: coprocess.Request, session: coprocess.Session) -> None:
        session.allow(request.headers["Authorization"], **promise)

    return Middleware(hello, [check], store=store)


def get(address: str, key: str = "a") -> httpx.Response:
    return httpx.get(f"http://{address}/", headers={"Authorization": key})


def test_processes_with_one_store_share_a_quota_and_callers_do_not(tmp_path: Path) -> None:
    with ValkeyProcess(tmp_path, tcp=True) as valkey:
        one, two = (limited(valkey.url, quota_max=2, quota_renewal_rate_s=60) for _ in range(2))
        with wsgiref_at(one) as first, wsgiref_at(two) as second:
            passed = get(first)
            assert (passed.text, passed.headers["X-Ratelimit-Limit"]) == ("1", "2")
            assert passed.headers["X-Ratelimit-Remaining"] == "1"
            assert int(passed.headers["X-Ratelimit-Reset"]) > 0
            assert get(second).text == "0"
            refused = get(first)
            assert (refused.status_code, refused.json()) == (403, {"error": "Quota exceeded"})
            assert get(second).status_code == 403
            assert get(first, "b").text == "1"


def test_a_store_that_is_gone_lets_nobody_pass() -> None:
    with wsgiref_at(limited(f"redis://127.0.0.1:{free_port()}/0", rate=5)) as address:
        assert get(address).status_code == 500


def test_without_the_library_a_promise_is_refused_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "limits", None)
    monkeypatch.setitem(sys.modules, "limits.storage", None)
    with wsgiref_at(limited(None, rate=5)) as address:
        assert get(address).status_code == 500
    assert 'pip install "coprocess[web]"' in capsys.readouterr().out
    with wsgiref_at(limited(None)) as address:
        assert get(address).status_code == 200
