"""Handlers that wait, and what the service knows of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc

from coprocess import Pre
from coprocess.gateways.tyk.wire import Object
from coprocess.loading.hooks import HookTable
from coprocess.runtime.call import Call
from coprocess.runtime.hook_state import HookState
from tests.objects import make_object, table_of
from tests.server import PATIENCE_S, Server, fails, status_of


def state_of(server: Server, name: str) -> HookState[Call]:
    (state,) = [state for state in server.service.gates.states if state.hook.name == name]
    return state


def stamped(server: Server, name: str) -> str:
    return server.client.dispatch(make_object(hook_name=name)).request.set_headers["X-Stamp"]


def is_stamped(server: Server, name: str) -> bool:
    """Of a hook with a short limit, which passes also where the machine stands still: to be asked again."""
    call = server.client.future(make_object(hook_name=name))
    error = call.exception(timeout=PATIENCE_S)
    if error is not None:
        assert status_of(error)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        return False
    return Object.FromString(call.result()).request.set_headers["X-Stamp"] == name


def ends_late(server: Server, name: str, has_begun: Callable[[], bool]) -> None:
    """A call of a client whose deadline passes once the handler has begun, and not before."""
    for timeout_s in (0.2, 2.0, PATIENCE_S / 2):
        code, _ = fails(lambda s=timeout_s: server.client.dispatch(make_object(hook_name=name), timeout_s=s))  # type: ignore[misc]  # a default is no parameter
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        if has_begun():
            return
    raise AssertionError("it has not begun")


def counts(server: Server, name: str) -> dict[str, int]:
    (found,) = [counts for _, counts in state_of(server, name).counted]
    return {
        "ran": sum(found.durations),
        "failed": found.failed,
        "timed_out": found.timed_out,
        "shed": found.shed,
    }


def blocking_table(
    release: threading.Event, begun: threading.Event | None = None, **limits: Any
) -> HookTable:
    """`slow` and `slow_async` wait for `release`; `fast` does not. `begun` is set by `slow`."""

    def declare() -> None:
        @Pre(name="slow", **limits)
        def slow(request: Any) -> None:
            if begun is not None:
                begun.set()
            release.wait(PATIENCE_S)
            request.headers["X-Stamp"] = "slow"

        @Pre(name="slow_async", **limits)
        async def slow_async(request: Any) -> None:
            while not release.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.002)
            request.headers["X-Stamp"] = "slow"

        @Pre(name="fast", timeout=PATIENCE_S)
        def fast(request: Any) -> None:
            request.headers["X-Stamp"] = "fast"

    return table_of(declare)
