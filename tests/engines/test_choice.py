"""Which engine runs, and what is said of it."""

from __future__ import annotations

import pytest

from coprocess.process.config import Settings
from coprocess.process.options import connection_limits
from coprocess.transport.engines import EngineChoice, make_engine
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2_engine import Http2Engine
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


def test_two_of_the_largest_messages_are_held_in_any_case_and_no_more_streams_than_either_says() -> None:
    small = Limits(max_held_bytes=1, max_unsent_bytes=1, max_bytes_together=1, max_concurrent_streams=50)
    for streams, expected in ((20, 20), (80, 50)):
        options = engine_options(
            max_message_bytes=1000, max_concurrent_streams=streams, connection_limits=small
        )
        limits = Http2Engine(options).server.service.limits
        assert (limits.max_held_bytes, limits.max_unsent_bytes, limits.max_bytes_together) == (2000,) * 3
        assert (limits.max_message_bytes, limits.max_concurrent_streams) == (1000, expected)
