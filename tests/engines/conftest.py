"""A service on each engine, and what its handlers saw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coprocess.transport.engines import EngineChoice
from tests.engines.hooks import Handlers
from tests.server import (
    Server,
    serving,
)


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    made = Handlers()
    yield made
    made.release.set()


@pytest.fixture
def server(engine: EngineChoice, handlers: Handlers) -> Iterator[Server]:
    with serving(handlers.table(), engine=engine) as running:
        yield running
        handlers.release.set()
