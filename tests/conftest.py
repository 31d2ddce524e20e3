"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.transport.engines import EngineChoice
from tests.server import ENGINES

#: Loads folders of handlers; their modules are forgotten when the test ends.
Load = Callable[..., loader.Loaded]


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("COPROCESS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def load() -> Iterator[Load]:
    results: list[loader.Loaded] = []

    def load(*folders: Path) -> loader.Loaded:
        results.append(loader.load(folders, HOME))
        return results[-1]

    yield load
    for loaded in results:
        loaded.forget()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineChoice:
    choice: EngineChoice = request.param
    return choice
