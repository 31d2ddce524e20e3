"""The decorators that declare handlers.

A decorator returns the function unchanged, so one function may be declared several times, called in a
test, or wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, overload

from coprocess.api import messages
from coprocess.api.declarations import Declaration, Limits, declare
from coprocess.api.functions import Source, describe, refuse_bare_wraps, source_of, source_of_decorator
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError

F = TypeVar("F", bound=Callable[..., Any])


def checked_name(function: Callable[..., Any], name: str | None, source: Source) -> str:
    """The hook's name: `name`, or the function's own. Raises HandlerError where there is neither."""
    refuse_bare_wraps(function)
    found = name if name is not None else getattr(function, "__name__", None)
    if not isinstance(found, str) or not found:
        raise HandlerError(f'{source}: {describe(function)} has no name. Expected: name="…"')
    return found


class HookDecorator:
    """`@Pre`, and `@Pre(name="…")`."""

    def __init__(self, hook_type: HookType) -> None:
        self.moment = hook_type

    def __repr__(self) -> str:
        return f"coprocess.{self.moment.name}"

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
        order: int = 0,
        body: bool | None = None,
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
        order: int = 0,
        body: bool | None = None,
        **unknown: Any,
    ) -> Any:
        """Declare a handler.

        `name` is what the API definition calls it (default: the function's name). `api_id` limits it
        to one API. `timeout` is in seconds, `concurrency` the number of calls that run at one time,
        `on_error` what a failure does: "closed" refuses the request, "open" passes it unchanged.
        `order` counts where the gateway names no order: lower runs first, equal ones as they are written.
        `body` says whether the function uses a body, where its own code does not show it.
        """

        if unknown:
            raise HandlerError(
                f"{source_of_decorator()}: @{self.moment.name} has no option {', '.join(unknown)}. "
                "Expected: name, api_id, timeout, concurrency, on_error, order, body"
            )

        def decorate(function: F) -> F:
            if isinstance(function, type) or not callable(function):
                raise HandlerError(
                    f"{source_of_decorator()}: @{self.moment.name} is on {function!r}. "
                    "Expected: a function, or an instance with __call__"
                )
            source = source_of(function)
            if api_id is not None and (not isinstance(api_id, str) or not api_id):
                raise HandlerError(f"{source}: @{self.moment.name}: api_id={api_id!r}. Expected: an API's id")
            self._check_kind(source, order, body)
            declare(
                Declaration(
                    function=function,
                    types=(self.moment,),
                    name=checked_name(function, name, source),
                    source=source,
                    style="native",
                    api_id=api_id,
                    limits=self._limits(source, timeout, concurrency, on_error),
                    order=order,
                    body=body,
                )
            )
            return function

        return decorate if function is None else decorate(function)

    def _check_kind(self, source: Source, order: object, body: object) -> None:
        if not isinstance(order, int) or isinstance(order, bool):
            raise HandlerError(f"{source}: @{self.moment.name}: order={order!r}. Expected: a whole number")
        if body not in (None, True, False):
            raise HandlerError(f"{source}: @{self.moment.name}: body={body!r}. Expected: True or False")

    def _limits(
        self, source: Source, timeout: float | None, concurrency: int | None, on_error: str | None
    ) -> Limits:
        where = f"{source}: @{self.moment.name}"
        if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):
            raise HandlerError(f"{where}: timeout={timeout!r}. Expected: seconds, more than 0")
        if concurrency is not None and not (
            _is_number(concurrency) and isinstance(concurrency, int) and concurrency >= 1
        ):
            raise HandlerError(f"{where}: concurrency={concurrency!r}. Expected: a whole number from 1 on")
        if on_error not in (None, "closed", "open"):
            raise HandlerError(f'{where}: on_error={on_error!r}. Expected: "closed" or "open"')
        if on_error == "open" and self.moment is HookType.CustomKeyCheck:
            raise HandlerError(f'{where}: on_error="open" would let everybody in. Expected: "closed"')
        return Limits(timeout_s=timeout, concurrency=concurrency, on_error=on_error)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


#: Before authentication.
Pre = HookDecorator(HookType.Pre)
#: Authenticates the caller: `session.allow(token=…)`, or `raise Reject(401, "…")`.
CustomKeyCheck = HookDecorator(HookType.CustomKeyCheck)
#: After authentication, before rate limit and quota.
PostKeyAuth = HookDecorator(HookType.PostKeyAuth)
#: The last moment before the upstream is asked.
Post = HookDecorator(HookType.Post)
# `@Response` and `@Event`: these names are the types of what their handlers are passed, too.
messages.Response._decorator = HookDecorator(HookType.Response)
messages.Event._decorator = HookDecorator(HookType.Event)


def moment_of(decorator: object) -> HookType | None:
    """The moment that `Pre`, `Response` or another of these names; None where `decorator` is none of them."""
    if isinstance(decorator, type):
        decorator = decorator.__dict__.get("_decorator")
    return decorator.moment if isinstance(decorator, HookDecorator) else None
