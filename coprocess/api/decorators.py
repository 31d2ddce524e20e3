"""The decorators that declare handlers, and how the loader gets to know of them.

A decorator returns the function unchanged, so one function may be declared several times, called in a
test, or wrapped. What a handler module declares goes to the loader that runs it, so that two functions of
one name are both found. What any other code declares is kept on the function, so that one imported from
an installed library is found at every load, and not only at the one that imports the library.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from coprocess.api import messages
from coprocess.errors import HandlerError
from coprocess.loading.hooks import Hook, HookType, Limits, Plan, Source
from coprocess.loading.plan import describe, is_async, native_plan

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__coprocess_declarations__"


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """What a decorator said of a function. `hooks` checks it, after its module has run."""

    function: Callable[..., Any]
    types: tuple[HookType, ...]
    name: str
    source: Source
    plan: Callable[[Callable[..., Any], HookType, Source], Plan]
    style: str
    api_id: str | None = None
    limits: Limits = field(default_factory=Limits)
    #: The names of the module whose code declared it.
    namespace: Mapping[str, Any] = field(default_factory=lambda: _module_that_runs())
    #: Of `types`, those whose handlers take other arguments than this function does.
    misfits: tuple[HookType, ...] = ()

    def hooks(self, bundle: frozenset[str] = frozenset(), version: str = "") -> list[Hook]:
        """The hooks that it makes. Raises HandlerError, naming file, line and what was expected."""
        plans = {hook_type: self.plan(self.function, hook_type, self.source) for hook_type in self.types}
        return [
            Hook(
                type=hook_type,
                name=self.name,
                function=plan.function or self.function,
                plan=plan,
                is_async=is_async(self.function),
                style=self.style,
                source=self.source,
                api_id=self.api_id,
                bundle=bundle,
                any_type=hook_type in self.misfits or len(self.types) - len(self.misfits) > 1,
                misfit=hook_type in self.misfits,
                limits=self.limits,
                version=version,
            )
            for hook_type, plan in plans.items()
        ]


@dataclass(frozen=True, slots=True)
class _Collection:
    package: str
    declarations: list[Declaration]


_collection: ContextVar[_Collection | None] = ContextVar("coprocess_declarations", default=None)


@contextmanager
def collecting(package: str = "") -> Iterator[list[Declaration]]:
    """Collect what decorators declare within, in modules whose name begins so."""
    declarations: list[Declaration] = []
    token = _collection.set(_Collection(package, declarations))
    try:
        yield declarations
    finally:
        _collection.reset(token)


def declare(declaration: Declaration) -> None:
    """Make `declaration` known to the loader."""
    collection = _collection.get()
    if collection is not None and str(declaration.namespace.get("__name__")).startswith(collection.package):
        # Not on the function too: it may be a library's, which outlives the module that declares it.
        collection.declarations.append(declaration)
        return
    try:
        marks = vars(declaration.function).setdefault(MARK, [])
    except TypeError:  # An object without a __dict__. It could be found in no other way.
        return
    marks.append(declaration)


def _module_that_runs() -> Mapping[str, Any]:
    """The names of the module that is being imported now; of none, where none is.

    Not the caller's: a library may declare handlers when a handler module calls it.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return frame.f_globals
        frame = frame.f_back
    return {}


def source_of(function: Callable[..., Any]) -> Source:
    """Where `function` is written; for an instance, where its class is."""
    target: Any = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    if (code := getattr(target, "__code__", None)) is None:
        code = getattr(inspect.unwrap(type(target).__call__), "__code__", None)
    if code is None:
        return Source(Path("unknown"), 0)
    return Source(Path(code.co_filename), code.co_firstlineno)


def source_of_decorator() -> Source:
    """Where the decorator stands that is being called: in the nearest code outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("coprocess."):
        frame = frame.f_back
    return Source(Path(frame.f_code.co_filename), frame.f_lineno)


def checked_name(function: Callable[..., Any], name: str | None, source: Source) -> str:
    """The hook's name: `name`, or the function's own. Raises HandlerError where there is neither."""
    found = name if name is not None else getattr(function, "__name__", None)
    if not isinstance(found, str) or not found:
        raise HandlerError(f'{source}: {describe(function)} has no name. Expected: name="…"')
    return found


class _HookDecorator:
    """`@Pre`, and `@Pre(name="…")`."""

    def __init__(self, hook_type: HookType) -> None:
        self._type = hook_type

    def __repr__(self) -> str:
        return f"coprocess.{self._type.name}"

    @overload
    def __call__(self, function: F, /) -> F: ...

    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        api_id: str | None = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        on_error: str | None = None,
    ) -> Callable[[F], F]: ...

    def __call__(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        api_id: str | None = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        on_error: str | None = None,
        **unknown: Any,
    ) -> Any:
        """Declare a handler.

        `name` is what the API definition calls it (default: the function's name). `api_id` limits it
        to one API. `timeout` is in seconds, `concurrency` the number of calls that run at one time,
        `on_error` what a failure does: "closed" refuses the request, "open" passes it unchanged.
        """

        if unknown:
            raise HandlerError(
                f"{source_of_decorator()}: @{self._type.name} has no option {', '.join(unknown)}. "
                "Expected: name, api_id, timeout, concurrency, on_error"
            )

        def decorate(function: F) -> F:
            if isinstance(function, type) or not callable(function):
                raise HandlerError(
                    f"{source_of_decorator()}: @{self._type.name} is on {function!r}. "
                    "Expected: a function, or an instance with __call__"
                )
            source = source_of(function)
            if api_id is not None and (not isinstance(api_id, str) or not api_id):
                raise HandlerError(f"{source}: @{self._type.name}: api_id={api_id!r}. Expected: an API's id")
            declare(
                Declaration(
                    function=function,
                    types=(self._type,),
                    name=checked_name(function, name, source),
                    source=source,
                    plan=native_plan,
                    style="native",
                    api_id=api_id,
                    limits=self._limits(source, timeout, concurrency, on_error),
                )
            )
            return function

        return decorate if function is None else decorate(function)

    def _limits(
        self, source: Source, timeout: float | None, concurrency: int | None, on_error: str | None
    ) -> Limits:
        where = f"{source}: @{self._type.name}"
        if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):
            raise HandlerError(f"{where}: timeout={timeout!r}. Expected: seconds, more than 0")
        if concurrency is not None and not (
            _is_number(concurrency) and isinstance(concurrency, int) and concurrency >= 1
        ):
            raise HandlerError(f"{where}: concurrency={concurrency!r}. Expected: a whole number from 1 on")
        if on_error not in (None, "closed", "open"):
            raise HandlerError(f'{where}: on_error={on_error!r}. Expected: "closed" or "open"')
        if on_error == "open" and self._type is HookType.CustomKeyCheck:
            raise HandlerError(f'{where}: on_error="open" would let everybody in. Expected: "closed"')
        return Limits(timeout_s=timeout, concurrency=concurrency, on_error=on_error)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


#: Before authentication.
Pre = _HookDecorator(HookType.Pre)
#: Authenticates the caller: `session.allow(token=…)`, or `raise Reject(401, "…")`.
CustomKeyCheck = _HookDecorator(HookType.CustomKeyCheck)
#: After authentication, before rate limit and quota.
PostKeyAuth = _HookDecorator(HookType.PostKeyAuth)
#: The last moment before the upstream is asked.
Post = _HookDecorator(HookType.Post)
# `@Response` and `@Event`: these names are the types of what their handlers are passed, too.
messages.Response._decorator = _HookDecorator(HookType.Response)
messages.Event._decorator = _HookDecorator(HookType.Event)
