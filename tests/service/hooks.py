"""Handlers that wait, and what the service knows of them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from coprocess import Pre
from coprocess.loading.hooks import HookTable
from coprocess.runtime.call import Call
from coprocess.runtime.hook_state import HookState
from tests.objects import make_object, table_of
from tests.server import PATIENCE_S, Server


def state_of(server: Server, name: str) -> HookState[Call]:
    (state,) = [state for state in server.service.gates.states if state.hook.name == name]
    return state


def stamped(server: Server, name: str) -> str:
    return server.client.dispatch(make_object(hook_name=name)).request.set_headers["X-Stamp"]


def counts(server: Server, name: str) -> dict[str, int]:
    (found,) = [counts for _, counts in state_of(server, name).counted]
    return {
        "ran": sum(found.durations),
        "failed": found.failed,
        "timed_out": found.timed_out,
        "shed": found.shed,
    }


def blocking_table(release: threading.Event, **limits: Any) -> HookTable:
    """`slow` and `slow_async` wait for `release`; `fast` does not."""

    def declare() -> None:
        @Pre(name="slow", **limits)
        def slow(request: Any) -> None:
            release.wait(PATIENCE_S)
            request.headers["X-Stamp"] = "slow"

        @Pre(name="slow_async", **limits)
        async def slow_async(request: Any) -> None:
            while not release.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.002)
            request.headers["X-Stamp"] = "slow"

        @Pre(name="fast")
        def fast(request: Any) -> None:
            request.headers["X-Stamp"] = "fast"

    return table_of(declare)
