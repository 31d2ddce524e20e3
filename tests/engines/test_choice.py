"""Which engine runs, and what is said of it."""

from __future__ import annotations

import sys

import pytest

from coprocess.errors import ConfigError
from coprocess.transport.engines import EngineChoice, make_engine
from tests.server import engine_options


def chosen(choice: EngineChoice) -> tuple[str, str]:
    engine, because = make_engine(choice, engine_options())
    try:
        return engine.name, because
    finally:
        engine.stop()


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)


def test_auto_takes_the_fastest() -> None:
    assert chosen("auto") == ("native", "installed, and fastest")


@pytest.mark.parametrize("choice", ["native", "grpcio"])
def test_what_is_asked_for_runs(choice: EngineChoice) -> None:
    assert chosen(choice) == (choice, "asked for")


@pytest.mark.usefixtures("without_native")
def test_auto_does_without_the_native_engine() -> None:
    assert chosen("auto") == ("grpcio", "pygrpc-native is not installed")


@pytest.mark.usefixtures("without_native")
def test_the_native_engine_that_is_not_installed() -> None:
    with pytest.raises(ConfigError, match=r"^engine native: pygrpc-native is not installed\. Expected: pip"):
        chosen("native")
