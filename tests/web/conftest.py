"""What the tests of web apps share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is needed for plain HTTP, and each client of httpx would read all that there are, for 30 ms."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
