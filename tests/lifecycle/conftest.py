from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from coprocess.loading.hooks import HookTable
from coprocess.loading.resources import Spawn
from tests.conftest import Load
from tests.lifecycle.programs import Opened
from tests.loading import good, write


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts coroutines on an event loop that runs in a thread, as the handlers' does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def open_program(load: Load, spawn: Spawn) -> Iterator[Opened]:
    opened = []

    def open_it(folder: Path, files: Mapping[str, str]) -> HookTable:
        loaded = load(write(folder, files))
        loaded.open(spawn, 5)
        opened.append(loaded)
        return good(loaded)

    yield open_it
    for loaded in opened:
        loaded.close(5)
