"""PDK calls of an async phase, each until it is begun: one that is never awaited must not pass for made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any

from coprocess.errors import HandlerFailed
from coprocess.gateways.kong.answers import PDKException, StepFailed
from coprocess.gateways.kong.methods import Method


class AwaitedCalls:
    """What asks Kong in one async phase."""

    __slots__ = ("_ask", "_not_begun")

    def __init__(self, ask: Callable[[Method, tuple[Any, ...]], Awaitable[Any]]) -> None:
        self._ask = ask
        #: By an object that each call has to itself: threads may call, too.
        self._not_begun: dict[object, tuple[Method, Coroutine[Any, Any, Any]]] = {}

    def __call__(self, method: Method, arguments: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
        mark = object()
        made = self._made(mark, method, arguments)
        self._not_begun[mark] = method, made
        return made

    async def _made(self, mark: object, method: Method, arguments: tuple[Any, ...]) -> Any:
        self._not_begun.pop(mark, None)
        try:
            return await self._ask(method, arguments)
        except StepFailed as error:
            raise PDKException(f"exception from {method.name}: {error}") from None

    async def expect_begun(self) -> None:
        """At the end of a phase's code. Raises HandlerFailed where it has not awaited a call."""
        if self._not_begun:
            await asyncio.sleep(0)  # Tasks that are made, and are to begin, begin.
        for method, made in list(self._not_begun.values()):
            if getcoroutinestate(made) == CORO_CREATED:  # Else its task was cancelled.
                raise HandlerFailed(
                    f"failed: {method.name} was not awaited. Expected: await {method.name}(…)"
                )

    def close(self) -> None:
        """Have Python say nothing of those that are not awaited."""
        while self._not_begun:
            self._not_begun.popitem()[1][1].close()
