"""Event loops of handlers: every kind that a service may have."""

from __future__ import annotations

import asyncio

import pytest

from coprocess.runtime import loop as loop_module

KINDS = ("uvloop", "asyncio")


def use_loops_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the test where uvloop is not installed."""
    if kind == "asyncio":
        monkeypatch.setattr(loop_module, "_new_event_loop", asyncio.SelectorEventLoop)
    else:
        pytest.importorskip("uvloop")
