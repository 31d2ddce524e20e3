"""What is kept of names that strangers choose."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from coprocess.api import http
from coprocess.bounded import LONGEST_NAME, MOST_NAMES, kept_by_name
from coprocess.gateways.envoy import encoding, guard
from coprocess.gateways.web import http as web
from coprocess.gateways.web import wsgi_messages as wsgi


def test_short_names_are_made_once_and_so_many_are_kept() -> None:
    made: list[str] = []

    @kept_by_name
    def upper(name: str) -> str:
        made.append(name)
        return name.upper()

    assert [upper("a"), upper("a"), upper("b" * LONGEST_NAME)] == ["A", "A", "B" * LONGEST_NAME]
    assert made == ["a", "b" * LONGEST_NAME]
    for number in range(MOST_NAMES):
        upper(str(number))
    assert len(getattr(upper, "__self__")) < MOST_NAMES  # noqa: B009 - mypy knows no method
    with pytest.raises(AttributeError):
        upper(5)  # type: ignore[arg-type]  # what others pass


@pytest.mark.parametrize(
    ("function", "is_text"),
    [
        (http.canonical_name, True),
        (http.header_name, True),
        (guard.name_bytes, True),
        (guard.handlers_name, True),
        (encoding._entry_name, True),
        (web.name_of, False),
        (web._sent, True),
        (web._sent_edit, True),
        (wsgi._key_of, True),
        (wsgi._name_of, True),
    ],
)
def test_long_names_of_strangers_are_not_kept(function: Callable[[Any], Any], is_text: bool) -> None:
    """600 requests with a header of 50 kB each kept 200 MiB for good."""

    def name_of(number: int) -> Any:
        name = f"x-{number}-" + "a" * 50_000
        return name if is_text else name.encode()

    gc.collect()
    tracemalloc.start()
    try:
        for number in range(40):
            function(name_of(number))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
