"""Which engine runs, and what is said of it."""

from __future__ import annotations

import pytest

from coprocess.process.config import Settings
from coprocess.process.options import connection_limits
from coprocess.transport.engines import EngineChoice, make_engine
from coprocess.transport.http2.limits import Limits
from tests.server import engine_options


def chosen(choice: EngineChoice) -> tuple[str, str]:
    engine, because = make_engine(choice, engine_options())
    try:
        return engine.name, because
    finally:
        engine.stop()


def test_auto_takes_the_fastest() -> None:
    assert chosen("auto") == ("http2", "the fastest")


@pytest.mark.parametrize("choice", ["http2", "grpcio"])
def test_what_is_asked_for_runs(choice: EngineChoice) -> None:
    assert chosen(choice) == (choice, "asked for")


def test_the_name_of_the_engine_that_is_gone_still_starts_one() -> None:
    name, because = chosen("native")
    assert name == "http2"
    assert because.startswith("engine native is gone: http2 serves in its place.")


def test_settings_of_one_connection_reach_the_engine() -> None:
    settings = Settings(http2_max_age_s=7.5, http2_idle_frames=123, http2_max_concurrent_streams=77)
    limits = connection_limits(settings)
    assert (limits.max_age_s, limits.idle_frames, limits.max_concurrent_streams) == (7.5, 123, 77)
    assert connection_limits(Settings()) == Limits()
