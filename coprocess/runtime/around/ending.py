"""The end of a request in the thread that brings it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from coprocess.loading.lifetime import Ending

if TYPE_CHECKING:
    from coprocess.runtime.service import Service


class Requests(Protocol):
    """Whose requests end."""

    @property
    def service(self) -> Service | None:
        """None where it is closed."""


class InThread(Ending):
    """At the end of a request: in the thread that closes its body, which waits for what is async."""

    def __init__(self, requests: Requests, timeout_s: float) -> None:
        self._requests = requests
        self._timeout_s = timeout_s

    async def finish(self, awaitable: Awaitable[Any]) -> Any:
        if (service := self._requests.service) is None:
            raise RuntimeError("the handlers are closed")
        future: Future[Any] = service.async_calls.spawn(_awaited(awaitable))
        try:
            return future.result(self._timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    async def block(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def run_now(steps: Coroutine[Any, Any, None]) -> None:
    """Nothing in `steps` waits for a loop."""
    try:
        steps.send(None)
    except StopIteration:
        return
    raise RuntimeError("the end of a request waits for an event loop")
