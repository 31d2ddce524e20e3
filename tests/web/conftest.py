"""What the tests of web apps share."""

from __future__ import annotations

import os
import sys

import pytest

#: As `tests.server.PATIENCE_S`: its module starts services, which `--quick` looks for.
_PATIENCE_S = 50.0


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is needed for plain HTTP, and each client of httpx would read all that there are, for 30 ms."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, httpx waits for 5 s, which a busy machine may take."""
    httpx = sys.modules.get("httpx")
    if httpx is not None:
        for name in ("connect", "read", "write", "pool"):
            monkeypatch.setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, name, _PATIENCE_S)
