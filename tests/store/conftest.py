"""A real server, and a store on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coprocess.store import Store
from tests.store.stores import opened
from tests.valkey import ValkeyProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path / "server") as process:
        yield process


@pytest.fixture
def store(server: ValkeyProcess) -> Iterator[Store]:
    with opened(server.url) as store:
        yield store
