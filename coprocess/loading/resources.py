"""Resources of a load: opened before its handlers serve, closed after their last call."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import structlog

from coprocess.api.app import App, ResourceDeclaration
from coprocess.api.context import opening_app
from coprocess.api.functions import describe, is_async, signature, spelled
from coprocess.error_text import format_error, is_interrupt, is_not_ours, text_of
from coprocess.errors import CoprocessError, HandlerError
from coprocess.text import printable

log = structlog.get_logger("coprocess")

#: Starts a coroutine on the event loop of the handlers.
Spawn = Callable[[Coroutine[Any, Any, Any]], "Future[Any]"]


class _NotInTime(Exception):
    """Not TimeoutError: a resource may raise that itself."""


class ResourceError(CoprocessError):
    """A resource did not open. The text names it, and where it is declared."""


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """A declared resource, looked at."""

    name: str
    declaration: ResourceDeclaration
    #: The names of its parameters, which are resources or, of scope `call`, what handlers ask for.
    needs: tuple[str, ...]
    #: Gives the value, an awaitable of it, or a context manager of it, sync or async.
    make: Callable[..., Any]
    is_context: bool
    is_async: bool

    @property
    def is_of_app(self) -> bool:
        return self.declaration.scope == "app"


def look_at(declaration: ResourceDeclaration) -> Resource:
    """Raises HandlerError where the function's parameters cannot be filled by name."""
    function, source = declaration.function, declaration.source
    needs: list[str] = []
    for parameter in signature(function, source).parameters.values():
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise HandlerError(
                f"{source}: {describe(function)} takes {spelled(parameter)}. "
                "Expected: parameters named after what it needs"
            )
        needs.append(parameter.name)
    # What contextlib's decorators made shows by the generator within.
    within = inspect.unwrap(function)
    is_context = inspect.isgeneratorfunction(within) or inspect.isasyncgenfunction(within)
    asynchronous = inspect.isasyncgenfunction(within) or (not is_context and is_async(function))
    make: Callable[..., Any] = function
    if inspect.isgeneratorfunction(function):
        make = contextmanager(function)
    elif inspect.isasyncgenfunction(function):
        make = asynccontextmanager(function)
    return Resource(declaration.name, declaration, tuple(needs), make, is_context, asynchronous)


def in_order(resources: Mapping[str, Resource], wanted: Iterable[str]) -> list[Resource]:
    """The resources among `wanted`, and those that they are made of, each after what it needs.

    Raises HandlerError where they need each other, or one of scope `app` needs one of scope `call`.
    """
    ordered: dict[str, Resource] = {}
    on_the_way: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        resource = resources[name]
        source = resource.declaration.source
        if name in on_the_way:
            circle = " → ".join((*on_the_way[on_the_way.index(name) :], name))
            raise HandlerError(f"{source}: resources need each other: {circle}. Expected: no circle")
        on_the_way.append(name)
        for need in resource.needs:
            if (needed := resources.get(need)) is None:
                continue
            if resource.is_of_app and not needed.is_of_app:
                raise HandlerError(
                    f'{source}: resource "{name}" lives as long as the load, and needs "{need}", which lives '
                    'as long as a call. Expected: scope="call" here, or scope="app" there'
                )
            visit(need)
        on_the_way.pop()
        ordered[name] = resource

    for name in wanted:
        if name in resources:
            visit(name)
    return list(ordered.values())


class Opened:
    """Open resources, in the order in which they were opened."""

    def __init__(self) -> None:
        self._close: list[tuple[str, Callable[[float], None]]] = []

    def add(self, name: str, close: Callable[[float], None]) -> None:
        self._close.append((name, close))

    def close(self, timeout_s: float) -> None:
        """Close them, in reverse order. What goes wrong is logged, by name."""
        while self._close:
            name, close = self._close.pop()
            try:
                close(timeout_s)
            except _NotInTime:
                log.error("a resource did not close in time", resource=name, timeout_s=timeout_s)
            except BaseException as error:  # noqa: BLE001 - it is logged
                log.error(
                    "a resource failed to close", resource=name, exception=format_error(error, is_not_ours)
                )


class Resources:
    """The resources of one App. Raises HandlerError where they cannot be opened in any order."""

    def __init__(self, app: App) -> None:
        self.all = {name: look_at(declaration) for name, declaration in app.resources.items()}
        self._of_app = [each for each in in_order(self.all, self.all) if each.is_of_app]
        for resource in self._of_app:
            for need in resource.needs:
                if need not in self.all:
                    known = ", ".join(each.name for each in self._of_app if each is not resource) or "none"
                    raise HandlerError(
                        f'{resource.declaration.source}: resource "{resource.name}" asks for "{need}". '
                        f"Expected: other resources of its folder: {known}"
                    )
        self._app = app
        #: The open resources of scope `app`, as attributes.
        self.values = SimpleNamespace()
        #: What tests put in the place of resources, by name.
        self.overrides: dict[str, Any] = {}
        self._replaced: dict[str, Any] = {}
        self._opened_now = Opened()

    def open(self, spawn: Spawn, timeout_s: float) -> None:
        """Open those of scope `app`. Raises ResourceError where one does not; none is open then."""
        opened = self._opened_now = Opened()
        for resource in self._of_app:
            if resource.name in self.overrides:
                setattr(self.values, resource.name, self.overrides[resource.name])
                continue
            try:
                value, close = self._opened(resource, spawn, timeout_s)
            except BaseException as error:
                opened.close(timeout_s)
                if is_interrupt(error) or isinstance(error, ResourceError):
                    raise
                what = printable(f"{type(error).__name__}: {text_of(error)}")
                raise ResourceError(
                    f'{resource.declaration.source}: resource "{resource.name}" did not open: {what}'
                ) from error
            setattr(self.values, resource.name, value)
            if close is not None:
                opened.add(resource.name, close)

    @property
    def has_async(self) -> bool:
        """Whether any lives on the event loop."""
        return any(each.is_async for each in self._of_app)

    def take_open(self) -> Opened:
        """What is open now, for whoever closes it: when it was, these may be open anew."""
        opened, self._opened_now = self._opened_now, Opened()
        return opened

    def forget(self) -> None:
        """Let go of what is open, for a process that was forked from the one that closes it."""
        self._opened_now = Opened()
        vars(self.values).clear()

    def override(self, name: str, value: Any) -> None:
        """Put `value` in the place of the resource `name`, for calls from now on. Raises KeyError."""
        if name not in self.all:
            raise KeyError(f"no resource {name!r}; there are: {', '.join(self.all) or 'none'}")
        self.overrides[name] = value
        if self.all[name].is_of_app:
            self._replaced.setdefault(name, getattr(self.values, name, None))
            setattr(self.values, name, value)

    def restore(self) -> None:
        """Undo all that `override` did."""
        self.overrides.clear()
        vars(self.values).update(self._replaced)
        self._replaced.clear()

    def _opened(
        self, resource: Resource, spawn: Spawn, timeout_s: float
    ) -> tuple[Any, Callable[[float], None] | None]:
        arguments = {name: getattr(self.values, name) for name in resource.needs}
        try:
            if resource.is_async and resource.is_context:
                with self._as_current_app():
                    manager = resource.make(**arguments)
                held = _Held(manager, spawn, self._app)
                return held.open(timeout_s), held.close
            if resource.is_async:
                made = self._awaited(resource.make, arguments)
                return _result(spawn(made), timeout_s), None
            made = _in_time(self._in_app(lambda: resource.make(**arguments)), timeout_s)
            if not resource.is_context:
                return made, None
            leave = self._in_app(lambda: made.__exit__(None, None, None))
            value = _in_time(self._in_app(made.__enter__), timeout_s, late=leave)
        except _NotInTime:
            raise ResourceError(
                f'{resource.declaration.source}: resource "{resource.name}" did not open in {timeout_s:g} s'
            ) from None
        return value, lambda limit_s: _in_time(leave, limit_s)

    @contextmanager
    def _as_current_app(self) -> Iterator[None]:
        token = opening_app.set(self._app)
        try:
            yield
        finally:
            opening_app.reset(token)

    def _in_app(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """`function`, for another thread, such that `current_app` is the App of these resources."""

        def run() -> Any:
            with self._as_current_app():
                return function()

        return run

    async def _awaited(self, make: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        opening_app.set(self._app)  # For this task.
        return await make(**arguments)


class _Held:
    """An async context manager that one task enters and leaves, as those that hold tasks demand."""

    def __init__(self, manager: AbstractAsyncContextManager[Any], spawn: Spawn, app: App) -> None:
        self._manager = manager
        self._app = app
        self._spawn = spawn
        self._opened: Future[Any] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._done: Future[Any] | None = None

    def open(self, timeout_s: float) -> Any:
        self._done = self._spawn(self._hold())
        return _result(self._opened, timeout_s, also=self._done)

    async def _hold(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        opening_app.set(self._app)  # For this task.
        try:
            async with self._manager as value:
                self._opened.set_result(value)
                await self._end.wait()
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    def close(self, timeout_s: float) -> None:
        assert self._loop and self._end and self._done  # noqa: PT018, S101 - it is open
        self._loop.call_soon_threadsafe(self._end.set)
        _result(self._done, timeout_s)


def _result(future: Future[Any], timeout_s: float, also: Future[Any] | None = None) -> Any:
    """What `future` gives. Raises _NotInTime, and cancels it or `also`, where that takes longer."""
    if not wait([future], timeout_s).done:
        (also or future).cancel()
        raise _NotInTime
    return future.result()


def _in_time(function: Callable[[], Any], timeout_s: float, late: Callable[[], object] = lambda: None) -> Any:
    """What `function` returns or raises; _NotInTime where it takes longer.

    It runs on then; where it ends after all, so does `late`.
    """
    outcome: Future[Any] = Future()
    outcome.set_running_or_notify_cancel()  # Nobody can cancel a function.
    given_up = threading.Event()

    def run() -> None:
        try:
            result = function()
            if given_up.is_set():
                late()
        except BaseException as error:  # noqa: BLE001 - passed on
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    try:
        threading.Thread(target=run, name="resource", daemon=True).start()
    except RuntimeError:
        if threading.main_thread().is_alive():
            raise
        # The interpreter ends: from Python 3.12 on no thread is started then, so nothing bounds this but who
        # stops the process.
        run()
    try:
        return _result(outcome, timeout_s)
    except _NotInTime:
        given_up.set()
        raise
