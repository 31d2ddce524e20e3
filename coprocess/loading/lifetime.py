"""A request that several calls are of: resources of scope `call` that they share, and teardown at its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import structlog

from coprocess.api.context import current_call
from coprocess.error_text import format_error, is_not_ours
from coprocess.errors import HandlerFailed

log = structlog.get_logger("coprocess")

Manager = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Teardown:
    """A teardown as the calls of one hook have it. `place`: among those of its App."""

    place: int
    run: Callable[[Any], Any]
    is_async: bool


@dataclass(frozen=True, slots=True, eq=False)
class Teardowns:
    """Those of one hook, in order of declaration. `in_place`: sync ones run where the request ends."""

    app: object
    all: tuple[Teardown, ...]
    in_place: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    name: str
    manager: Manager
    #: Whether, if it is sync, it is closed where the request ends, and not in a thread.
    in_place: bool
    call: Any


class Ending:
    """How code runs at the end of a request. Both give up after a time."""

    async def finish(self, awaitable: Awaitable[Any]) -> Any:
        """Wait for `awaitable`."""
        raise NotImplementedError

    async def block(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function`, which may block."""
        raise NotImplementedError


class Lifetime:
    """What belongs to one request. Its calls run one after the other, but some may be given up and run on."""

    __slots__ = ("_calls", "_lock", "_opened", "_running", "_values", "error", "is_over")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[int, SimpleNamespace] = {}
        self._opened: list[_Open] = []
        #: The last call of each hook, by the hook's teardowns.
        self._calls: dict[Teardowns, Any] = {}
        #: Those of `_calls` that have not ended. A call that is given up stays.
        self._running: set[Any] = set()
        #: What made a call of the request fail first, or the app.
        self.error: BaseException | None = None
        self.is_over = False

    def values_of(self, of_app: SimpleNamespace) -> SimpleNamespace:
        """The resources of a request of the App whose own are `of_app`; with those."""
        values = self._values.get(id(of_app))
        if values is None:
            values = self._values[id(of_app)] = SimpleNamespace(**vars(of_app))
        return values

    def keep(self, name: str, manager: Manager, in_place: bool, call: Any) -> None:
        """Close it at the end. Raises HandlerFailed where that has come: it is the caller's to close."""
        with self._lock:
            if self.is_over:
                raise HandlerFailed(f"opened the resource {name} after its request had ended")
            self._opened.append(_Open(name, manager, in_place, call))

    def note(self, error: BaseException) -> None:
        """The request has failed."""
        if self.error is None:
            self.error = error

    def began_call(self, call: Any, teardowns: Teardowns) -> None:
        """A call begins whose teardowns are to run at the end: also where it has been given up by then."""
        self._calls[teardowns] = call
        self._running.add(call)

    def ended_call(self, call: Any, error: BaseException | None) -> None:
        if error is not None and self.error is None:
            self.error = error
        self._running.discard(call)

    def end(self, ending: Ending) -> Coroutine[Any, Any, None] | None:
        """What runs the teardowns and closes the resources; None where there is nothing to do, or it is done.

        Nothing that fails there is raised: it is logged.
        """
        with self._lock:
            if self.is_over:
                return None
            self.is_over = True
        return self._end(ending) if self._calls or self._opened else None

    async def _end(self, ending: Ending) -> None:
        if self.error is None and self._running:
            self.error = HandlerFailed("a handler was given up before it had ended")
        error = self.error
        for call, teardown, in_place in self._teardowns():
            call.error = error
            with _ending(call, "a teardown failed"):
                if teardown.is_async or in_place:
                    result = teardown.run(call)
                else:
                    result = await ending.block(teardown.run, call)
                if hasattr(result, "__await__"):
                    await ending.finish(result)
        self._calls.clear()
        self._running.clear()
        told = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        while self._opened:
            opened = self._opened.pop()
            manager = opened.manager
            with _ending(opened.call, "a resource of a request failed to close", error, resource=opened.name):
                if isinstance(manager, AbstractAsyncContextManager):
                    await ending.finish(manager.__aexit__(*told))
                elif opened.in_place:
                    manager.__exit__(*told)
                else:
                    await ending.block(manager.__exit__, *told)
        self._values.clear()

    def _teardowns(self) -> list[tuple[Any, Teardown, bool]]:
        """Each once, by the last call that it is for, in reverse order of declaration."""
        found: dict[object, dict[int, tuple[Any, Teardown, bool]]] = {}
        for teardowns, call in list(self._calls.items()):
            of_app = found.setdefault(teardowns.app, {})
            of_app.update((each.place, (call, each, teardowns.in_place)) for each in teardowns.all)
        return [
            of_app[place] for of_app in reversed(found.values()) for place in sorted(of_app, reverse=True)
        ]


@contextmanager
def _ending(call: Any, failure: str, passed_on: BaseException | None = None, **named: Any) -> Iterator[None]:
    """Code of `call` runs within. What it raises is logged, but for what it only passes on."""
    token = current_call.set(call)
    try:
        yield
    except asyncio.CancelledError:
        # What follows still runs, each up to where it waits.
        return
    except BaseException as error:  # noqa: BLE001 - it is logged
        if error is not passed_on:
            log.error(failure, exception=format_error(error, is_not_ours), **named)
    finally:
        # ValueError: another context, as the collector closes what was left of a loop that was given up.
        with suppress(ValueError):
            current_call.reset(token)
