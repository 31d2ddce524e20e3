"""From a function's signature to its call plan: what is passed, and what a return value means.

Everything is worked out when the handler is loaded; nothing is inspected while a request waits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from coprocess.api.functions import Source, describe, signature, spelled
from coprocess.api.messages import Event, Reply, Request, Response, Session
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError, HandlerFailed
from coprocess.loading.hooks import Call, Plan

_REQUEST_PARAMETERS = ("request", "session", "metadata", "spec", "state")

#: What a native handler of each type may ask for, by parameter name.
PARAMETERS: dict[HookType, tuple[str, ...]] = {
    HookType.Pre: _REQUEST_PARAMETERS,
    HookType.CustomKeyCheck: _REQUEST_PARAMETERS,
    HookType.PostKeyAuth: _REQUEST_PARAMETERS,
    HookType.Post: _REQUEST_PARAMETERS,
    HookType.Response: ("response", *_REQUEST_PARAMETERS),
    HookType.Event: ("event", "spec", "state"),
}


def native_plan(
    function: Callable[..., Any],
    hook_type: HookType,
    source: Source,
    offered: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a function whose parameters are filled by name.

    `offered` is as for `passing`; default: what every hook of this type has. Raises HandlerError where the
    function asks for what a hook of this type does not have.
    """
    refuse_generator(function, source)
    if offered is None:
        offered = {name: name for name in PARAMETERS[hook_type]}
    passed = passing(function, source, offered, f"a {hook_type.name} hook")
    return Plan(
        arguments=passed.arguments,
        accept=_accept_native,
        function=passed.function,
        names=passed.names,
    )


@dataclass(frozen=True, slots=True)
class Passing:
    """How a function is passed what it asks for by the names of its parameters."""

    arguments: Callable[[Any], tuple[Any, ...]]
    #: What is called with the arguments, where that is not the function itself.
    function: Callable[..., Any] | None
    #: The names it asks for.
    names: tuple[str, ...]


def passing(function: Callable[..., Any], source: Source, offered: Mapping[str, str], whose: str) -> Passing:
    """How to call `function`. `offered` maps the names it may ask for to attributes of the call.

    Raises HandlerError where it asks for something else, which is what `whose` does not have.
    """
    by_position: list[str] = []
    by_name: list[str] = []
    own_default = False
    for parameter in signature(function, source).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise HandlerError(
                f"{source}: {describe(function)} takes {spelled(parameter)}, which tells nothing "
                f"of what it needs. Expected: named parameters out of {', '.join(offered)} "
                "(a decorator around a handler should use functools.wraps)"
            )
        if parameter.name not in offered:
            if parameter.default is not parameter.empty:
                # It has a value of its own, and what follows it can only be passed by name.
                own_default = True
                continue
            raise HandlerError(
                f'{source}: {describe(function)} asks for "{parameter.name}", which {whose} '
                f"does not have. Expected: any of {', '.join(offered)}"
            )
        if parameter.kind is parameter.KEYWORD_ONLY or own_default:
            by_name.append(parameter.name)
        else:
            by_position.append(parameter.name)
    names = (*by_position, *by_name)
    return Passing(
        arguments=arguments_getter([offered[name] for name in names]),
        function=_passing_by_name(function, len(by_position), by_name) if by_name else None,
        names=names,
    )


def _passing_by_name(
    function: Callable[..., Any], by_position: int, by_name: list[str]
) -> Callable[..., Any]:
    """A function that takes all by position, for one that takes some by keyword only."""

    def call(*values: Any) -> Any:
        return function(*values[:by_position], **dict(zip(by_name, values[by_position:], strict=True)))

    return call


def arguments_getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that reads the attributes `names` off a call, as a tuple."""
    if not names:
        return lambda call: ()
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda call: (only(call),)
    return attrgetter(*names)


def _accept_native(call: Call, result: Any) -> None:
    if type(result) is Reply:
        call.reply(result)
        return
    refuse_coroutine(result)
    if isinstance(result, Exception):
        raise HandlerFailed(f"returned {type(result).__name__}: raise it instead")
    if not _only_arguments(result):
        raise HandlerFailed(
            f"returned {type(result).__name__}: expected nothing (edits are kept), or respond(...)"
        )


def _only_arguments(result: Any) -> bool:
    # `return request` and `return request, session` are what users of other runtimes write: the edits
    # are in the objects already.
    items = result if isinstance(result, (tuple, list)) else (result,)
    return all(item is None or isinstance(item, (Request, Response, Session, Event)) for item in items)


def refuse_generator(function: Callable[..., Any], source: Source) -> None:
    """Raises HandlerError where calling `function` would run nothing of it."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerError(f"{source}: {describe(function)} yields. Expected: a function that returns")


def refuse_coroutine(result: Any) -> None:
    """Raises HandlerFailed where a handler that is not known as async returned a coroutine."""
    if inspect.iscoroutine(result):
        result.close()
        raise HandlerFailed(
            "returned a coroutine, which nobody awaits: expected async def (a decorator around a handler "
            "should use functools.wraps)"
        )
